"""What can be read: lists in pages, and the views that the API and the pages show.

All of it is plain JSON-able data, in the shapes that `schemas.py` describes. Lists are paged
by id, newest first: `cursor` is the last id of the page before.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from crowdsafe.errors import NotFound
from crowdsafe.systems.factory.models import (
    CANCELLED,
    Allocation,
    Client,
    Employee,
    Invoice,
    LeaveRequest,
    Order,
    Product,
    Stock,
    StockMovement,
    Timesheet,
)
from crowdsafe.systems.factory.operations.common import at, names_of
from crowdsafe.systems.factory.operations.views import (
    allocation_views,
    client_view,
    employee_view,
    invoice_view,
    invoice_views,
    leave_view,
    leave_views,
    order_summaries,
    order_view,
    product_view,
    timesheet_view,
    timesheet_views,
)

PAGE_MAX = 200
ALL_MAX = 1000
"""Most clients, products or employees that are listed at once."""


def list_clients(session: Session) -> list[dict[str, Any]]:
    """Clients by name, at most 1000."""
    rows = session.scalars(select(Client).order_by(Client.name).limit(ALL_MAX))
    return [client_view(row) for row in rows]


def list_products(session: Session) -> list[dict[str, Any]]:
    """Products by code, at most 1000."""
    rows = session.scalars(select(Product).order_by(Product.code).limit(ALL_MAX))
    return [product_view(row) for row in rows]


def list_employees(session: Session, *, username: str | None = None) -> list[dict[str, Any]]:
    """Staff by name with their balances, at most 1000; with `username`, only that person."""
    query = select(Employee).order_by(Employee.name).limit(ALL_MAX)
    if username is not None:
        query = query.where(Employee.username == username)
    return [employee_view(row) for row in session.scalars(query)]


def list_stock(
    session: Session,
    *,
    client_id: int | None = None,
    product_id: int | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Stock rows with what is free (`on_hand`) and what is set aside (`reserved`), by id."""
    reserved = (
        select(func.coalesce(func.sum(Allocation.quantity), 0))
        .where(Allocation.stock_id == Stock.id, Allocation.state == "active")
        .correlate(Stock)
        .scalar_subquery()
    )
    query = (
        select(Stock, Client.name, Product, reserved)
        .join(Client, Client.id == Stock.client_id)
        .join(Product, Product.id == Stock.product_id)
        .order_by(Stock.id)
    )
    if client_id is not None:
        query = query.where(Stock.client_id == client_id)
    if product_id is not None:
        query = query.where(Stock.product_id == product_id)
    if cursor is not None:
        query = query.where(Stock.id > cursor)
    rows = session.execute(query.limit(limit + 1)).all()
    items = [
        {
            "id": stock.id,
            "client_id": stock.client_id,
            "client": client,
            "product_id": stock.product_id,
            "product_code": product.code,
            "product": product.name,
            "unit": product.unit,
            "on_hand": stock.on_hand,
            "reserved": int(set_aside),
            "reorder_level": stock.reorder_level,
            "low": stock.on_hand < stock.reorder_level,
        }
        for stock, client, product, set_aside in rows
    ]
    return _page(items, limit)


def stock_movements(
    session: Session, stock_id: int, *, cursor: int | None = None, limit: int = 50
) -> dict[str, Any]:
    """The ledger of one stock row, newest first. Raises NotFound."""
    if session.get(Stock, stock_id) is None:
        raise NotFound(f"There is no stock row {stock_id}.")
    query = select(StockMovement).where(StockMovement.stock_id == stock_id)
    rows = session.scalars(_newest(query, StockMovement.id, cursor, limit)).all()
    names = names_of(session, (row.by for row in rows))
    items = [
        {
            "id": row.id,
            "stock_id": row.stock_id,
            "kind": row.kind,
            "quantity": row.quantity,
            "balance_after": row.balance_after,
            "reference": row.reference,
            "by": row.by,
            "by_name": names[row.by],
            "at": at(row.at),
        }
        for row in rows
    ]
    return _page(items, limit)


