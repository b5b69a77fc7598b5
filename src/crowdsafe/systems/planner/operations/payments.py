"""Payment events: one effect each, in the order of their own clock, and none on a guess."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import NotFound
from crowdsafe.identity.tables import UserRow
from crowdsafe.systems.planner.errors import AlreadyAssigned, EventReused
from crowdsafe.systems.planner.models import PaymentEvent
from crowdsafe.systems.planner.operations.profiles import set_tier
from crowdsafe.systems.planner.payments import PaymentNews
from crowdsafe.writes import get_or_create
from crowdsafe.writes.rows import lock_row

__all__ = ["assign_event", "list_events", "receive_event"]


@write(isolation="read committed")
def receive_event(session: Session, news: PaymentNews) -> dict[str, Any]:
    """Store an event and apply it, in one transaction; a repeat changes nothing.

    Holds: one effect for one event id, however often and through how many processes at once it is
    delivered, and whenever one of them is killed; an older event never undoes a newer one; an
    unknown payer changes nobody's tier. Does not hold: an event that was never delivered.
    Proved by ``tests/systems/planner/test_payments.py``.

    Raises EventReused for a known id with other contents.
    """
    said = {
        "type": news.type,
        "payer": news.payer,
        "tier": news.new_tier,
        "at": news.at,
    }
    row, created = get_or_create(session, PaymentEvent, {**said, "state": "parked"}, id=news.id)
    if not created:
        if any(getattr(row, name) != value for name, value in said.items()):
            raise EventReused(id=news.id)
        return {**event_view(row), "duplicate": True}
    user_id = _user_id(session, news.payer)
    if user_id is not None:
        _apply(session, row, user_id)
    return {**event_view(row), "duplicate": False}


@write(isolation="read committed")
def assign_event(session: Session, event_id: str, *, username: str, by: str) -> dict[str, Any]:
    """Say whose a parked event is, and apply it. Raises NotFound, AlreadyAssigned."""
    user_id = _user_id(session, username)
    if user_id is None:
        raise NotFound(f"There is no user {username!r}.", field="username")
    row = lock_row(session, PaymentEvent, event_id)
    if row.state != "parked":
        raise AlreadyAssigned(current=row.state, by=row.assigned_by)
    row.assigned_by = by
    _apply(session, row, user_id)
    return event_view(row)


def list_events(
    session: Session, *, state: str | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """The latest events, newest first."""
    query = select(PaymentEvent)
    if state is not None:
        query = query.where(PaymentEvent.state == state)
    rows = session.scalars(query.order_by(PaymentEvent.received_at.desc()).limit(limit))
    return [event_view(row) for row in rows]


def event_view(row: PaymentEvent) -> dict[str, Any]:
    """What an answer says of an event."""
    return {
        "id": row.id,
        "type": row.type,
        "payer": row.payer,
        "tier": row.tier,
        "at": row.at.isoformat(),
        "state": row.state,
    }


def _apply(session: Session, row: PaymentEvent, user_id: int) -> None:
    applied = set_tier(session, user_id, row.tier, event_at=row.at, event_id=row.id)
    row.user_id = user_id
    row.state = "applied" if applied else "superseded"


def _user_id(session: Session, username: str) -> int | None:
    return session.scalar(select(UserRow.id).where(UserRow.username == username.lower()))
