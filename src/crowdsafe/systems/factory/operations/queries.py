"""What can be read: lists in pages, and the views that the API and the pages show.

All of it is plain JSON-able data, in the shapes that `schemas.py` describes. Lists are paged
by id, newest first: `cursor` is the last id of the page before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from crowdsafe.errors import NotFound
from crowdsafe.systems.factory.models import (
    CANCELLED,
    ORDER_EDGES,
    Allocation,
    Client,
    Employee,
    Invoice,
    InvoiceLine,
    LeaveRequest,
    Order,
    OrderItem,
    PayCalculation,
    Product,
    StageLog,
    Stock,
    StockMovement,
    Timesheet,
)
from crowdsafe.systems.factory.operations.common import at, gst_cents, iso, names_of

PAGE_MAX = 200
ALL_MAX = 1000
"""Most clients, products or employees that are listed at once."""


def list_clients(session: Session) -> list[dict[str, Any]]:
    """Clients by name, at most 1000."""
    rows = session.scalars(select(Client).order_by(Client.name).limit(ALL_MAX))
    keys = ("id", "name", "abn", "contact_name", "email", "phone", "address")
    return [{key: getattr(row, key) for key in keys} for row in rows]


def list_products(session: Session) -> list[dict[str, Any]]:
    """Products by code, at most 1000."""
    rows = session.scalars(select(Product).order_by(Product.code).limit(ALL_MAX))
    keys = ("id", "code", "name", "unit", "unit_price_cents")
    return [{key: getattr(row, key) for key in keys} for row in rows]


def list_employees(session: Session, *, username: str | None = None) -> list[dict[str, Any]]:
    """Staff by name with their balances, at most 1000; with `username`, only that person."""
    query = select(Employee).order_by(Employee.name).limit(ALL_MAX)
    if username is not None:
        query = query.where(Employee.username == username)
    keys = ("id", "name", "username", "position")
    balances = ("annual_minutes", "sick_minutes", "personal_minutes")
    rows = session.scalars(query)
    return [{key: getattr(row, key) for key in (*keys, *balances)} for row in rows]


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
    return _page(_allocations(session, rows), limit)


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
    return _page(_invoices(session, rows), limit)


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
    return _page(_timesheets(session, rows), limit)


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
    return _page(_leave(session, rows), limit)


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


# --- views ------------------------------------------------------------------------------------


def order_summaries(session: Session, rows: Sequence[Order]) -> list[dict[str, Any]]:
    """What a list shows of orders: four statements, however many orders."""
    ids = [row.id for row in rows]
    clients = _names_by_id(session, Client.id, Client.name, (row.client_id for row in rows))
    names = names_of(session, (name for row in rows for name in (row.created_by, row.updated_by)))
    totals = {
        order_id: (int(pieces), int(subtotal))
        for order_id, pieces, subtotal in session.execute(
            select(
                OrderItem.order_id,
                func.sum(OrderItem.quantity),
                func.sum(OrderItem.quantity * OrderItem.unit_price_cents),
            )
            .where(OrderItem.order_id.in_(ids))
            .group_by(OrderItem.order_id)
        )
    }
    invoiced = invoiced_state(session, ids)
    return [
        {
            "id": row.id,
            "number": row.number,
            "client_id": row.client_id,
            "client": clients[row.client_id],
            "contact_name": row.contact_name,
            "purchase_order": row.purchase_order,
            "priority": row.priority,
            "due_date": iso(row.due_date),
            "stage": row.stage,
            "quantity": totals.get(row.id, (0, 0))[0],
            **_money(totals.get(row.id, (0, 0))[1]),
            "invoiced": invoiced[row.id],
            "version": row.version,
            "created_at": at(row.created_at),
            "created_by": row.created_by,
            "created_by_name": names[row.created_by],
            "updated_at": at(row.updated_at),
            "updated_by": row.updated_by,
            "updated_by_name": names[row.updated_by],
        }
        for row in rows
    ]


def invoiced_state(session: Session, order_ids: Sequence[int]) -> dict[int, str]:
    """Whether orders are invoiced: "no", "partly" or "fully", by id."""
    state = dict.fromkeys(order_ids, "no")
    rows = session.execute(
        select(
            OrderItem.order_id,
            func.sum(OrderItem.invoiced_quantity),
            func.sum(OrderItem.quantity),
        )
        .where(OrderItem.order_id.in_(order_ids))
        .group_by(OrderItem.order_id)
    )
    for order_id, billed, ordered in rows:
        if billed:
            state[order_id] = "fully" if billed == ordered else "partly"
    return state


def order_view(session: Session, order: Order) -> dict[str, Any]:
    """An order with items, stage log, allocations and invoices."""
    items = session.execute(
        select(OrderItem, Product.code)
        .join(Product, Product.id == OrderItem.product_id)
        .where(OrderItem.order_id == order.id)
        .order_by(OrderItem.id)
    ).all()
    log = session.scalars(
        select(StageLog).where(StageLog.order_id == order.id).order_by(StageLog.id)
    ).all()
    allocations = session.scalars(
        select(Allocation).where(Allocation.order_id == order.id).order_by(Allocation.id)
    ).all()
    invoices = session.scalars(
        select(Invoice).where(Invoice.order_id == order.id).order_by(Invoice.id)
    ).all()
    names = names_of(session, (entry.by for entry in log))
    return {
        **order_summaries(session, [order])[0],
        "delivery_address": order.delivery_address,
        "notes": order.notes,
        "items": [_item(item, code) for item, code in items],
        "stage_log": [
            {
                "from_stage": entry.from_stage,
                "to_stage": entry.to_stage,
                "by": entry.by,
                "by_name": names[entry.by],
                "at": at(entry.at),
                "note": entry.note or "",
            }
            for entry in log
        ],
        "allocations": _allocations(session, allocations),
        "invoices": _invoices(session, invoices),
        "next_stages": sorted(ORDER_EDGES[order.stage] - {CANCELLED}),
    }


def invoice_view(session: Session, invoice: Invoice) -> dict[str, Any]:
    """An invoice with its lines."""
    lines = session.scalars(
        select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id).order_by(InvoiceLine.id)
    )
    keys = ("id", "item_id", "description", "quantity", "unit_price_cents", "amount_cents")
    shown = [{key: getattr(line, key) for key in keys} for line in lines]
    return {**_invoices(session, [invoice])[0], "lines": shown}


def timesheet_view(session: Session, sheet: Timesheet) -> dict[str, Any]:
    """A timesheet with its pay calculations."""
    return _timesheets(session, [sheet])[0]


def leave_view(session: Session, leave: LeaveRequest) -> dict[str, Any]:
    """A leave request with the employee's present balance of its kind."""
    return _leave(session, [leave])[0]


