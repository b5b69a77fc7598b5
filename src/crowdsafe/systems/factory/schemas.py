"""What the factory's HTTP API takes and gives, as pydantic models.

Units: money in integer cents (AUD), quantities in whole pieces, working time and leave in
integer minutes (requests may say hours with up to a minute's precision), times in UTC
(ISO 8601 with offset), weeks by their Monday. Every list, text and number has a limit.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

QUANTITY_MAX = 1_000_000_000
ITEM_QUANTITY_MAX = 10_000_000
PRICE_CENTS_MAX = 10_000_000
ITEMS_MAX = 100
ID_MAX = 2**53
LEAVE_HOURS_MAX = 760.0
DAY_MINUTES_MAX = 24 * 60

STAGES = (
    "order_entered",
    "pending_material",
    "paper_slitting",
    "winding",
    "finishing",
    "delivery",
    "invoicing",
    "accounting_transaction",
    "cleared",
)
PRIORITIES = ("ASAP", "Must Delivery On Date", "Normal/Low")
LEAVE_KINDS = ("annual", "sick", "personal")

Stage = Literal[
    "order_entered",
    "pending_material",
    "paper_slitting",
    "winding",
    "finishing",
    "delivery",
    "invoicing",
    "accounting_transaction",
    "cleared",
]
AnyStage = Stage | Literal["cancelled"]
Priority = Literal["ASAP", "Must Delivery On Date", "Normal/Low"]
LeaveKind = Literal["annual", "sick", "personal"]
LeaveStatus = Literal["requested", "approved", "rejected", "cancelled"]
TimesheetStatus = Literal["draft", "submitted", "approved"]


def storable(text: str) -> str:
    """Refuse what a database cannot store as text: NUL, control characters, lone surrogates."""
    if any(ord(c) < 32 and c not in "\n\t\r" for c in text):
        raise ValueError("must not hold control characters")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("must be valid Unicode")
    return text


def no_number(day: Any) -> Any:
    """Refuse a number where a date is due: pydantic would count from 1970."""
    if day is not None and (not isinstance(day, str | date) or str(day).strip().isdecimal()):
        raise ValueError("must be a date such as 2026-11-23")
    return day


def whole_minutes(hours: float) -> float:
    """Refuse hours that are not a whole number of minutes (7.6 h = 456 min is fine)."""
    minutes = round(hours * 60)
    if minutes < 1 or abs(hours * 60 - minutes) > 1e-6:
        raise ValueError("must be a whole number of minutes, at least one")
    return hours


Line = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=200), AfterValidator(storable)
]
Required = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(storable),
]
Short = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=40), AfterValidator(storable)
]
Prose = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=4000), AfterValidator(storable)
]
Day = Annotated[date, BeforeValidator(no_number)]
Id = Annotated[int, Field(strict=True, ge=1, le=ID_MAX)]
Quantity = Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)]
ItemQuantity = Annotated[int, Field(strict=True, ge=1, le=ITEM_QUANTITY_MAX)]
PriceCents = Annotated[int, Field(strict=True, ge=0, le=PRICE_CENTS_MAX)]
Version = Annotated[int, Field(strict=True, ge=1, le=ID_MAX)]
OpeningMinutes = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
DayMinutes = Annotated[int, Field(strict=True, ge=0, le=DAY_MINUTES_MAX)]


class Body(BaseModel):
    """A request body: unknown fields are refused, so that a typing error is not ignored."""

    model_config = ConfigDict(extra="forbid")


# --- requests -------------------------------------------------------------------------------


class NewClient(Body):
    name: Required
    abn: Short = ""
    contact_name: Line = ""
    email: Line = ""
    phone: Short = ""
    address: Line = ""


class NewProduct(Body):
    code: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,40}$")]
    name: Required
    unit: Annotated[str, StringConstraints(pattern=r"^[a-z ]{1,20}$")] = "pieces"
    unit_price_cents: PriceCents = 0


class NewEmployee(Body):
    name: Required
    username: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._@-]{1,64}$")] | None = None
    position: Short = ""
    hourly_rate_cents: PriceCents = 0
    annual_minutes: OpeningMinutes = 0
    sick_minutes: OpeningMinutes = 0
    personal_minutes: OpeningMinutes = 0


class ReceiveStock(Body):
    product_id: Id
    client_id: Id
    quantity: Quantity
    reference: Line = ""


class AllocateStock(Body):
    product_id: Id
    client_id: Id
    quantity: Quantity
    order_reference: Line | None = Field(
        default=None,
        description="An order's number (ADM-2026-0001): the stock belongs to that order. "
        "Without one it is a reservation, which expires and gives the stock back by itself.",
    )


class NewItem(Body):
    product_id: Id
    quantity: ItemQuantity
    unit_price_cents: PriceCents | None = Field(
        default=None, description="The product's list price when left out."
    )
    description: Line = Field(default="", description="The product's name when left out.")


class NewOrder(Body):
    client_id: Id
    items: list[NewItem] = Field(min_length=1, max_length=ITEMS_MAX)
    priority: Priority = "Normal/Low"
    due_date: Day | None = None
    contact_name: Line = Field(default="", description="The client's contact when left out.")
    purchase_order: Line = Field(default="", description="The client's own order number.")
    delivery_address: Line = ""
    notes: Prose = ""


class EditOrder(Body):
    """A three-way edit: `changes` is what the editor wants, `base` what it started from.

    Keys: contact_name, purchase_order, delivery_address, notes, priority, due_date,
    `items.<id>.quantity`, `items.<id>.unit_price_cents`, `items.<id>.description`;
    `items.<id>`: null removes an item (its base: the item's quantity, unit_price_cents and
    description); `items.new-1`: {product_id, quantity, ...} adds one.
    """

    base: dict[Annotated[str, StringConstraints(max_length=80)], Any] = Field(
        default_factory=dict, max_length=500
    )
    changes: dict[Annotated[str, StringConstraints(max_length=80)], Any] = Field(
        min_length=1, max_length=500
    )
    version: Version | None = Field(
        default=None, description="Or the header If-Match; when both are sent they must agree."
    )


class MoveStage(Body):
    """Either an absolute move (`from_stage`, `to_stage`) or the next one (`from_stage`, move)."""

    from_stage: AnyStage = Field(description="The stage that the caller saw.")
    to_stage: AnyStage | None = None
    move: Literal["next"] | None = Field(
        default=None, description="Instead of to_stage: the stage after from_stage."
    )
    note: Line = ""


class InvoiceItem(Body):
    item_id: Id
    quantity: ItemQuantity


class InvoiceOrder(Body):
    items: list[InvoiceItem] | None = Field(
        default=None,
        min_length=1,
        max_length=ITEMS_MAX,
        description="A partial invoice; everything not yet invoiced when left out.",
    )


class NewTimesheet(Body):
    employee_id: Id
    week_start: Day = Field(description="The week's Monday.")
    minutes: list[DayMinutes] = Field(
        default_factory=lambda: [0] * 7,
        min_length=7,
        max_length=7,
        description="Worked minutes of each day, Monday first.",
    )
    notes: Prose = ""


class EditTimesheet(Body):
    minutes: list[DayMinutes] = Field(min_length=7, max_length=7)
    version: Version | None = None


class NewLeave(Body):
    employee_id: Id
    kind: LeaveKind
    start_date: Day
    end_date: Day
    hours: Annotated[
        float,
        Field(strict=True, gt=0, le=LEAVE_HOURS_MAX, allow_inf_nan=False),
        AfterValidator(whole_minutes),
    ]
    reason: Line = ""


class Decision(Body):
    """The optional body of approve, reject, cancel, submit and reopen."""

    note: Line = ""


# --- responses ------------------------------------------------------------------------------


class Allocated(BaseModel):
    allocated_quantity: int
    remaining_stock: int
    movement_id: int
    allocation_id: int
    order_reference: str | None
    expires_at: str | None = Field(description="Only of a reservation (no order_reference).")


class Received(BaseModel):
    stock_id: int
    received_quantity: int
    on_hand: int
    movement_id: int


class Released(BaseModel):
    allocation_id: int
    released_quantity: int
    on_hand: int


class StockRow(BaseModel):
    id: int
    client_id: int
    client: str
    product_id: int
    product_code: str
    product: str
    unit: str
    on_hand: int = Field(description="What can still be allocated.")
    reserved: int = Field(description="Set aside by allocations that were not yet delivered.")
    reorder_level: int
    low: bool


class StockPage(BaseModel):
    items: list[StockRow]
    next_cursor: int | None


class Movement(BaseModel):
    id: int
    stock_id: int
    kind: str = Field(description="receipt, allocation, release or expiry")
    quantity: int = Field(description="Signed: what it did to on_hand.")
    balance_after: int
    reference: str
    by: str
    by_name: str
    at: str


class MovementPage(BaseModel):
    items: list[Movement]
    next_cursor: int | None


class Reservation(BaseModel):
    id: int
    stock_id: int
    client: str
    product: str
    quantity: int
    state: str = Field(description="active, released, expired or consumed")
    order_id: int | None
    reference: str
    expires_at: str | None
    by: str
    by_name: str
    at: str


class ReservationPage(BaseModel):
    items: list[Reservation]
    next_cursor: int | None


class Item(BaseModel):
    id: int
    product_id: int
    product_code: str
    description: str
    quantity: int
    unit_price_cents: int
    amount_cents: int
    invoiced_quantity: int


class OrderSummary(BaseModel):
    id: int
    number: str
    client_id: int
    client: str
    contact_name: str
    purchase_order: str
    priority: Priority
    due_date: str | None
    stage: AnyStage
    quantity: int = Field(description="Pieces over all items.")
    subtotal_cents: int
    gst_cents: int
    total_cents: int
    invoiced: Literal["no", "partly", "fully"]
    version: int
    created_at: str
    created_by: str
    created_by_name: str
    updated_at: str
    updated_by: str
    updated_by_name: str


class StageEntry(BaseModel):
    from_stage: str
    to_stage: str
    by: str
    by_name: str
    at: str
    note: str


class InvoiceSummary(BaseModel):
    id: int
    number: str
    order_id: int
    order_number: str
    client_id: int
    client: str
    subtotal_cents: int
    gst_cents: int
    total_cents: int
    issued_at: str
    issued_by: str
    issued_by_name: str


class Order(OrderSummary):
    delivery_address: str
    notes: str
    items: list[Item]
    stage_log: list[StageEntry]
    allocations: list[Reservation]
    invoices: list[InvoiceSummary]
    next_stages: list[str] = Field(description="Where a stage move may go from here.")


class OrderPage(BaseModel):
    items: list[OrderSummary]
    next_cursor: int | None


class Edited(BaseModel):
    order: Order
    merged: bool = Field(description="Somebody else had saved since; both changes are kept.")
    applied: list[str]


class Moved(BaseModel):
    order_id: int
    number: str
    from_stage: AnyStage
    to_stage: AnyStage
    version: int
    log_id: int | None


class Cancelled(BaseModel):
    order_id: int
    number: str
    version: int
    released_quantity: int


class Deleted(BaseModel):
    order_id: int
    number: str


class InvoiceLine(BaseModel):
    id: int
    item_id: int
    description: str
    quantity: int
    unit_price_cents: int
    amount_cents: int


class Invoice(InvoiceSummary):
    lines: list[InvoiceLine]


class InvoicePage(BaseModel):
    items: list[InvoiceSummary]
    next_cursor: int | None


class Client(BaseModel):
    id: int
    name: str
    abn: str
    contact_name: str
    email: str
    phone: str
    address: str


class Product(BaseModel):
    id: int
    code: str
    name: str
    unit: str
    unit_price_cents: int


class Employee(BaseModel):
    id: int
    name: str
    username: str | None
    position: str
    annual_minutes: int
    sick_minutes: int
    personal_minutes: int


class PayCalculation(BaseModel):
    id: int
    kind: Literal["pay", "reversal"]
    ordinary_minutes: int
    overtime_minutes: int
    gross_cents: int
    by: str
    at: str


class Timesheet(BaseModel):
    id: int
    employee_id: int
    employee: str
    week_start: str
    minutes: list[int]
    total_minutes: int
    notes: str
    status: TimesheetStatus
    version: int
    updated_at: str
    updated_by: str
    updated_by_name: str
    pay_calculations: list[PayCalculation]


class TimesheetPage(BaseModel):
    items: list[Timesheet]
    next_cursor: int | None


class Leave(BaseModel):
    id: int
    employee_id: int
    employee: str
    kind: LeaveKind
    start_date: str
    end_date: str
    minutes: int
    hours: float
    reason: str
    status: LeaveStatus
    version: int
    updated_at: str
    updated_by: str
    updated_by_name: str
    balance_minutes: int = Field(description="The employee's balance of this kind now.")


class LeavePage(BaseModel):
    items: list[Leave]
    next_cursor: int | None