def list_allocations(
    session: Session,
    *,
    state: str | None = "active",
    order_id: int | None = None,
    stock_id: int | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Stock set aside for orders and reservations, newest first."""
    query = select(Allocation)
    if state is not None:
        query = query.where(Allocation.state == state)
    if order_id is not None:
        query = query.where(Allocation.order_id == order_id)
    if stock_id is not None:
        query = query.where(Allocation.stock_id == stock_id)
    rows = session.scalars(_newest(query, Allocation.id, cursor, limit)).all()
    return _page(allocation_views(session, rows), limit)


def list_orders(
    session: Session,
    *,
    stage: str | None = None,
    client_id: int | None = None,
    priority: str | None = None,
    open_only: bool = False,
    search: str = "",
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Orders, newest first; `search` looks into number, client, contact and purchase order."""
    query = select(Order)
    if stage is not None:
        query = query.where(Order.stage == stage)
    if client_id is not None:
        query = query.where(Order.client_id == client_id)
    if priority is not None:
        query = query.where(Order.priority == priority)
    if open_only:
        query = query.where(Order.stage.not_in((CANCELLED, "cleared")))
    if search:
        query = query.join(Client, Client.id == Order.client_id).where(
            or_(
                *(
                    column.icontains(search, autoescape=True)
                    for column in (
                        Order.number,
                        Client.name,
                        Order.contact_name,
                        Order.purchase_order,
                    )
                )
            )
        )
    rows = session.scalars(_newest(query, Order.id, cursor, limit)).all()
    return _page(order_summaries(session, rows), limit)


def get_order(session: Session, order_id: int) -> dict[str, Any]:
    """One order with everything on it. Raises NotFound."""
    order = session.get(Order, order_id)
    if order is None:
        raise NotFound(f"There is no order {order_id}.")
    return order_view(session, order)


def list_invoices(
    session: Session,
    *,
    order_id: int | None = None,
    client_id: int | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Invoices, newest first."""
    query = select(Invoice)
    if order_id is not None:
        query = query.where(Invoice.order_id == order_id)
    if client_id is not None:
        query = query.where(Invoice.client_id == client_id)
    rows = session.scalars(_newest(query, Invoice.id, cursor, limit)).all()
    return _page(invoice_views(session, rows), limit)


def get_invoice(session: Session, invoice_id: int) -> dict[str, Any]:
    """One invoice with its lines. Raises NotFound."""
    invoice = session.get(Invoice, invoice_id)
    if invoice is None:
        raise NotFound(f"There is no invoice {invoice_id}.")
    return invoice_view(session, invoice)


def list_timesheets(
    session: Session,
    *,
    employee_id: int | None = None,
    status: str | None = None,
    username: str | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Timesheets, newest first; with `username`, only those of that person."""
    query = select(Timesheet)
    if username is not None:
        query = query.join(Employee).where(Employee.username == username)
    if employee_id is not None:
        query = query.where(Timesheet.employee_id == employee_id)
    if status is not None:
        query = query.where(Timesheet.status == status)
    rows = session.scalars(_newest(query, Timesheet.id, cursor, limit)).all()
    return _page(timesheet_views(session, rows), limit)


def get_timesheet(
    session: Session, timesheet_id: int, *, username: str | None = None
) -> dict[str, Any]:
    """One timesheet with its pay calculations; with `username`, only if it is that person's.

    Raises NotFound.
    """
    sheet = session.get(Timesheet, timesheet_id)
    if sheet is None or not _belongs_to(session, sheet.employee_id, username):
        raise NotFound(f"There is no timesheet {timesheet_id}.")
    return timesheet_view(session, sheet)


def list_leave(
    session: Session,
    *,
    employee_id: int | None = None,
    status: str | None = None,
    username: str | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> dict[str, Any]:
    """Leave requests, newest first; with `username`, only those of that person."""
    query = select(LeaveRequest)
    if username is not None:
        query = query.join(Employee).where(Employee.username == username)
    if employee_id is not None:
        query = query.where(LeaveRequest.employee_id == employee_id)
    if status is not None:
        query = query.where(LeaveRequest.status == status)
    rows = session.scalars(_newest(query, LeaveRequest.id, cursor, limit)).all()
    return _page(leave_views(session, rows), limit)


def get_leave(session: Session, leave_id: int, *, username: str | None = None) -> dict[str, Any]:
    """One leave request; with `username`, only if it is that person's. Raises NotFound."""
    leave = session.get(LeaveRequest, leave_id)
    if leave is None or not _belongs_to(session, leave.employee_id, username):
        raise NotFound(f"There is no leave request {leave_id}.")
    return leave_view(session, leave)


def employee_id_of(session: Session, username: str) -> int | None:
    """The employee who logs in under this name, or None."""
    return session.scalar(select(Employee.id).where(Employee.username == username))


def _belongs_to(session: Session, employee_id: int, username: str | None) -> bool:
    return username is None or session.get_one(Employee, employee_id).username == username


def _newest(
    query: Select[Any], key: InstrumentedAttribute[int], cursor: int | None, limit: int
) -> Select[Any]:
    if cursor is not None:
        query = query.where(key < cursor)
    return query.order_by(key.desc()).limit(limit + 1)


def _page(items: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The first `limit` items, and the cursor to the rest if there is more."""
    more = len(items) > limit
    shown = items[:limit]
    return {"items": shown, "next_cursor": shown[-1]["id"] if more else None}
