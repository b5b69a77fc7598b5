"""Reserve: set units of a quota aside before the work that needs them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from crowdsafe.errors import KeyReused, QuotaExceeded, ReservationEnded
from crowdsafe.store.options import write
from crowdsafe.store.retry import LostRace
from crowdsafe.store.types import UtcDateTime, utcnow
from crowdsafe.traffic.keys import check_text
from crowdsafe.traffic.quota.periods import (
    AMOUNT_MAX,
    ID_LENGTH_MAX,
    KEY_LENGTH_MAX,
    LIMIT_MAX,
    Period,
    check_expiry,
    check_whole,
    period_of,
)
from crowdsafe.traffic.quota.rows import add_units, expire_of_key, find, grant, look, reservations
from crowdsafe.traffic.quota.tables import CHARGED, HELD

__all__ = ["Reservation", "reserve"]


def _storing(insert: Any) -> Any:
    return (
        insert(reservations)
        .values(
            id=bindparam("id"),
            key=bindparam("key"),
            period=bindparam("period"),
            amount=bindparam("amount"),
            state=HELD,
            expires_at=bindparam("expires_at", type_=UtcDateTime),
        )
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(reservations.c.id)
    )


_STORE = {"sqlite": _storing(sqlite.insert), "postgresql": _storing(postgresql.insert)}


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units that are set aside until they are charged or refunded, or until ``expires_at``."""

    id: str
    key: str
    period: str
    amount: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call of ``reserve``, checked."""

    reservation: Reservation
    period: Period
    limit: int | None
    has_own_id: bool
    now: datetime

    @property
    def ceiling(self) -> int:
        return LIMIT_MAX if self.limit is None else self.limit


@write(isolation="read committed")
def reserve(
    session: Session,
    key: str,
    *,
    limit: int | None,
    period: str | Period,
    amount: int = 1,
    expires_s: float,
    id: str | None = None,
    now: datetime | None = None,
) -> Reservation:
    """Set ``amount`` units of the quota ``key`` aside, for ``expires_s`` seconds at most.

    ``limit`` is how many units the period has; None counts what is used without a limit.
    ``period`` is a name, or better a ``Period`` such as ``day()``, whose end a refusal can tell.
    Call ``charge`` in the transaction that stores what the units were for, or ``refund`` when
    nothing came of it; who dies before either gives the units back by expiring. With an ``id`` of
    the caller's own the call may be repeated: a second one gives back the first one's reservation.
    Two statements where there is room, in the caller's transaction.

    Holds: used + reserved never passes the limit that the last grant was given under, for any
    interleaving of calls, crashes and expiries, over all processes, at READ COMMITTED and at
    SERIALIZABLE, on SQLite and PostgreSQL; an expired reservation is not counted, swept or not; a
    clock that is off moves the moment of expiry, never the limit.
    Does not hold: fairness between callers; that nobody else was refused for units that are
    refunded later. Callers for one key wait for each other until the transaction ends, so
    reserve late in a long write, and several keys always in one order.
    Proved by ``tests/traffic/test_quota_crowd.py`` and ``tests/traffic/test_properties_guards.py``.

    Key 1 to 200 characters, id 1 to 80, amount 1 to 10**9, limit 0 to 2**53 - 1, expires_s up to
    30 days. ``now`` is for tests. Raises QuotaExceeded(limit, used, reserved, and where known
    resets_at and retry_after_s: until units may come back); InvalidInput; for a repeated id
    KeyReused when it was for something else and ReservationEnded when it is over.
    """
    wanted = _wanted(key, limit, period, amount, expires_s, id, now)
    session.flush()
    connection = session.connection()
    own = wanted.reservation
    refusal = _grant(connection, wanted)
    if refusal is not None:
        repeated = _repeated(connection, wanted)
        if repeated is not None:
            return repeated
        raise refusal
    stored = connection.execute(
        _STORE[connection.dialect.name],
        {
            "id": own.id,
            "key": own.key,
            "period": own.period,
            "amount": own.amount,
            "expires_at": own.expires_at,
        },
    ).scalar_one_or_none()
    if stored is not None:
        return own
    add_units(connection, own.key, own.period, reserved=-own.amount)
    repeated = _repeated(connection, wanted)
    if repeated is None:
        raise LostRace(f"the reservation {own.id!r} came and went meanwhile")
    return repeated


def _wanted(
    key: Any, limit: Any, period: Any, amount: Any, expires_s: Any, id: Any, now: datetime | None
) -> _Wanted:
    now = now or utcnow()
    named = period_of(period)
    return _Wanted(
        Reservation(
            uuid.uuid4().hex if id is None else check_text("id", id, ID_LENGTH_MAX),
            check_text("key", key, KEY_LENGTH_MAX),
            named.name,
            check_whole("amount", amount, 1, AMOUNT_MAX),
            check_expiry(expires_s, now),
        ),
        named,
        None if limit is None else check_whole("limit", limit, 0, LIMIT_MAX),
        id is not None,
        now,
    )


def _grant(connection: Connection, wanted: _Wanted) -> QuotaExceeded | None:
    """Add to what is reserved, or say why not."""
    own = wanted.reservation
    values = {
        "the_key": own.key,
        "the_period": own.period,
        "amount": own.amount,
        "ceiling": wanted.ceiling,
        "ends_at": wanted.period.ends_at,
    }
    while True:
        if own.amount <= wanted.ceiling and grant(connection, values):
            return None
        # The quota's row is locked by now, so what this sees stays as it is; and with what has
        # expired given back, the next round grants.
        found = look(connection, own.key, own.period, wanted.now)
        live = found.used + found.reserved - found.outdated if found else 0
        if (
            live + own.amount > wanted.ceiling
            or not found.outdated
            or not expire_of_key(connection, own.key, own.period, wanted.now)
        ):
            return _refusal(wanted, found)


def _repeated(connection: Connection, wanted: _Wanted) -> Reservation | None:
    """The reservation that the same call made before, if there is one."""
    if not wanted.has_own_id:
        return None
    own = wanted.reservation
    found = find(connection, own.id)
    if found is None:
        return None
    if (found.key, found.amount) != (own.key, own.amount):
        raise KeyReused("this reservation id was used for something else; use a new one")
    if found.state != CHARGED and (found.state != HELD or found.expires_at <= wanted.now):
        raise ReservationEnded
    return Reservation(found.id, found.key, found.period, found.amount, found.expires_at)


def _refusal(wanted: _Wanted, found: Any) -> QuotaExceeded:
    used, reserved = (found.used, found.reserved - found.outdated) if found else (0, 0)
    amount = wanted.reservation.amount
    data: dict[str, Any] = {"limit": wanted.limit, "used": used, "reserved": reserved}
    left_s = wanted.period.left_s(wanted.now)
    if wanted.period.ends_at is not None:
        data["resets_at"] = wanted.period.ends_at.isoformat()
    if amount > wanted.ceiling:
        left_s = None  # no later moment of any period has room for it
    elif used + amount <= wanted.ceiling and found and found.next_expiry:
        expiry_s = (found.next_expiry - wanted.now).total_seconds()
        left_s = expiry_s if left_s is None else min(left_s, expiry_s)
    if left_s is not None:
        data["retry_after_s"] = left_s
    room = max(0, wanted.ceiling - used - reserved)
    when = f"; it is renewed at {data['resets_at']}" if "resets_at" in data else ""
    return QuotaExceeded(
        f"only {room} of {wanted.ceiling} left in {wanted.period.name}, {amount} asked for{when}",
        **data,
    )
