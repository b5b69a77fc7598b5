"""What the factory's operations share: who acts, locking an order, names, money, events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe.errors import NotFound
from crowdsafe.feed import publish, publish_all
from crowdsafe.identity.tables import UserRow
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.models import Order

TOPIC = "factory"
"""Orders, stock and invoices: whoever is logged in may follow."""

STAFF_TOPIC = "factory-staff"
"""Everybody's timesheets and leave: for those who may see them all."""

GST_PERCENT = 10


class Actor(Protocol):
    """Who does it: a logged-in user, or the plant itself."""

    @property
    def username(self) -> str:
        """What is stored."""

    @property
    def name(self) -> str:
        """What people see."""


def gst_cents(subtotal_cents: int) -> int:
    """10% GST on a whole document, half a cent upwards (the "total invoice" rule).

    >>> gst_cents(1005), gst_cents(1004)
    (101, 100)
    """
    return (subtotal_cents * GST_PERCENT + 50) // 100


def iso(moment: datetime | date | None) -> str | None:
    """ISO 8601, or None."""
    return None if moment is None else moment.isoformat()


def at(moment: datetime) -> str:
    """A moment as ISO 8601 with its offset."""
    return moment.isoformat()


def lock_order(session: Session, order_id: int) -> Order:
    """Lock an order's row until the end of the transaction and read it anew. Raises NotFound.

    On SQLite the transaction already is the only writer; on PostgreSQL this is
    FOR NO KEY UPDATE, which the foreign keys that point at the order do not wait for.
    """
    order = session.get(
        Order, order_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if order is None:
        raise NotFound(f"There is no order {order_id}.")
    return order


def touch(order: Order, actor: Actor) -> None:
    """Count a change of a locked order: the next version, by whom, when."""
    order.version += 1
    order.updated_by = actor.username
    order.updated_at = utcnow()


def names_of(session: Session, usernames: Iterable[str]) -> dict[str, str]:
    """Display names by username; an unknown one shows as itself."""
    wanted = {username for username in usernames if username}
    names = {username: username for username in wanted}
    if wanted:
        rows = session.execute(
            select(UserRow.username, UserRow.name).where(UserRow.username.in_(wanted))
        )
        names.update((username, name) for username, name in rows)
    return names


def name_of(session: Session, username: str | None) -> str | None:
    """One display name, or None for nobody."""
    return None if username is None else names_of(session, [username])[username]


def tell(session: Session, kind: str, data: dict[str, Any], actor: Actor) -> None:
    """Publish an event of the factory in this transaction; `by` is the display name."""
    news = {**data, "by": actor.name, "username": actor.username}
    publish(session, TOPIC, kind, news, key=data["id"])


def tell_all(session: Session, kind: str, news: Sequence[tuple[dict[str, Any], Actor]]) -> None:
    """Publish many events of one kind, each with who did it, by one statement."""
    named = [
        ({**data, "by": actor.name, "username": actor.username}, data["id"]) for data, actor in news
    ]
    publish_all(session, TOPIC, kind, named)


def employee_topic(employee_id: int) -> str:
    """One employee's own timesheets and leave."""
    return f"factory-employee-{employee_id}"


def tell_staff(session: Session, kind: str, data: dict[str, Any], actor: Actor) -> None:
    """Publish news about `data["employee_id"]` to that person and to who may see all staff."""
    news = {**data, "by": actor.name, "username": actor.username}
    for topic in (STAFF_TOPIC, employee_topic(data["employee_id"])):
        publish(session, topic, kind, news, key=data["id"])


def tell_order(session: Session, order: Order, action: str, actor: Actor, **more: Any) -> None:
    """Publish `order.changed`: everything that a list or a board shows of the order itself."""
    data = {
        "id": order.id,
        "number": order.number,
        "version": order.version,
        "stage": order.stage,
        "priority": order.priority,
        "contact_name": order.contact_name,
        "due_date": iso(order.due_date),
        "action": action,
        "at": at(order.updated_at),
        **more,
    }
    tell(session, "order.changed", data, actor)
