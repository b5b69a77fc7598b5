"""Slots that processes share through their database."""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from crowdsafe.store.options import Call, combined_by
from crowdsafe.store.stores import AsyncStore, Store
from crowdsafe.traffic.arguments import check_store
from crowdsafe.traffic.keys import check_key, check_name
from crowdsafe.traffic.rows import Locked, SlotRow, drop_idle, lock_rows, save_rows, write_async
from crowdsafe.traffic.slots.leases import hold
from crowdsafe.traffic.slots.slot import Slot, check_lease, check_limit, check_wait

__all__ = ["DatabaseSlots"]

_TIDY_EVERY = 500

_table: Any = SlotRow.__table__


@dataclass(frozen=True, slots=True)
class _Step:
    """What one holder wants of a key's leases."""

    what: Literal["take", "renew", "give"]
    key: str
    id: str


class _Holders:
    """A key's row: when the lease of each holder ends, in microseconds."""

    def __init__(self, row: Locked, limit: int, lease_us: int) -> None:
        self._limit = limit
        self._ends_us = row.now_us + lease_us
        found: dict[str, int] = json.loads(row.state or b"{}")
        # No lease ends later than one that begins now, unless the clock has gone back.
        self._ends = {id: min(end, self._ends_us) for id, end in found.items() if end > row.now_us}
        self.changed = False

    def take(self, id: str) -> bool:
        if id not in self._ends and len(self._ends) >= self._limit:
            return False
        self._ends[id] = self._ends_us
        self.changed = True
        return True

    def renew(self, id: str) -> bool:
        return id in self._ends and self.take(id)

    def give(self, id: str) -> bool:
        self.changed = True
        return self._ends.pop(id, None) is not None

    def packed(self) -> tuple[bytes, int]:
        return json.dumps(self._ends).encode(), max(self._ends.values(), default=0)


class _StepsTogether:
    """Many steps on slots of one name: their rows are locked, changed and stored together."""

    def lane(self, call: Call) -> Hashable | None:
        return ("slots", call.args[0])

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        name, limit, lease_us, _ = calls[0].args
        steps: list[_Step] = [call.args[3] for call in calls]
        rows = lock_rows(session, _table, name, {step.key for step in steps})
        holders = {key: _Holders(row, limit, lease_us) for key, row in rows.items()}
        done = [getattr(holders[step.key], step.what)(step.id) for step in steps]
        changed = {key: of.packed() for key, of in holders.items() if of.changed}
        save_rows(session, _table, name, changed)
        if random.randrange(_TIDY_EVERY) < len(changed):
            drop_idle(session, _table, name, rows[steps[0].key].now_us)
        return done


_together = _StepsTogether()


@combined_by(_together)
def _do(session: Session, name: str, limit: int, lease_us: int, step: _Step) -> bool:
    done: bool = _together.run(session, [Call((name, limit, lease_us, step), {})])[0]
    return done


class DatabaseSlots:
    """At most ``limit`` (1 to 1000) holders of a key at a time, over all processes of a database.

    ``async with slots.hold(key) as slot:`` takes a slot, or raises NoSlot at once; with ``wait_s``
    it asks again until so long. A slot is a lease of ``lease_s`` seconds, renewed while it is
    held; the lease of a holder that was killed ends by itself.

    Holds: never more than ``limit`` leases of a key at a time; a slot comes back when its block
    ends, also by a cancel, and after ``lease_s`` when its process was killed; a holder whose lease
    ended under it (frozen, or the database away) is told by ``slot.lost`` and ``slot.check()``
    before anyone else is given the slot, unless clocks jump ahead.
    Does not hold: that a holder who was told stops; the order of those who wait.
    Proved by ``tests/traffic/test_slots_shared.py``, ``tests/traffic/test_slots_database.py``,
    ``tests/traffic/test_slots_model.py``.

    ``name`` (1 to 80 characters) tells slots apart: those of one name need one limit and lease.
    ``lease_s`` is 0.1 to 3600. Raises ConfigError.
    """

    def __init__(
        self, store: AsyncStore | Store, limit: int, *, name: str, lease_s: float = 30.0
    ) -> None:
        self.limit = check_limit(limit)
        self.name = check_name(name)
        self.lease_s = check_lease(lease_s)
        self._store = check_store("DatabaseSlots", store)

    def hold(self, key: str, *, wait_s: float = 0.0) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot of ``key`` (1 to 200 characters) for the block; wait at most ``wait_s`` (up
        to 300) seconds for it.

        Raises NoSlot, InvalidInput, and what ``store.write`` raises when the database is away.
        """
        return hold(self, check_key(key), check_wait(wait_s))

    async def take(self, key: str, id: str) -> bool:
        """Begin a lease, by hand; false when all are held. ``hold`` does this and the rest."""
        return await self._step(_Step("take", key, id))

    async def renew(self, key: str, id: str) -> bool:
        """Begin the lease anew; false when it has ended."""
        return await self._step(_Step("renew", key, id))

    async def give(self, key: str, id: str) -> None:
        """End the lease."""
        await self._step(_Step("give", key, id))

    async def _step(self, step: _Step) -> bool:
        lease_us = round(self.lease_s * 1_000_000)
        return await write_async(self._store, _do, self.name, self.limit, lease_us, step)
