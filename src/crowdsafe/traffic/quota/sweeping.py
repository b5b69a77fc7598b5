"""Housekeeping: expire what was not ended in time, delete what is long over."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select, tuple_, update
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput
from crowdsafe.store.options import write
from crowdsafe.store.types import UtcDateTime, utcnow
from crowdsafe.traffic.quota.periods import check_whole
from crowdsafe.traffic.quota.rows import OUTDATED, add_units, quotas, reservations
from crowdsafe.traffic.quota.tables import EXPIRED, HELD

__all__ = ["expire_reservations", "forget_quotas"]

_SWEEP_MAX = 10_000

_outdated = select(reservations.c.id).where(reservations.c.state == HELD, OUTDATED)
_with_outdated = (
    select(reservations.c.key, reservations.c.period)
    .where(reservations.c.state == HELD, OUTDATED)
    .distinct()
    .limit(bindparam("limit"))
)
_lock = (
    select(quotas.c.key, quotas.c.period)
    .where(tuple_(quotas.c.key, quotas.c.period).in_(bindparam("names", expanding=True)))
    .order_by(quotas.c.key, quotas.c.period)
    .with_for_update(skip_locked=True)
)


def _expiring(which: Any) -> Any:
    return (
        update(reservations)
        .where(
            reservations.c.id.in_(
                which.order_by(reservations.c.expires_at)
                .limit(bindparam("limit"))
                .with_for_update(skip_locked=True)
            )
        )
        .values(state=EXPIRED)
        .returning(reservations.c.key, reservations.c.period, reservations.c.amount)
    )


_expire_all = _expiring(_outdated)
_expire_locked = _expiring(
    _outdated.where(
        tuple_(reservations.c.key, reservations.c.period).in_(bindparam("names", expanding=True))
    )
)


@write(isolation="read committed")
def expire_reservations(session: Session, limit: int = 1000, *, now: datetime | None = None) -> int:
    """Mark up to ``limit`` (1 to 10,000) expired reservations as such; how many there were.

    For tidiness alone: they stopped counting when they expired. Run it now and then in a write of
    its own. It waits for nobody: on PostgreSQL it leaves out quotas on which others work just now.
    Proved by ``tests/traffic/test_quota.py``. Raises InvalidInput.
    """
    check_whole("limit", limit, 1, _SWEEP_MAX)
    session.flush()
    connection = session.connection()
    values: dict[str, Any] = {"now": now or utcnow(), "limit": limit}
    statement = _expire_all
    if connection.dialect.name == "postgresql":
        names = [tuple(row) for row in connection.execute(_with_outdated, values)]
        locked = (
            [tuple(row) for row in connection.execute(_lock, {"names": names})] if names else []
        )
        if not locked:
            return 0
        statement = _expire_locked
        values["names"] = locked
    units: Counter[tuple[str, str]] = Counter()
    swept = connection.execute(statement, values).all()
    for row in swept:
        units[row.key, row.period] += row.amount
    for (key, period), amount in sorted(units.items()):
        add_units(connection, key, period, reserved=-amount)
    return len(swept)


@write(isolation="read committed")
def forget_quotas(session: Session, *, before: datetime, limit: int = 1000) -> int:
    """Delete up to ``limit`` quotas whose period ended before ``before``, with their reservations.

    A quota with something still reserved stays (``expire_reservations`` first), and so does one
    whose period has no known end. How many were deleted. Proved by
    ``tests/traffic/test_quota.py``. Raises InvalidInput.
    """
    check_whole("limit", limit, 1, _SWEEP_MAX)
    if before.tzinfo is None:
        raise InvalidInput("before is a moment with a timezone", field="before")
    session.flush()
    connection = session.connection()
    over = (
        select(quotas.c.key, quotas.c.period)
        .where(
            quotas.c.ends_at < bindparam("before", type_=UtcDateTime),
            quotas.c.reserved == 0,
        )
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )
    gone = connection.execute(
        delete(quotas)
        .where(tuple_(quotas.c.key, quotas.c.period).in_(over))
        .returning(quotas.c.key, quotas.c.period),
        {"before": before, "limit": limit},
    ).all()
    if gone:
        names = [tuple(row) for row in gone]
        connection.execute(
            delete(reservations).where(tuple_(reservations.c.key, reservations.c.period).in_(names))
        )
    return len(gone)
