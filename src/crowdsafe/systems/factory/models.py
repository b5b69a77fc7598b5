"""The factory's tables, their ledgers and their state machines.

Units: money in integer cents (AUD), stock in whole pieces, working time and leave in minutes.

What keeps an order together is a rule that every operation follows: who changes an order, its
items, its allocations or its invoices locks the order's row first. What keeps a counter
right (stock, leave balances) is `take` and `give` with their ledger rows, and nothing else
writes those columns.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from crowdsafe.store.types import BigId, Json, UtcDateTime, utcnow
from crowdsafe.writes import Ledger, Log, StateMachine

ANNUAL_FLOOR_MINUTES = -76 * 60
"""How far annual leave may be taken in advance: two working weeks of 38 hours."""

CANCELLED = "cancelled"

ORDER_EDGES: dict[str, set[str]] = {
    "order_entered": {"pending_material", "paper_slitting", CANCELLED},
    "pending_material": {"paper_slitting", CANCELLED},
    "paper_slitting": {"winding", CANCELLED},
    "winding": {"finishing", CANCELLED},
    "finishing": {"delivery", CANCELLED},
    "delivery": {"invoicing"},
    "invoicing": {"accounting_transaction"},
    "accounting_transaction": {"cleared"},
    "cleared": set(),
    CANCELLED: set(),
}
"""Forward only. An order whose material is in stock goes from entry straight to slitting;
what has left the plant can no longer be cancelled."""

TIMESHEET_EDGES: dict[str, set[str]] = {
    "draft": {"submitted"},
    "submitted": {"approved", "draft"},
    "approved": {"draft"},
}

LEAVE_EDGES: dict[str, set[str]] = {
    "requested": {"approved", "rejected", "cancelled"},
    "approved": {"cancelled"},
    "rejected": set(),
    "cancelled": set(),
}


ALLOCATION_EDGES: dict[str, set[str]] = {
    "active": {"released", "expired", "consumed"},
    "released": set(),
    "expired": set(),
    "consumed": set(),
}


class FactoryBase(DeclarativeBase):
    """Base of the tables named ``factory_*``."""


metadata = FactoryBase.metadata


class Client(FactoryBase):
    """Who orders; the contact on an order starts as the client's."""

    __tablename__ = "factory_clients"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    abn: Mapped[str] = mapped_column(String(40), default="")
    contact_name: Mapped[str] = mapped_column(String(200), default="")
    email: Mapped[str] = mapped_column(String(200), default="")
    phone: Mapped[str] = mapped_column(String(40), default="")
    address: Mapped[str] = mapped_column(String(200), default="")


class Product(FactoryBase):
    """What is made or kept: a core, a tube, a roll of substrate."""

    __tablename__ = "factory_products"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    code: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    unit: Mapped[str] = mapped_column(String(20), default="pieces")
    unit_price_cents: Mapped[int] = mapped_column(BigInteger, default=0)


