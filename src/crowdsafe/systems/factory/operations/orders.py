"""Orders: enter, move through the stages, cancel, delete. Editing is in `editing.py`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import AlreadyMoved, InvalidInput, NotFound, StaleVersion
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.errors import AlreadyInvoiced, OrderClosed, StageMoved
from crowdsafe.systems.factory.models import (
    CANCELLED,
    ORDER_EDGES,
    Allocation,
    Client,
    Invoice,
    Order,
    OrderEdit,
    OrderItem,
    Product,
    StageLog,
)
from crowdsafe.systems.factory.operations.common import (
    Actor,
    lock_order,
    name_of,
    tell,
    tell_order,
)
from crowdsafe.systems.factory.operations.stock import consume_all, give_back_all
from crowdsafe.systems.factory.operations.views import order_view
from crowdsafe.systems.factory.schemas import STAGES
from crowdsafe.writes import Moved, next_number, transition

SUBTOTAL_CENTS_MAX = 10**13
"""Highest subtotal of an order, below what JavaScript still counts exactly."""


def _number_lane(**_: Any) -> Hashable:
    """One queue for the order numbers, so that new orders of one process share commits."""
    return "factory.order-number"


@write(isolation="read committed", lane=_number_lane)
def create_order(
    session: Session,
    *,
    client_id: int,
    items: Sequence[Mapping[str, Any]],
    actor: Actor,
    priority: str = "Normal/Low",
    due_date: date | None = None,
    contact_name: str = "",
    purchase_order: str = "",
    delivery_address: str = "",
    notes: str = "",
) -> dict[str, Any]:
    """Enter an order with its items; its number is ADM-<UTC year>-<at least four digits>.

    Each item: product_id, quantity and, if they differ from the product's, unit_price_cents and
    description. Raises NotFound (client), InvalidInput (an unknown product, a subtotal that is
    too high).

    Holds: numbers are distinct and without a gap over all processes, since number and order
    commit together; a deleted order's number is not given again.
    Does not hold: a repeat is a second order, unless it carries the same Idempotency-Key.
    Test: test_2_two_hundred_orders_have_two_hundred_numbers.
    """
    client = session.get(Client, client_id)
    if client is None:
        raise NotFound(f"There is no client {client_id}.")
    lines = priced_items(session, items)
    check_subtotal(line.quantity * line.unit_price_cents for line in lines)
    year = str(utcnow().year)
    number = next_number(session, "factory.order", scope=year)
    order = Order(
        number=f"ADM-{year}-{number:04d}",
        client_id=client_id,
        contact_name=contact_name or client.contact_name,
        purchase_order=purchase_order,
        delivery_address=delivery_address or client.address,
        notes=notes,
        priority=priority,
        due_date=due_date,
        created_by=actor.username,
        updated_by=actor.username,
    )
    session.add(order)
    session.flush()
    for line in lines:
        line.order_id = order.id
        session.add(line)
    session.flush()
    tell_order(session, order, "created", actor, client=client.name)
    return order_view(session, order)


@write(isolation="read committed")
def move_stage(
    session: Session,
    *,
    order_id: int,
    from_stage: str,
    actor: Actor,
    to_stage: str | None = None,
    move: str | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Move an order from the stage that the caller saw to `to_stage`, or to the next one.

    Raises StageMoved (`current`, `by`, `at`) when it is not in `from_stage` any more,
    ForbiddenTransition for a move without an edge, InvalidInput, NotFound.

    Holds: of any number of callers that saw one stage, one moves it, with one row in the log.
    A relative move ("next") names the stage that it starts from too, so two of them at once
    never skip one. Reaching `invoicing` uses up what was set aside, once.
    Does not hold: a move that starts from a stage nobody looked at; there is none.
    Test: test_the_same_move_twice_is_one_move, test_two_relative_moves_never_skip_a_stage.
    """
    target = _target(from_stage, to_stage, move)
    moved = _transition(session, order_id, from_stage, target, actor, note)
    order = session.get_one(Order, order_id, populate_existing=True)
    if target == "invoicing":
        consume_all(session, order, actor)
    tell_order(session, order, "moved", actor, from_stage=from_stage)
    return {
        "order_id": order_id,
        "number": order.number,
        "from_stage": from_stage,
        "to_stage": target,
        "version": order.version,
        "log_id": moved.log_id,
    }


@write(isolation="read committed")
def cancel_order(
    session: Session, *, order_id: int, actor: Actor, note: str = ""
) -> dict[str, Any]:
    """Cancel an order and give back the stock that is set aside for it.

    Raises NotFound, StageMoved when it is cancelled already, OrderClosed when it has left the
    plant, AlreadyInvoiced when there is an invoice on it.

    Holds: the stock comes back exactly once, and none is set aside for the order afterwards:
    whoever allocates for it locks the order first. Test: test_cancel_gives_back_exactly_once.
    """
    order = lock_order(session, order_id)
    stage = order.stage
    if stage == CANCELLED:
        raise _stage_moved(session, order_id, None)
    if CANCELLED not in ORDER_EDGES[stage]:
        raise OrderClosed(
            f"Order {order.number} is in stage {stage} and cannot be cancelled any more.",
            current=stage,
            number=order.number,
        )
    refuse_invoiced(session, order)
    _transition(session, order_id, stage, CANCELLED, actor, note)
    session.refresh(order)
    released = give_back_all(session, order, actor)
    tell_order(session, order, "cancelled", actor, from_stage=stage)
    return {
        "order_id": order_id,
        "number": order.number,
        "version": order.version,
        "released_quantity": released,
    }


