"""The steps of a shared cache as plain functions of a session.

Each is right at READ COMMITTED: a row is locked before it is decided on, or changed by one
conditional UPDATE.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Select, cast, delete, extract, func, select, update
from sqlalchemy.orm import Session

from crowdsafe.store.options import write
from crowdsafe.store.retry import LostRace
from crowdsafe.traffic.cache.backend import HANDOVER_MS, Claim, Found
from crowdsafe.traffic.cache.tables import CacheRow
from crowdsafe.writes.rows import upsert

__all__ = ["claim", "forget", "free", "look", "peek", "publish", "renew", "sweep"]

RECORD_MS = 3_600_000
TOLD_MS = 60_000
SWEEP_MAX = 500

_table: Any = CacheRow.__table__
_c = _table.c


def _now_us(session: Session) -> int:
    """Microseconds since 1970 by the database's clock; on SQLite that is this machine's."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time_ns() // 1000
    clock = cast(extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)
    return int(session.execute(select(clock)).scalar_one())


def look(session: Session, name: str, addresses: Sequence[str]) -> dict[str, Found]:
    """The values that are stored and not past their stale time."""
    rows = session.execute(
        select(_c.address, _c.value, _c.fresh_until, _c.stale_until).where(
            _c.name == name, _c.address.in_(addresses), _c.value.is_not(None)
        )
    ).all()
    if not rows:
        return {}
    now = _now_us(session) // 1000
    return {
        row.address: Found(row.value, now < row.fresh_until)
        for row in rows
        if now < row.stale_until
    }


def peek(
    session: Session, name: str, asked: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], Claim]:
    """For each address and the lease that is waited for: the answer that a claim would give, where
    it needs no lease."""
    rows = session.execute(
        select(_table).where(_c.name == name, _c.address.in_([address for address, _ in asked]))
    )
    by_address = {row.address: row for row in rows}
    now = _now_us(session)
    answers = {}
    for address, waiting in asked:
        row = by_address.get(address)
        decided = None if row is None else _decide(row, now, waiting)
        if decided is not None:
            answers[address, waiting] = decided
    return answers


@write(isolation="read committed")
def claim(session: Session, name: str, address: str, lease_ms: int, waiting: int) -> Claim:
    """Take the lease if there is no fresh value and nobody holds it."""
    find = _row(name, address).with_for_update()
    row = session.execute(find).one_or_none()
    if row is None:
        session.execute(
            upsert(session, _table).values(name=name, address=address).on_conflict_do_nothing()
        )
        row = session.execute(find).one_or_none()
        if row is None:
            raise LostRace("the row of a cached value came and went")
    now = _now_us(session)
    decided = _decide(row, now, waiting)
    if decided is not None:
        return decided
    token = max(now, row.token + 1)
    until = now // 1000 + lease_ms
    session.execute(
        update(_table)
        .where(_c.name == name, _c.address == address)
        .values(token=token, lease_until=until, keep_until=max(row.keep_until, until + RECORD_MS))
    )
    return Claim(token=token)


@write(isolation="read committed")
def renew(session: Session, name: str, address: str, token: int, lease_ms: int) -> bool:
    """Hold the lease longer; false when ``token`` is no longer the newest."""
    until = _now_us(session) // 1000 + lease_ms
    return _change(session, name, address, token, lease_until=until, keep_until=until + RECORD_MS)


@write(isolation="read committed")
def publish(
    session: Session, name: str, address: str, token: int, text: str, fresh_ms: int, stale_ms: int
) -> bool:
    """Store a value and free the lease; false when ``token`` is no longer the newest."""
    now = _now_us(session) // 1000
    return _change(
        session,
        name,
        address,
        token,
        value=text,
        size_bytes=len(text),
        value_token=token,
        fresh_until=now + fresh_ms,
        stale_until=now + stale_ms,
        keep_until=now + max(stale_ms, HANDOVER_MS),
        lease_until=0,
        failed=0,
        error=None,
    )


@write(isolation="read committed")
def free(session: Session, name: str, address: str, token: int, error: str | None) -> bool:
    """Free the lease, and leave the error to those who wait for it."""
    told = {} if error is None else {"failed": token, "error": error}
    now = _now_us(session) // 1000
    keep_until = func.max if session.get_bind().dialect.name == "sqlite" else func.greatest
    return _change(
        session,
        name,
        address,
        token,
        lease_until=0,
        keep_until=keep_until(_c.stale_until, now + TOLD_MS),
        **told,
    )


@write(isolation="read committed")
def forget(session: Session, name: str, address: str) -> None:
    """Drop the value, and fence off whoever is making one now."""
    row = session.execute(_row(name, address).with_for_update()).one_or_none()
    if row is None:
        return
    now = _now_us(session)
    session.execute(
        update(_table)
        .where(_c.name == name, _c.address == address)
        .values(
            value=None,
            size_bytes=0,
            value_token=0,
            fresh_until=0,
            stale_until=0,
            keep_until=now // 1000 + TOLD_MS,
            token=max(now, row.token + 1),
            lease_until=0,
        )
    )


@write(isolation="read committed")
def sweep(session: Session, name: str, items_max: int, bytes_max: int) -> int:
    """Delete at most 500 rows: those that have ended, then, while there are more than the limits
    allow, those that end soonest. Leases that are held stay. Returns how many were deleted."""
    now = _now_us(session) // 1000
    idle = (_c.name == name, _c.lease_until < now)
    ended = select(_c.address).where(*idle, _c.keep_until < now).limit(SWEEP_MAX)
    gone = _delete(session, name, now, list(session.scalars(ended)))
    items, size_bytes = session.execute(
        select(func.count(), func.coalesce(func.sum(_c.size_bytes), 0)).where(_c.name == name)
    ).one()
    oldest = select(_c.address, _c.size_bytes).where(*idle).order_by(_c.keep_until)
    too_many = []
    for address, bytes_of_row in session.execute(oldest.limit(SWEEP_MAX - gone)):
        if items <= items_max and size_bytes <= bytes_max:
            break
        too_many.append(address)
        items -= 1
        size_bytes -= bytes_of_row
    return gone + _delete(session, name, now, too_many)


def _row(name: str, address: str) -> Select[Any]:
    return select(_table).where(_c.name == name, _c.address == address)


def _decide(row: Any, now_us: int, waiting: int) -> Claim | None:
    now = now_us // 1000
    handed_over = waiting > 0 and row.value_token >= waiting
    if row.value is not None and (now < row.fresh_until or handed_over):
        return Claim(text=row.value)
    if waiting > 0 and row.failed >= waiting:
        return Claim(error=row.error)
    return Claim(busy=row.token) if now < row.lease_until else None


def _change(session: Session, name: str, address: str, token: int, **values: Any) -> bool:
    changed: Any = session.execute(
        update(_table)
        .where(_c.name == name, _c.address == address, _c.token == token)
        .values(**values)
    )
    return bool(changed.rowcount)


def _delete(session: Session, name: str, now: int, addresses: Sequence[str]) -> int:
    if not addresses:
        return 0
    gone: Any = session.execute(
        delete(_table).where(_c.name == name, _c.address.in_(addresses), _c.lease_until < now)
    )
    return int(gone.rowcount)
