"""The statements on a quota's rows, each prepared once.

Order of locks on PostgreSQL. Whoever holds a quota's row may want its reservations; so only rows
that nobody else works on are expired (SKIP LOCKED), and the two short ways that lock a reservation
first (charge and refund of one that has not expired) end with the quota's row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, and_, bindparam, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.quota.tables import EXPIRED, HELD, Quota, QuotaReservation

__all__ = ["add_units", "expire_of_key", "find", "grant", "look", "quotas", "reservations"]

quotas: Any = Quota.__table__
reservations: Any = QuotaReservation.__table__

_at_quota = and_(quotas.c.key == bindparam("the_key"), quotas.c.period == bindparam("the_period"))
_now = bindparam("now", type_=UtcDateTime)
_of_quota = and_(
    reservations.c.key == bindparam("the_key"),
    reservations.c.period == bindparam("the_period"),
    reservations.c.state == HELD,
)
OUTDATED = reservations.c.expires_at <= _now


def _granting(insert: Any) -> Any:
    statement = insert(quotas).values(
        key=bindparam("the_key"),
        period=bindparam("the_period"),
        used=0,
        reserved=bindparam("amount"),
        ceiling=bindparam("ceiling"),
        ends_at=bindparam("ends_at", type_=UtcDateTime),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["key", "period"],
        set_={
            "reserved": quotas.c.reserved + new.reserved,
            "ceiling": new.ceiling,
            "ends_at": func.coalesce(new.ends_at, quotas.c.ends_at),
        },
        where=quotas.c.used + quotas.c.reserved + new.reserved <= new.ceiling,
    ).returning(quotas.c.used)


_GRANT = {
    "sqlite": _granting(sqlite.insert),
    "postgresql": _granting(postgresql.insert),
}

_find = select(reservations).where(reservations.c.id == bindparam("the_id"))

_look = select(
    quotas.c.used,
    quotas.c.reserved,
    select(cast(func.coalesce(func.sum(reservations.c.amount), 0), BigInteger))
    .where(_of_quota, OUTDATED)
    .scalar_subquery()
    .label("outdated"),
    select(func.min(reservations.c.expires_at))
    .where(_of_quota, reservations.c.expires_at > _now)
    .scalar_subquery()
    .label("next_expiry"),
).where(_at_quota)

_expire = (
    update(reservations)
    .where(
        reservations.c.id.in_(
            select(reservations.c.id).where(_of_quota, OUTDATED).with_for_update(skip_locked=True)
        )
    )
    .values(state=EXPIRED)
    .returning(reservations.c.amount)
)

_add = (
    update(quotas)
    .where(_at_quota)
    .values(
        used=quotas.c.used + bindparam("more_used", type_=BigInteger),
        reserved=quotas.c.reserved + bindparam("more_reserved", type_=BigInteger),
    )
    .returning(quotas.c.key)
)
_add_if_room = _add.where(
    quotas.c.used
    + quotas.c.reserved
    + bindparam("more_used", type_=BigInteger)
    + bindparam("more_reserved", type_=BigInteger)
    <= quotas.c.ceiling
)


def grant(connection: Connection, values: dict[str, Any]) -> bool:
    """Add to what is reserved if that stays in the limit; either way the row is locked after."""
    statement = _GRANT[connection.dialect.name]
    return connection.execute(statement, values).scalar_one_or_none() is not None


def look(connection: Connection, key: str, period: str, now: datetime) -> Any:
    """What is used, reserved, outdated of that, and when the next expires; None without a row."""
    at = {"the_key": key, "the_period": period, "now": now}
    return connection.execute(_look, at).one_or_none()


def find(connection: Connection, reservation_id: str) -> Any:
    """The row of a reservation, or None."""
    return connection.execute(_find, {"the_id": reservation_id}).one_or_none()


def add_units(
    connection: Connection,
    key: str,
    period: str,
    *,
    used: int = 0,
    reserved: int = 0,
    if_room: bool = False,
) -> bool:
    """Change what is used and reserved, with ``if_room`` only as far as the limit allows."""
    statement = _add_if_room if if_room else _add
    values = {
        "the_key": key,
        "the_period": period,
        "more_used": used,
        "more_reserved": reserved,
    }
    return connection.execute(statement, values).scalar_one_or_none() is not None


def expire_of_key(connection: Connection, key: str, period: str, now: datetime) -> bool:
    """Give back what expired reservations of one quota hold; whether there were any.

    The caller has locked the quota's row.
    """
    at = {"the_key": key, "the_period": period, "now": now}
    units = sum(connection.execute(_expire, at).scalars())
    if units:
        add_units(connection, key, period, reserved=-units)
    return bool(units)