class StockMovement(FactoryBase):
    """The stock ledger: one row for each change of `Stock.on_hand`, never changed or deleted."""

    __tablename__ = "factory_stock_movements"
    __table_args__ = (Index("ix_factory_stock_movements_stock", "stock_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    stock_id: Mapped[int] = mapped_column(ForeignKey("factory_stock.id"))
    kind: Mapped[str] = mapped_column(String(20))
    quantity: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    reference: Mapped[str] = mapped_column(String(200), default="")
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Stock(FactoryBase):
    """What is kept of one product for one client; `on_hand` is what can still be allocated."""

    __tablename__ = "factory_stock"
    __table_args__ = (
        UniqueConstraint("client_id", "product_id"),
        CheckConstraint("on_hand >= 0", name="ck_factory_stock_on_hand"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("factory_clients.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("factory_products.id"))
    on_hand: Mapped[int] = mapped_column(
        BigInteger,
        default=0,
        info={
            "crowdsafe.ledger": Ledger(
                table=lambda: StockMovement,
                row="stock_id",
                delta="quantity",
                balance="balance_after",
            )
        },
    )
    reorder_level: Mapped[int] = mapped_column(BigInteger, default=0)


class Allocation(FactoryBase):
    """Stock set aside: for an order, or as a reservation that expires at `expires_at`.

    `reserved` of a stock row is the sum of its active allocations; it is not kept twice.
    """

    __tablename__ = "factory_allocations"
    __table_args__ = (
        Index("ix_factory_allocations_due", "state", "expires_at"),
        Index("ix_factory_allocations_order", "order_id"),
        Index("ix_factory_allocations_stock", "stock_id", "state"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    stock_id: Mapped[int] = mapped_column(ForeignKey("factory_stock.id"))
    quantity: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(
        String(20), default="active", info={"crowdsafe.machine": StateMachine(ALLOCATION_EDGES)}
    )
    order_id: Mapped[int | None] = mapped_column(
        ForeignKey("factory_orders.id", ondelete="SET NULL")
    )
    reference: Mapped[str] = mapped_column(String(200), default="")
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    movement_id: Mapped[int] = mapped_column(BigInteger)
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class StageLog(FactoryBase):
    """One row for each move of an order from one stage to the next."""

    __tablename__ = "factory_stage_log"
    __table_args__ = (Index("ix_factory_stage_log_order", "order_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("factory_orders.id", ondelete="CASCADE"))
    from_stage: Mapped[str] = mapped_column(String(40))
    to_stage: Mapped[str] = mapped_column(String(40))
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    note: Mapped[str | None] = mapped_column(String(200))


class Order(FactoryBase):
    """A job card: what a client ordered, and how far the plant has come with it."""

    __tablename__ = "factory_orders"
    __table_args__ = (
        Index("ix_factory_orders_stage", "stage", "id"),
        # The id of a deleted order is not given to another: somebody may still have it open.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[str] = mapped_column(String(40), unique=True)
    client_id: Mapped[int] = mapped_column(ForeignKey("factory_clients.id"))
    contact_name: Mapped[str] = mapped_column(String(200), default="")
    purchase_order: Mapped[str] = mapped_column(String(200), default="")
    delivery_address: Mapped[str] = mapped_column(String(200), default="")
    notes: Mapped[str] = mapped_column(Text, default="")
    priority: Mapped[str] = mapped_column(String(40), default="Normal/Low")
    due_date: Mapped[date | None] = mapped_column(Date)
    stage: Mapped[str] = mapped_column(
        String(40),
        default="order_entered",
        info={
            "crowdsafe.machine": StateMachine(
                edges=ORDER_EDGES,
                log=Log(
                    table=lambda: StageLog,
                    row="order_id",
                    from_="from_stage",
                    to="to_stage",
                    by="by",
                    at="at",
                    note="note",
                ),
            )
        },
    )
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_by: Mapped[str] = mapped_column(String(80))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class OrderEdit(FactoryBase):
    """Who changed which fields of an order, and which version that made."""

    __tablename__ = "factory_order_edits"
    __table_args__ = (Index("ix_factory_order_edits_order", "order_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("factory_orders.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(BigInteger)
    fields: Mapped[list[str]] = mapped_column(Json)
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class OrderItem(FactoryBase):
    """One line of an order; `invoiced_quantity` never passes `quantity`."""

    __tablename__ = "factory_order_items"
    __table_args__ = (
        Index("ix_factory_order_items_order", "order_id"),
        CheckConstraint(
            "invoiced_quantity >= 0 AND invoiced_quantity <= quantity",
            name="ck_factory_order_items_invoiced",
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("factory_orders.id", ondelete="CASCADE"))
    product_id: Mapped[int] = mapped_column(ForeignKey("factory_products.id"))
    description: Mapped[str] = mapped_column(String(200), default="")
    quantity: Mapped[int] = mapped_column(BigInteger)
    unit_price_cents: Mapped[int] = mapped_column(BigInteger)
    invoiced_quantity: Mapped[int] = mapped_column(BigInteger, default=0)


class Invoice(FactoryBase):
    """A tax invoice; its number has no gap to the one before."""

    __tablename__ = "factory_invoices"
    __table_args__ = (Index("ix_factory_invoices_order", "order_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[str] = mapped_column(String(40), unique=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("factory_orders.id"))
    client_id: Mapped[int] = mapped_column(ForeignKey("factory_clients.id"))
    subtotal_cents: Mapped[int] = mapped_column(BigInteger)
    gst_cents: Mapped[int] = mapped_column(BigInteger)
    total_cents: Mapped[int] = mapped_column(BigInteger)
    issued_by: Mapped[str] = mapped_column(String(80))
    issued_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class InvoiceLine(FactoryBase):
    """What of one order item was invoiced, as it was described and priced then."""

    __tablename__ = "factory_invoice_lines"
    __table_args__ = (Index("ix_factory_invoice_lines_invoice", "invoice_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    invoice_id: Mapped[int] = mapped_column(ForeignKey("factory_invoices.id"))
    item_id: Mapped[int] = mapped_column(ForeignKey("factory_order_items.id"))
    description: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int] = mapped_column(BigInteger)
    unit_price_cents: Mapped[int] = mapped_column(BigInteger)
    amount_cents: Mapped[int] = mapped_column(BigInteger)


class LeaveEntry(FactoryBase):
    """The leave ledger: one row for each change of a balance, never changed or deleted."""

    __tablename__ = "factory_leave_entries"
    __table_args__ = (Index("ix_factory_leave_entries_employee", "employee_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    employee_id: Mapped[int] = mapped_column(ForeignKey("factory_employees.id"))
    kind: Mapped[str] = mapped_column(String(20))
    minutes: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    request_id: Mapped[int | None] = mapped_column(ForeignKey("factory_leave_requests.id"))
    reason: Mapped[str] = mapped_column(String(40))
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


def _leave_ledger() -> dict[str, Any]:
    return {
        "crowdsafe.ledger": Ledger(
            table=lambda: LeaveEntry, row="employee_id", delta="minutes", balance="balance_after"
        )
    }


class Employee(FactoryBase):
    """One of the staff, with leave balances in minutes."""

    __tablename__ = "factory_employees"
    __table_args__ = (
        CheckConstraint(
            f"annual_minutes >= {ANNUAL_FLOOR_MINUTES}", name="ck_factory_employees_annual"
        ),
        CheckConstraint("sick_minutes >= 0", name="ck_factory_employees_sick"),
        CheckConstraint("personal_minutes >= 0", name="ck_factory_employees_personal"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    username: Mapped[str | None] = mapped_column(String(80), unique=True)
    position: Mapped[str] = mapped_column(String(80), default="")
    hourly_rate_cents: Mapped[int] = mapped_column(BigInteger, default=0)
    annual_minutes: Mapped[int] = mapped_column(BigInteger, default=0, info=_leave_ledger())
    sick_minutes: Mapped[int] = mapped_column(BigInteger, default=0, info=_leave_ledger())
    personal_minutes: Mapped[int] = mapped_column(BigInteger, default=0, info=_leave_ledger())


class LeaveRequest(FactoryBase):
    """A wish for leave; approved if and only if its minutes are off the balance."""

    __tablename__ = "factory_leave_requests"
    __table_args__ = (Index("ix_factory_leave_requests_employee", "employee_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    employee_id: Mapped[int] = mapped_column(ForeignKey("factory_employees.id"))
    kind: Mapped[str] = mapped_column(String(20))
    start_date: Mapped[date] = mapped_column(Date)
    end_date: Mapped[date] = mapped_column(Date)
    minutes: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(200), default="")
    status: Mapped[str] = mapped_column(
        String(20), default="requested", info={"crowdsafe.machine": StateMachine(LEAVE_EDGES)}
    )
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    updated_by: Mapped[str] = mapped_column(String(80))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Timesheet(FactoryBase):
    """One employee's week: seven days of worked minutes, Monday first."""

    __tablename__ = "factory_timesheets"
    __table_args__ = (UniqueConstraint("employee_id", "week_start"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    employee_id: Mapped[int] = mapped_column(ForeignKey("factory_employees.id"))
    week_start: Mapped[date] = mapped_column(Date)
    minutes: Mapped[list[int]] = mapped_column(Json)
    notes: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(
        String(20), default="draft", info={"crowdsafe.machine": StateMachine(TIMESHEET_EDGES)}
    )
    approvals: Mapped[int] = mapped_column(Integer, default=0)
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    updated_by: Mapped[str] = mapped_column(String(80))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class PayCalculation(FactoryBase):
    """What an approved week pays (`pay`), or its undoing (`reversal`, with negative values)."""

    __tablename__ = "factory_pay_calculations"
    __table_args__ = (UniqueConstraint("timesheet_id", "approval", "kind"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    timesheet_id: Mapped[int] = mapped_column(ForeignKey("factory_timesheets.id"))
    approval: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(20))
    ordinary_minutes: Mapped[int] = mapped_column(BigInteger)
    overtime_minutes: Mapped[int] = mapped_column(BigInteger)
    gross_cents: Mapped[int] = mapped_column(BigInteger)
    by: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
