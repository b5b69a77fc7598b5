"""Holding a slot by a lease: taken, renewed while it is held, given back however the block ends."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

from crowdsafe.traffic.slots.slot import Slot, no_slot

__all__ = ["Leases", "hold"]

log = logging.getLogger("crowdsafe.traffic")

RELEASE_S_MAX = 5.0
_POLL_S = (0.02, 0.5)
_background: set[asyncio.Task[None]] = set()


class Leases(Protocol):
    """Where leases are kept. ``take`` is true also when this id holds one already; ``renew`` is
    false when the lease has ended; ``give`` may be repeated."""

    limit: int
    lease_s: float

    async def take(self, key: str, id: str) -> bool: ...
    async def renew(self, key: str, id: str) -> bool: ...
    async def give(self, key: str, id: str) -> None: ...


@asynccontextmanager
async def hold(leases: Leases, key: str, wait_s: float) -> AsyncIterator[Slot]:
    """A slot for the block."""
    slot = await _take(leases, key, wait_s)
    keeper = asyncio.create_task(_keep(leases, slot))
    try:
        yield slot
    finally:
        keeper.cancel()
        await asyncio.shield(_in_background(_give(leases, slot)))


async def _take(leases: Leases, key: str, wait_s: float) -> Slot:
    deadline = time.monotonic() + wait_s
    slot = Slot(key, uuid.uuid4().hex)
    pause_s = _POLL_S[0]
    while True:
        slot.renewed(time.monotonic() + leases.lease_s)
        taking = asyncio.ensure_future(leases.take(key, slot.id))
        try:
            if await asyncio.shield(taking):
                return slot
        except BaseException:
            _in_background(_undo(taking, leases, slot))
            raise
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise no_slot(leases.limit)
        await asyncio.sleep(min(left_s, random.uniform(pause_s / 2, pause_s)))
        pause_s = min(pause_s * 1.5, _POLL_S[1])


async def _keep(leases: Leases, slot: Slot) -> None:
    """Renew the lease at each third of it; tell the holder when that came too late."""
    pause_s = leases.lease_s / 3
    while True:
        await asyncio.sleep(pause_s)
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(slot.sure_until - asked_at):
                kept = await leases.renew(slot.key, slot.id)
        except Exception as error:
            kept = time.monotonic() < slot.sure_until
            log.warning("the lease of a slot of %r was not renewed: %r", slot.key, error)
            pause_s = max(0.01, min(leases.lease_s / 10, slot.sure_until - time.monotonic()))
        else:
            pause_s = leases.lease_s / 3
            if kept:
                slot.renewed(asked_at + leases.lease_s)
        if not kept:
            log.warning("a holder of a slot of %r has lost it", slot.key)
            slot.lost.set()
            return


async def _undo(taking: asyncio.Future[bool], leases: Leases, slot: Slot) -> None:
    """Give back what a call took whose caller has gone, or that failed halfway."""
    await asyncio.wait([taking])
    if taking.cancelled() or taking.exception() is not None or taking.result():
        await _give(leases, slot)


async def _give(leases: Leases, slot: Slot) -> None:
    try:
        async with asyncio.timeout(RELEASE_S_MAX):
            await leases.give(slot.key, slot.id)
    except Exception as error:
        log.warning(
            "a slot of %r comes back only when its lease ends, in %g s: %r",
            slot.key,
            leases.lease_s,
            error,
        )


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that goes on when its caller is cancelled."""
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