@write(isolation="read committed")
def delete_order(
    session: Session, *, order_id: int, actor: Actor, version: int | None = None
) -> dict[str, Any]:
    """Delete an order that was entered by mistake, and give back what is set aside for it.

    Only in stage order_entered and without an invoice; its number is not used again. With
    `version`, only if nobody changed it since. Raises NotFound, OrderClosed, AlreadyInvoiced,
    StaleVersion. Test: test_a_deleted_number_is_not_used_again.
    """
    order = lock_order(session, order_id)
    if version is not None and version != order.version:
        raise StaleVersion(current=order.version)
    if order.stage != "order_entered":
        raise OrderClosed(
            f"Order {order.number} is in stage {order.stage}; cancel it instead.",
            current=order.stage,
            number=order.number,
        )
    refuse_invoiced(session, order)
    give_back_all(session, order, actor)
    number = order.number
    session.execute(update(Allocation).where(Allocation.order_id == order_id).values(order_id=None))
    session.execute(delete(StageLog).where(StageLog.order_id == order_id))
    session.execute(delete(OrderEdit).where(OrderEdit.order_id == order_id))
    session.execute(delete(OrderItem).where(OrderItem.order_id == order_id))
    session.delete(order)
    session.flush()
    tell(session, "order.deleted", {"id": order_id, "number": number}, actor)
    return {"order_id": order_id, "number": number}


def priced_items(session: Session, items: Sequence[Mapping[str, Any]]) -> list[OrderItem]:
    """Items with the product's price and name where none is given. Raises InvalidInput."""
    ids = {item["product_id"] for item in items}
    rows = session.scalars(select(Product).where(Product.id.in_(ids)))
    products = {product.id: product for product in rows}
    unknown = ids - products.keys()
    if unknown:
        raise InvalidInput(
            f"There is no product {min(unknown)}; choose one of GET /products.",
            field="items",
            product_id=min(unknown),
        )
    return [_priced(products[item["product_id"]], item) for item in items]


def check_subtotal(amounts: Any) -> None:
    """Refuse an order whose subtotal is beyond what can be counted exactly. Raises InvalidInput."""
    if sum(amounts) > SUBTOTAL_CENTS_MAX:
        raise InvalidInput(
            f"The subtotal is above {SUBTOTAL_CENTS_MAX} cents; split the order.", field="items"
        )


def refuse_invoiced(session: Session, order: Order) -> None:
    """Raise AlreadyInvoiced when there is an invoice on a locked order."""
    number = session.scalar(
        select(Invoice.number).where(Invoice.order_id == order.id).order_by(Invoice.id).limit(1)
    )
    if number is not None:
        raise AlreadyInvoiced(
            f"Order {order.number} is invoiced as {number}: it can no longer be withdrawn.",
            invoice_number=number,
        )


def _priced(product: Product, item: Mapping[str, Any]) -> OrderItem:
    price = item.get("unit_price_cents")
    return OrderItem(
        product_id=product.id,
        description=item.get("description") or product.name,
        quantity=item["quantity"],
        unit_price_cents=product.unit_price_cents if price is None else price,
    )


def _target(from_stage: str, to_stage: str | None, move: str | None) -> str:
    if (to_stage is None) == (move is None):
        raise InvalidInput("Send either to_stage or move.", field="to_stage")
    if to_stage == CANCELLED:
        raise InvalidInput("An order is cancelled by POST /orders/{id}/cancel.", field="to_stage")
    if to_stage is not None:
        return to_stage
    if move != "next" or from_stage not in STAGES[:-1]:
        raise InvalidInput(f"There is no stage after {from_stage}.", field="from_stage")
    return STAGES[STAGES.index(from_stage) + 1]


def _transition(
    session: Session, order_id: int, from_stage: str, to_stage: str, actor: Actor, note: str
) -> Moved:
    try:
        return transition(
            session,
            Order,
            order_id,
            "stage",
            from_=from_stage,
            to=to_stage,
            by=actor.username,
            note=note or None,
        )
    except AlreadyMoved as moved:
        raise _stage_moved(session, order_id, moved) from moved


def _stage_moved(session: Session, order_id: int, moved: AlreadyMoved | None) -> StageMoved:
    order = session.get_one(Order, order_id, populate_existing=True)
    last = session.scalar(
        select(StageLog).where(StageLog.order_id == order_id).order_by(StageLog.id.desc()).limit(1)
    )
    username = last.by if last else order.updated_by
    when = last.at if last else order.updated_at
    who = name_of(session, username)
    current = moved.current if moved else order.stage
    return StageMoved(
        f"{who} moved order {order.number} to {current} first; reload, and decide from there.",
        current=current,
        by=who,
        username=username,
        at=when.isoformat(),
        number=order.number,
    )
