"""Charge, refund, extend: what becomes of a reservation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, case, update
from sqlalchemy.orm import Session

from crowdsafe.errors import NotFound, ReservationEnded
from crowdsafe.store.options import write
from crowdsafe.store.retry import LostRace
from crowdsafe.store.types import UtcDateTime, utcnow
from crowdsafe.traffic.keys import check_text
from crowdsafe.traffic.quota.periods import ID_LENGTH_MAX, check_expiry
from crowdsafe.traffic.quota.reserving import Reservation
from crowdsafe.traffic.quota.rows import add_units, expire_of_key, find, reservations
from crowdsafe.traffic.quota.tables import CHARGED, EXPIRED, HELD, REFUNDED

__all__ = ["charge", "extend", "refund"]

_TRIES = 5

_live = (
    reservations.c.id == bindparam("the_id"),
    reservations.c.state == HELD,
    reservations.c.expires_at > bindparam("now", type_=UtcDateTime),
)
_end = (
    update(reservations)
    .where(*_live)
    .values(state=bindparam("new_state"))
    .returning(reservations.c.key, reservations.c.period, reservations.c.amount)
)
_until = bindparam("until", type_=UtcDateTime)
_extend = (
    update(reservations)
    .where(*_live)
    .values(
        expires_at=case(
            (reservations.c.expires_at > _until, reservations.c.expires_at), else_=_until
        )
    )
    .returning(reservations)
)
_revive = (
    update(reservations)
    .where(reservations.c.id == bindparam("the_id"), reservations.c.state == EXPIRED)
    .values(state=bindparam("new_state"), expires_at=_until)
)


@write(isolation="read committed")
def charge(session: Session, reservation_id: str, *, now: datetime | None = None) -> bool:
    """Turn what was reserved into what is used; True when this call did it, False when it was
    charged before.

    Call it in the transaction that stores what the units paid for. Two statements.

    Holds: a reservation is charged once or refunded once, whoever calls how often and from where;
    one that has expired is charged only if there is room for it now, as if reserved anew under
    the limit of the quota's last grant. Does not hold: anything after ``forget_quotas`` took the
    record. Proved by ``tests/traffic/test_quota_crowd.py``.

    Raises ReservationEnded when it was refunded, or has expired and there is no room; NotFound;
    LostRace, which ``store.write`` answers by running again, when others kept changing it.
    """
    return _close(session, reservation_id, CHARGED, now or utcnow())


@write(isolation="read committed")
def refund(session: Session, reservation_id: str, *, now: datetime | None = None) -> bool:
    """Give back what was reserved; True when this call did it, False when it was refunded before.

    A reservation that has expired may be refunded, which only keeps it from being charged after.
    Holds what ``charge`` holds. Proved by ``tests/traffic/test_quota_crowd.py``.

    Raises ReservationEnded when it was charged; NotFound.
    """
    return _close(session, reservation_id, REFUNDED, now or utcnow())


@write(isolation="read committed")
def extend(
    session: Session, reservation_id: str, expires_s: float, *, now: datetime | None = None
) -> Reservation:
    """Let a reservation last at least until ``expires_s`` seconds from now; never shortens it.

    One statement. One that has expired comes back only if there is room for it now.
    Proved by ``tests/traffic/test_quota_crowd.py``.

    Raises ReservationEnded when it was charged or refunded, or has expired and there is no room;
    NotFound, InvalidInput.
    """
    now = now or utcnow()
    until = check_expiry(expires_s, now)
    connection = _connection(session, reservation_id)
    values = {"the_id": reservation_id, "now": now, "until": until}
    for _ in range(_TRIES):
        extended = connection.execute(_extend, values).one_or_none()
        if extended is not None:
            return _reservation(extended)
        found = _found(connection, reservation_id)
        _check_open(found)
        if _is_over(found, now):
            if _bring_back(connection, found, HELD, now, until):
                return replace(_reservation(found), expires_at=until)
            _check_open(_found(connection, reservation_id))
            break
    raise LostRace(f"the reservation {reservation_id!r} kept changing")


def _close(session: Session, reservation_id: str, state: str, now: datetime) -> bool:
    connection = _connection(session, reservation_id)
    values = {"the_id": reservation_id, "now": now, "new_state": state}
    for _ in range(_TRIES):
        ended = connection.execute(_end, values).one_or_none()
        if ended is not None:
            used = ended.amount if state == CHARGED else 0
            add_units(connection, ended.key, ended.period, used=used, reserved=-ended.amount)
            return True
        found = _found(connection, reservation_id)
        if found.state == state:
            return False
        _check_open(found)
        if _is_over(found, now):
            if _bring_back(connection, found, state, now, found.expires_at):
                return True
            found = _found(connection, reservation_id)
            if found.state == state:
                return False
            _check_open(found)
            break
    raise LostRace(f"the reservation {reservation_id!r} kept changing")


def _bring_back(
    connection: Connection, found: Any, state: str, now: datetime, until: datetime
) -> bool:
    """Move an expired reservation to ``state``, if there is room for the units that this takes.

    The quota's row is locked first, by a change of nothing; from then on nobody else can expire
    the reservation or bring it back. False when somebody did before, or has it locked: then look
    again, but lock no reservation. To wait for one while holding the quota's row would be a
    deadlock with whoever charges it.
    """
    at = (connection, found.key, found.period)
    add_units(*at)
    expire_of_key(*at, now)
    if _found(connection, found.id).state != EXPIRED:
        return False
    used = found.amount if state == CHARGED else 0
    reserved = found.amount if state == HELD else 0
    if (used or reserved) and not add_units(*at, used=used, reserved=reserved, if_room=True):
        raise ReservationEnded("this reservation has expired and the quota has no room for it now")
    connection.execute(_revive, {"the_id": found.id, "new_state": state, "until": until})
    return True


def _check_open(found: Any) -> None:
    if found.state in (CHARGED, REFUNDED):
        raise ReservationEnded(f"this reservation was {found.state} already; reserve anew")


def _is_over(found: Any, now: datetime) -> bool:
    over: bool = found.state == EXPIRED or found.expires_at <= now
    return over


def _found(connection: Connection, reservation_id: str) -> Any:
    found = find(connection, reservation_id)
    if found is None:
        raise NotFound(f"there is no reservation {reservation_id!r}", id=reservation_id)
    return found


def _reservation(row: Any) -> Reservation:
    return Reservation(row.id, row.key, row.period, row.amount, row.expires_at)


def _connection(session: Session, reservation_id: Any) -> Connection:
    check_text("reservation_id", reservation_id, ID_LENGTH_MAX)
    session.flush()
    return session.connection()
