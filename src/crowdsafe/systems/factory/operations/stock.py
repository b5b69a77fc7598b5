"""Stock: receive it, give back what was set aside; `allocating.py` sets it aside.

Every change of `Stock.on_hand` is a `take` or a `give`, which writes the movement in the same
transaction; nothing else writes that column.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import AlreadyMoved, NotFound
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.errors import (
    AllocationMoved,
)
from crowdsafe.systems.factory.models import Allocation, Client, Order, Product, Stock
from crowdsafe.systems.factory.operations.common import (
    Actor,
    lock_order,
    tell,
    tell_order,
    touch,
)
from crowdsafe.writes import Taken, get_or_create, give, transition

OPEN_FOR_STOCK = frozenset(
    {"order_entered", "pending_material", "paper_slitting", "winding", "finishing"}
)
"""Stages of an order for which stock can be set aside."""


@write(isolation="read committed")
def receive_stock(
    session: Session,
    *,
    product_id: int,
    client_id: int,
    quantity: int,
    actor: Actor,
    reference: str = "",
) -> dict[str, Any]:
    """Add received pieces. Raises NotFound for an unknown product or client.

    Holds: on_hand rises by exactly `quantity` and the receipt is in the ledger, or neither;
    two first receipts of one product at once make one stock row (unique constraint).
    Does not hold: a repeat is a second receipt, unless it carries the same Idempotency-Key.
    Test: test_nothing_is_lost_or_doubled_by_5_kills.
    """
    require_known(session, product_id=product_id, client_id=client_id)
    stock, _ = get_or_create(session, Stock, client_id=client_id, product_id=product_id)
    entry = {"kind": "receipt", "reference": reference, "by": actor.username}
    given = give(session, Stock.on_hand, quantity, where=Stock.id == stock.id, entry=entry)
    tell_stock(session, stock.id, (client_id, product_id), given, "receipt", actor)
    return {
        "stock_id": stock.id,
        "received_quantity": quantity,
        "on_hand": given.balance,
        "movement_id": given.entry_id,
    }


@write(isolation="read committed")
def release_allocation(session: Session, *, allocation_id: int, actor: Actor) -> dict[str, Any]:
    """Give an active allocation's stock back. Raises NotFound, AllocationMoved.

    Holds: the stock comes back exactly once, whoever else releases, cancels or expires it.
    Test: test_a_reservation_is_given_back_exactly_once.
    """
    order_id = _known_allocation(session, allocation_id).order_id
    order = None if order_id is None else lock_order(session, order_id)
    allocation, given = give_back(session, allocation_id, "released", "release", actor)
    if order is not None:
        touch(order, actor)
        tell_order(session, order, "released", actor)
    return {
        "allocation_id": allocation.id,
        "released_quantity": allocation.quantity,
        "on_hand": given.balance,
    }


def due_reservations(
    session: Session, *, limit: int = 100, now: datetime | None = None
) -> list[int]:
    """Ids of at most `limit` active reservations whose time is over, longest overdue first."""
    rows = session.scalars(
        select(Allocation.id)
        .where(Allocation.state == "active", Allocation.expires_at <= (now or utcnow()))
        .order_by(Allocation.expires_at, Allocation.id)
        .limit(limit)
    )
    return list(rows)


@write(isolation="read committed")
def expire_reservation(session: Session, *, allocation_id: int, actor: Actor) -> bool:
    """Give an overdue reservation's stock back; False when somebody was first.

    Holds: exactly once, over all processes that sweep at once. Test:
    test_a_reservation_is_given_back_exactly_once.
    """
    allocation = _known_allocation(session, allocation_id)
    if allocation.expires_at is None or allocation.expires_at > utcnow():
        return False
    try:
        give_back(session, allocation_id, "expired", "expiry", actor)
    except AllocationMoved:
        return False
    return True


def give_back(
    session: Session, allocation_id: int, state: str, kind: str, actor: Actor
) -> tuple[Allocation, Taken]:
    """End an allocation and return its stock; its order, if any, must be locked already.

    Raises AllocationMoved when it is no longer active.
    """
    try:
        transition(
            session,
            Allocation,
            allocation_id,
            "state",
            from_="active",
            to=state,
            by=actor.username,
        )
    except AlreadyMoved as moved:
        raise AllocationMoved(current=moved.current, allocation_id=allocation_id) from moved
    allocation = session.get_one(Allocation, allocation_id)
    entry = {"kind": kind, "reference": allocation.reference, "by": actor.username}
    given = give(
        session,
        Stock.on_hand,
        allocation.quantity,
        where=Stock.id == allocation.stock_id,
        entry=entry,
    )
    stock = session.get_one(Stock, allocation.stock_id)
    tell_stock(
        session,
        stock.id,
        (stock.client_id, stock.product_id),
        given,
        kind,
        actor,
        reserved_delta=-allocation.quantity,
        order_id=allocation.order_id,
    )
    return allocation, given


def give_back_all(session: Session, order: Order, actor: Actor) -> int:
    """Give back everything that is set aside for a locked order; returns the pieces."""
    ids = session.scalars(
        select(Allocation.id)
        .where(Allocation.order_id == order.id, Allocation.state == "active")
        .order_by(Allocation.stock_id, Allocation.id)
    ).all()
    return sum(
        give_back(session, allocation_id, "released", "release", actor)[0].quantity
        for allocation_id in ids
    )


def consume_all(session: Session, order: Order, actor: Actor) -> None:
    """The order has left the plant: what was set aside for it is used, not reserved."""
    rows = session.execute(
        update(Allocation)
        .where(Allocation.order_id == order.id, Allocation.state == "active")
        .values(state="consumed")
        .returning(Allocation.stock_id, Allocation.quantity)
    ).all()
    for stock_id, quantity in rows:
        data = {"id": stock_id, "kind": "delivery", "reserved_delta": -quantity}
        tell(session, "stock.changed", data | {"order_id": order.id}, actor)


def require_known(session: Session, *, product_id: int, client_id: int) -> None:
    """Raise NotFound for a product or a client that does not exist."""
    if session.get(Product, product_id) is None:
        raise NotFound(f"There is no product {product_id}.")
    if session.get(Client, client_id) is None:
        raise NotFound(f"There is no client {client_id}.")


def _known_allocation(session: Session, allocation_id: int) -> Allocation:
    allocation = session.get(Allocation, allocation_id)
    if allocation is None:
        raise NotFound(f"There is no allocation {allocation_id}.")
    return allocation


def tell_stock(
    session: Session,
    stock_id: int,
    pair: tuple[int, int],
    moved: Taken,
    kind: str,
    actor: Actor,
    **more: Any,
) -> None:
    """Publish `stock.changed`; `pair` is (client_id, product_id)."""
    tell(session, "stock.changed", stock_news(stock_id, pair, moved, kind, **more), actor)


def stock_news(
    stock_id: int,
    pair: tuple[int, int],
    moved: Taken,
    kind: str,
    *,
    reserved_delta: int = 0,
    order_id: int | None = None,
) -> dict[str, Any]:
    """What `stock.changed` says."""
    return {
        "id": stock_id,
        "client_id": pair[0],
        "product_id": pair[1],
        "on_hand": moved.balance,
        "reserved_delta": reserved_delta,
        "kind": kind,
        "movement_id": moved.entry_id,
        "order_id": order_id,
    }