def _item(item: OrderItem, code: str) -> dict[str, Any]:
    return {
        "id": item.id,
        "product_id": item.product_id,
        "product_code": code,
        "description": item.description,
        "quantity": item.quantity,
        "unit_price_cents": item.unit_price_cents,
        "amount_cents": item.quantity * item.unit_price_cents,
        "invoiced_quantity": item.invoiced_quantity,
    }


def _allocations(session: Session, rows: Sequence[Allocation]) -> list[dict[str, Any]]:
    stocks = {
        stock_id: (client, product)
        for stock_id, client, product in session.execute(
            select(Stock.id, Client.name, Product.name)
            .join(Client, Client.id == Stock.client_id)
            .join(Product, Product.id == Stock.product_id)
            .where(Stock.id.in_({row.stock_id for row in rows}))
        )
    }
    names = names_of(session, (row.by for row in rows))
    return [
        {
            "id": row.id,
            "stock_id": row.stock_id,
            "client": stocks[row.stock_id][0],
            "product": stocks[row.stock_id][1],
            "quantity": row.quantity,
            "state": row.state,
            "order_id": row.order_id,
            "reference": row.reference,
            "expires_at": iso(row.expires_at),
            "by": row.by,
            "by_name": names[row.by],
            "at": at(row.at),
        }
        for row in rows
    ]


