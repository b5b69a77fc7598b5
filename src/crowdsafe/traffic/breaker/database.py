"""A breaker whose circuit is a row that all processes share."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Double, Integer, String, func, literal, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from crowdsafe.store.options import write
from crowdsafe.store.stores import AsyncStore
from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import Json
from crowdsafe.traffic.arguments import check_async_store
from crowdsafe.traffic.breaker.circuit import Circuit, Decide
from crowdsafe.traffic.breaker.guard import Breaker
from crowdsafe.traffic.breaker.settings import BreakerSettings, check_settings
from crowdsafe.writes.rows import upsert

__all__ = ["BreakerRow", "DatabaseBreaker"]

T = TypeVar("T")


class BreakerRow(CrowdsafeBase):
    """One circuit; moments are seconds since 1970 of the database's clock."""

    __tablename__ = "crowdsafe_breakers"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    failed_at: Mapped[list[float]] = mapped_column(Json)
    open_until: Mapped[float | None] = mapped_column(Double)
    opened: Mapped[int] = mapped_column(Integer)
    probe: Mapped[str | None] = mapped_column(String(32))
    probe_until: Mapped[float | None] = mapped_column(Double)


_table: Any = BreakerRow.__table__
_pg_now = func.extract("epoch", func.clock_timestamp()).cast(Double)


class DatabaseBreaker(Breaker):
    """A breaker that all processes share through the database (see ``InProcessBreaker``).

    A call that is let through and succeeds costs one read in half a second and no write. A failure
    and a probe cost one short write each.

    Holds: what ``InProcessBreaker`` holds, over all processes, by the clock of the database; others
    know of a change half a second later at most. While the database is away calls go on: each
    process goes by what it knew and what it sees itself (so it opens, and lets one probe through,
    by itself), and asks again each second without making a call wait.
    Does not hold: one probe in all while the database is away; what a process learnt by itself
    then is forgotten when the database is back.
    Proved by ``tests/traffic/test_breaker_shared.py``, ``tests/traffic/test_arguments.py``.

    Only what says that the database is away counts as such: a missing table (ConfigError) and
    every other mistake come out of the call. Raises ConfigError unless ``store`` is an AsyncStore.
    """

    def __init__(
        self,
        store: AsyncStore,
        name: str,
        settings: BreakerSettings | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        settings = check_settings(settings)
        check_async_store("DatabaseBreaker", store)
        keeper = _DatabaseKeeper(store, name, settings.backend_s)
        super().__init__(name, settings, keeper=keeper, rng=rng)


class _DatabaseKeeper:
    def __init__(self, store: AsyncStore, name: str, limit_s: float) -> None:
        self._store = store
        self._name = name
        self._limit_s = limit_s

    async def read(self) -> tuple[Circuit, float]:
        return await self._store.read(_read, self._name, deadline_s=self._limit_s)

    async def change(self, decide: Decide[T]) -> tuple[Circuit, float, T]:
        answer: tuple[Circuit, float, T] = await self._store.write(
            _change, self._name, decide, deadline_s=self._limit_s
        )
        return answer


def _read(session: Session, name: str) -> tuple[Circuit, float]:
    sqlite = session.get_bind().dialect.name == "sqlite"
    clock = literal(time.time(), Double) if sqlite else _pg_now
    one = select(literal(1).label("one")).subquery()
    joined = one.outerjoin(_table, _table.c.name == name)
    found: Any = session.execute(select(clock.label("now"), _table).select_from(joined)).one()
    return (Circuit() if found.name is None else _circuit(found)), found.now


@write(isolation="read committed", lane=lambda name, _decide: ("breaker", name))
def _change(session: Session, name: str, decide: Decide[T]) -> tuple[Circuit, float, T]:
    """Lock the row, decide, store. The clock is read behind the lock."""
    statement = upsert(session, _table).values(name=name, **asdict(Circuit()))
    locking = statement.on_conflict_do_update(
        index_elements=["name"], set_={"name": statement.excluded.name}
    )
    sqlite = session.get_bind().dialect.name == "sqlite"
    clock = literal(time.time(), Double) if sqlite else _pg_now
    found: Any = session.execute(locking.returning(_table, clock.label("now"))).one()
    before = _circuit(found)
    circuit, answer = decide(before, found.now)
    if circuit != before:
        session.execute(update(_table).where(_table.c.name == name).values(**asdict(circuit)))
    return circuit, found.now, answer


def _circuit(row: Any) -> Circuit:
    return Circuit(
        row.epoch, tuple(row.failed_at), row.open_until, row.opened, row.probe, row.probe_until
    )
