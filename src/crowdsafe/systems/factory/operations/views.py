"""The views that the API and the pages show of rows: plain JSON-able data, as in `schemas.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

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
    Timesheet,
)
from crowdsafe.systems.factory.operations.common import at, gst_cents, iso, names_of


def client_view(client: Client) -> dict[str, Any]:
    """A client."""
    keys = ("id", "name", "abn", "contact_name", "email", "phone", "address")
    return {key: getattr(client, key) for key in keys}


def product_view(product: Product) -> dict[str, Any]:
    """A product."""
    keys = ("id", "code", "name", "unit", "unit_price_cents")
    return {key: getattr(product, key) for key in keys}


def employee_view(employee: Employee) -> dict[str, Any]:
    """An employee with leave balances, without pay."""
    keys = ("id", "name", "username", "position")
    balances = ("annual_minutes", "sick_minutes", "personal_minutes")
    return {key: getattr(employee, key) for key in (*keys, *balances)}


def order_summaries(session: Session, rows: Sequence[Order]) -> list[dict[str, Any]]:
    """What a list shows of orders: three statements, however many orders."""
    ids = [row.id for row in rows]
    clients = _names_by_id(session, Client.id, Client.name, (row.client_id for row in rows))
    names = names_of(session, (name for row in rows for name in (row.created_by, row.updated_by)))
    totals = _totals(session, ids)
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
            "quantity": totals[row.id].pieces,
            **_money(totals[row.id].subtotal_cents),
            "invoiced": totals[row.id].invoiced,
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


def invoiced_state(session: Session, order_id: int) -> str:
    """Whether an order is invoiced: "no", "partly" or "fully"."""
    return _totals(session, [order_id])[order_id].invoiced


@dataclass(frozen=True, slots=True)
class _Totals:
    pieces: int = 0
    subtotal_cents: int = 0
    billed: int = 0

    @property
    def invoiced(self) -> str:
        if not self.billed:
            return "no"
        return "fully" if self.billed == self.pieces else "partly"


def _totals(session: Session, order_ids: Sequence[int]) -> dict[int, _Totals]:
    rows = session.execute(
        select(
            OrderItem.order_id,
            func.sum(OrderItem.quantity),
            func.sum(OrderItem.quantity * OrderItem.unit_price_cents),
            func.sum(OrderItem.invoiced_quantity),
        )
        .where(OrderItem.order_id.in_(order_ids))
        .group_by(OrderItem.order_id)
    )
    found = {row[0]: _Totals(*map(int, row[1:])) for row in rows}
    return {order_id: found.get(order_id, _Totals()) for order_id in order_ids}


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
        "allocations": allocation_views(session, allocations),
        "invoices": invoice_views(session, invoices),
        "next_stages": sorted(ORDER_EDGES[order.stage] - {CANCELLED}),
    }


def invoice_view(session: Session, invoice: Invoice) -> dict[str, Any]:
    """An invoice with its lines."""
    lines = session.scalars(
        select(InvoiceLine).where(InvoiceLine.invoice_id == invoice.id).order_by(InvoiceLine.id)
    )
    keys = ("id", "item_id", "description", "quantity", "unit_price_cents", "amount_cents")
    shown = [{key: getattr(line, key) for key in keys} for line in lines]
    return {**invoice_views(session, [invoice])[0], "lines": shown}


def timesheet_view(session: Session, sheet: Timesheet) -> dict[str, Any]:
    """A timesheet with its pay calculations."""
    return timesheet_views(session, [sheet])[0]


def leave_view(session: Session, leave: LeaveRequest) -> dict[str, Any]:
    """A leave request with the employee's present balance of its kind."""
    return leave_views(session, [leave])[0]


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


def allocation_views(session: Session, rows: Sequence[Allocation]) -> list[dict[str, Any]]:
    """Allocations with the names of client and product."""
    if not rows:
        return []
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


def invoice_views(session: Session, rows: Sequence[Invoice]) -> list[dict[str, Any]]:
    """Invoices without their lines."""
    if not rows:
        return []
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


def timesheet_views(session: Session, rows: Sequence[Timesheet]) -> list[dict[str, Any]]:
    """Timesheets with their pay calculations."""
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


def leave_views(session: Session, rows: Sequence[LeaveRequest]) -> list[dict[str, Any]]:
    """Leave requests, each with the employee's present balance of its kind."""
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