def _invoices(session: Session, rows: Sequence[Invoice]) -> list[dict[str, Any]]:
    clients = _names_by_id(session, Client.id, Client.name, (row.client_id for row in rows))
    orders = _names_by_id(session, Order.id, Order.number, (row.order_id for row in rows))
    names = names_of(session, (row.issued_by for row in rows))
    return [
        {
            "id": row.id,
            "number": row.number,
            "order_id": row.order_id,
            "order_number": orders[row.order_id],
            "client_id": row.client_id,
            "client": clients[row.client_id],
            "subtotal_cents": row.subtotal_cents,
            "gst_cents": row.gst_cents,
            "total_cents": row.total_cents,
            "issued_at": at(row.issued_at),
            "issued_by": row.issued_by,
            "issued_by_name": names[row.issued_by],
        }
        for row in rows
    ]


def _timesheets(session: Session, rows: Sequence[Timesheet]) -> list[dict[str, Any]]:
    staff = _names_by_id(session, Employee.id, Employee.name, (row.employee_id for row in rows))
    names = names_of(session, (row.updated_by for row in rows))
    pay: dict[int, list[dict[str, Any]]] = {row.id: [] for row in rows}
    keys = ("id", "kind", "ordinary_minutes", "overtime_minutes", "gross_cents", "by")
    for paid in session.scalars(
        select(PayCalculation)
        .where(PayCalculation.timesheet_id.in_(pay))
        .order_by(PayCalculation.id)
    ):
        shown = {key: getattr(paid, key) for key in keys}
        pay[paid.timesheet_id].append(shown | {"at": at(paid.at)})
    return [
        {
            "id": row.id,
            "employee_id": row.employee_id,
            "employee": staff[row.employee_id],
            "week_start": row.week_start.isoformat(),
            "minutes": row.minutes,
            "total_minutes": sum(row.minutes),
            "notes": row.notes,
            "status": row.status,
            "pay_calculations": pay[row.id],
            **_last_change(row, names),
        }
        for row in rows
    ]


def _leave(session: Session, rows: Sequence[LeaveRequest]) -> list[dict[str, Any]]:
    staff = {
        employee_id: (name, {"annual": annual, "sick": sick, "personal": personal})
        for employee_id, name, annual, sick, personal in session.execute(
            select(
                Employee.id,
                Employee.name,
                Employee.annual_minutes,
                Employee.sick_minutes,
                Employee.personal_minutes,
            ).where(Employee.id.in_({row.employee_id for row in rows}))
        )
    }
    names = names_of(session, (row.updated_by for row in rows))
    return [
        {
            "id": row.id,
            "employee_id": row.employee_id,
            "employee": staff[row.employee_id][0],
            "kind": row.kind,
            "start_date": row.start_date.isoformat(),
            "end_date": row.end_date.isoformat(),
            "minutes": row.minutes,
            "hours": round(row.minutes / 60, 4),
            "reason": row.reason,
            "status": row.status,
            "balance_minutes": staff[row.employee_id][1][row.kind],
            **_last_change(row, names),
        }
        for row in rows
    ]


def _last_change(row: Timesheet | LeaveRequest, names: dict[str, str]) -> dict[str, Any]:
    return {
        "version": row.version,
        "updated_at": at(row.updated_at),
        "updated_by": row.updated_by,
        "updated_by_name": names[row.updated_by],
    }


def _names_by_id(
    session: Session,
    key: InstrumentedAttribute[int],
    name: InstrumentedAttribute[str],
    ids: Iterable[int],
) -> dict[int, str]:
    rows = session.execute(select(key, name).where(key.in_(set(ids))))
    return {row_id: shown for row_id, shown in rows}  # noqa: C416 (rows are not pairs to mypy)


def _money(subtotal_cents: int) -> dict[str, int]:
    gst = gst_cents(subtotal_cents)
    return {
        "subtotal_cents": subtotal_cents,
        "gst_cents": gst,
        "total_cents": subtotal_cents + gst,
    }


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
