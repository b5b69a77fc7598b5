"""Invoices: bill an order once, whole or in parts, with numbers that have no gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import InvalidInput, OverLimit
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.errors import AlreadyInvoiced, ExceedsOrdered, OrderClosed
from crowdsafe.systems.factory.models import CANCELLED, Invoice, InvoiceLine, Order, OrderItem
from crowdsafe.systems.factory.operations.common import (
    Actor,
    gst_cents,
    lock_order,
    tell,
    tell_order,
    touch,
)
from crowdsafe.systems.factory.operations.views import invoice_view, invoiced_state
from crowdsafe.writes import give, next_number


@write(isolation="read committed")
def invoice_order(
    session: Session,
    *,
    order_id: int,
    actor: Actor,
    items: Sequence[Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Bill `items` (item_id, quantity), or all that is not billed yet.

    GST is 10% of the invoice's subtotal, half a cent upwards. Numbers are INV-<UTC year>-<at
    least four digits>. Raises AlreadyInvoiced (`invoice_number` of the first), ExceedsOrdered
    (`item_id`, `available`), OrderClosed for a cancelled order, InvalidInput, NotFound.

    Holds: no item is billed beyond its quantity, whatever runs at once (the order is locked, and
    `give` has a ceiling); numbers are distinct and without a gap over all processes, since the
    number, the invoice and the billed quantities commit together.
    Does not hold: the GST of several partial invoices may differ from the order's by rounding,
    a cent for each invoice at most.
    Test: test_twenty_invoices_of_one_order_are_one_invoice,
    test_partial_invoices_never_exceed_what_was_ordered.
    """
    order = lock_order(session, order_id)
    if order.stage == CANCELLED:
        raise OrderClosed(
            f"Order {order.number} is cancelled; there is nothing to bill.",
            current=order.stage,
            number=order.number,
        )
    rows = session.scalars(
        select(OrderItem)
        .where(OrderItem.order_id == order_id)
        .order_by(OrderItem.id)
        .execution_options(populate_existing=True)
    ).all()
    parts = _parts(session, order, rows, items)
    for item, quantity in parts:
        _bill(session, item, quantity)
    year = str(utcnow().year)
    number = next_number(session, "factory.invoice", scope=year)
    subtotal = sum(quantity * item.unit_price_cents for item, quantity in parts)
    invoice = Invoice(
        number=f"INV-{year}-{number:04d}",
        order_id=order_id,
        client_id=order.client_id,
        subtotal_cents=subtotal,
        gst_cents=gst_cents(subtotal),
        total_cents=subtotal + gst_cents(subtotal),
        issued_by=actor.username,
    )
    session.add(invoice)
    session.flush()
    session.add_all(_line(invoice, item, quantity) for item, quantity in parts)
    touch(order, actor)
    session.flush()
    view = invoice_view(session, invoice)
    news = {key: view[key] for key in ("id", "number", "order_id", "order_number", "total_cents")}
    tell(session, "invoice.created", {**news, "client": view["client"]}, actor)
    tell_order(
        session,
        order,
        "invoiced",
        actor,
        invoice_number=invoice.number,
        invoiced=invoiced_state(session, order_id),
    )
    return view


def _parts(
    session: Session,
    order: Order,
    rows: Sequence[OrderItem],
    items: Sequence[Mapping[str, int]] | None,
) -> list[tuple[OrderItem, int]]:
    """What to bill of which item. Raises AlreadyInvoiced, ExceedsOrdered, InvalidInput."""
    open_rows = [row for row in rows if row.invoiced_quantity < row.quantity]
    if not open_rows:
        raise _already(session, order)
    if items is None:
        return [(row, row.quantity - row.invoiced_quantity) for row in open_rows]
    by_id = {row.id: row for row in rows}
    wanted: dict[int, int] = {}
    for item in items:
        if item["item_id"] not in by_id:
            raise InvalidInput(
                f"Order {order.number} has no item {item['item_id']}.", field="items"
            )
        wanted[item["item_id"]] = wanted.get(item["item_id"], 0) + item["quantity"]
    return [(by_id[item_id], quantity) for item_id, quantity in wanted.items()]


def _bill(session: Session, item: OrderItem, quantity: int) -> None:
    try:
        give(
            session,
            OrderItem.invoiced_quantity,
            quantity,
            where=OrderItem.id == item.id,
            ceiling=item.quantity,
        )
    except OverLimit as over:
        available = item.quantity - item.invoiced_quantity
        raise ExceedsOrdered(
            f"{available} of {item.quantity} pieces of item {item.id} are not billed yet, and "
            f"{quantity} were asked for; bill at most {available}.",
            item_id=item.id,
            available=available,
            requested=quantity,
        ) from over


def _already(session: Session, order: Order) -> AlreadyInvoiced:
    number = session.scalar(
        select(Invoice.number).where(Invoice.order_id == order.id).order_by(Invoice.id).limit(1)
    )
    return AlreadyInvoiced(
        f"Order {order.number} is fully invoiced, first by {number}; open that invoice.",
        invoice_number=number,
        number=order.number,
    )


def _line(invoice: Invoice, item: OrderItem, quantity: int) -> InvoiceLine:
    return InvoiceLine(
        invoice_id=invoice.id,
        item_id=item.id,
        description=item.description,
        quantity=quantity,
        unit_price_cents=item.unit_price_cents,
        amount_cents=quantity * item.unit_price_cents,
    )
