"""The sweep: reservations whose time is over give their stock back by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from crowdsafe.errors import CrowdsafeError
from crowdsafe.store import AsyncStore
from crowdsafe.systems.factory.operations.stock import due_reservations, expire_reservation

log = logging.getLogger("crowdsafe.factory")

EVERY_S = 5.0
BATCH_MAX = 100


@dataclass(frozen=True, slots=True)
class Plant:
    """The actor of what nobody asked for."""

    username: str = "plant"
    name: str = "The plant"


async def sweep_once(store: AsyncStore, *, limit: int = BATCH_MAX) -> int:
    """Expire at most `limit` overdue reservations, a transaction each; how many there were.

    Holds: each gives its stock back exactly once, in any number of processes that sweep at once,
    and whenever one of them is killed. Does not hold: the moment; a reservation lasts at least
    its time, and ends with the next sweep of any process.
    """
    expired = 0
    for allocation_id in await store.read(due_reservations, limit=limit):
        done = await store.write(expire_reservation, allocation_id=allocation_id, actor=Plant())
        expired += bool(done)
    return expired


async def sweep_for_ever(store: AsyncStore, *, every_s: float = EVERY_S) -> None:
    """Sweep every `every_s` seconds until cancelled; a database that is away is tried again."""
    while True:
        try:
            while await sweep_once(store) == BATCH_MAX:
                pass
        except CrowdsafeError as error:
            log.warning("the sweep of reservations is put off: %s", error)
        except Exception:  # one failed sweep must not end all later ones
            log.exception("the sweep of reservations failed and is tried again")
        await asyncio.sleep(every_s)


@asynccontextmanager
async def sweeping(store: AsyncStore, *, every_s: float = EVERY_S) -> AsyncIterator[None]:
    """Sweep for the length of an application's lifespan."""
    task = asyncio.create_task(sweep_for_ever(store, every_s=every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
