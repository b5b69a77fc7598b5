"""Demo data: a plant in the middle of a working week. The same every time, but for the dates."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import Insufficient
from crowdsafe.store import Store
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory import demo_data
from crowdsafe.systems.factory.models import (
    CANCELLED,
    Allocation,
    Client,
    Employee,
    Order,
    OrderItem,
    Product,
    StageLog,
    Stock,
)
from crowdsafe.systems.factory.operations import leave, timesheets
from crowdsafe.systems.factory.operations.invoices import invoice_order
from crowdsafe.systems.factory.operations.stock import OPEN_FOR_STOCK
from crowdsafe.systems.factory.schemas import PRIORITIES, STAGES
from crowdsafe.writes import get_or_create, give, next_number, take

_SALES = ("sales", "mara", "tomas")
_FLOOR = ("production_team", "supervisor", "production_manager")


@dataclass(frozen=True, slots=True)
class _By:
    username: str
    name: str = ""


def seed(store: Store) -> bool:
    """Fill an empty plant with demo data, in one transaction; False when it is there already.

    Two processes that start at once seed it once: the first client's unique name decides.
    """
    return store.write(fill, deadline_s=60)


@write(isolation="read committed")
def fill(session: Session, now: datetime | None = None) -> bool:
    """As `seed`, on a session. All dates are counted back from `now`."""
    moment = now or utcnow()
    first = demo_data.CLIENTS[0]
    _, created = get_or_create(session, Client, defaults=_client(first), name=first[0])
    if not created:
        return False
    chance = random.Random(76)
    session.add_all(Client(name=row[0], **_client(row)) for row in demo_data.CLIENTS[1:])
    session.add_all(
        Product(code=code, name=name, unit=unit, unit_price_cents=cents)
        for code, name, unit, cents in demo_data.PRODUCTS
    )
    session.flush()
    clients = session.query(Client).order_by(Client.id).all()
    products = session.query(Product).order_by(Product.id).all()
    _stock(session, chance, clients, products, moment)
    _orders(session, chance, clients, products, moment)
    _staff(session)
    _weeks(session, chance, moment)
    _leave(session, moment)
    return True


def _client(row: tuple[str, str, str, str]) -> dict[str, str]:
    name, abn, contact, city = row
    domain = "".join(letter for letter in name.lower() if letter.isalpha())
    mailbox = contact.split()[0].lower()
    return {
        "abn": abn,
        "contact_name": contact,
        "email": f"{mailbox}@{domain}.example",
        "phone": f"03 5550 {sum(map(ord, name)) % 9000 + 1000}",
        "address": f"{sum(map(ord, city)) % 180 + 1} Mill Road, {city}",
    }


def _stock(
    session: Session,
    chance: random.Random,
    clients: list[Client],
    products: list[Product],
    moment: datetime,
) -> None:
    """For each client two to four products, received in one to three deliveries."""
    for client in clients:
        for product in chance.sample(products, chance.randint(2, 4)):
            stock = Stock(client_id=client.id, product_id=product.id, reorder_level=400)
            session.add(stock)
            session.flush()
            for delivery in range(chance.randint(1, 3)):
                days = 60 - 18 * delivery - chance.randint(0, 6)
                entry = {
                    "kind": "receipt",
                    "reference": f"Delivery note {chance.randint(10_000, 99_999)}",
                    "by": chance.choice(_FLOOR),
                    "at": moment - timedelta(days=days, minutes=chance.randint(0, 500)),
                }
                pieces = 50 * chance.randint(4, 60)
                give(session, Stock.on_hand, pieces, where=stock.id, entry=entry)


def _orders(
    session: Session,
    chance: random.Random,
    clients: list[Client],
    products: list[Product],
    moment: datetime,
) -> None:
    """Forty orders, the furthest along entered first."""
    stages = [stage for stage, count in demo_data.STAGE_COUNTS for _ in range(count)]
    for index, stage in enumerate(reversed(stages)):
        entered = moment - timedelta(
            hours=20 * (len(stages) - index), minutes=chance.randint(0, 300)
        )
        client = clients[(index * 5) % len(clients)]
        order = _entered(session, chance, client, products, entered)
        _advance(session, chance, order, stage, moment)
        if stage in OPEN_FOR_STOCK:
            _set_aside(session, chance, order)
        if stage in ("accounting_transaction", "cleared") or (stage == "invoicing" and index % 2):
            invoice_order(session, order_id=order.id, actor=_By("manager", "Grace Oduya"))


def _entered(
    session: Session,
    chance: random.Random,
    client: Client,
    products: list[Product],
    entered: datetime,
) -> Order:
    year = str(entered.year)
    by = chance.choice(_SALES)
    order = Order(
        number=f"ADM-{year}-{next_number(session, 'factory.order', scope=year):04d}",
        client_id=client.id,
        contact_name=client.contact_name,
        purchase_order=f"PO-{chance.randint(1000, 9999)}",
        delivery_address=client.address,
        notes=chance.choice(demo_data.NOTES),
        priority=chance.choice(PRIORITIES),
        due_date=(entered + timedelta(days=chance.randint(20, 50))).date(),
        created_by=by,
        created_at=entered,
        updated_by=by,
        updated_at=entered,
    )
    session.add(order)
    session.flush()
    for product in chance.sample(products[4:], chance.randint(1, 3)):
        item = OrderItem(
            order_id=order.id,
            product_id=product.id,
            description=product.name,
            quantity=50 * chance.randint(2, 100),
            unit_price_cents=product.unit_price_cents,
        )
        session.add(item)
    session.flush()
    return order


def _advance(
    session: Session, chance: random.Random, order: Order, stage: str, moment: datetime
) -> None:
    """Walk the order to its stage, with a log row for each move."""
    path = ["order_entered", CANCELLED] if stage == CANCELLED else list(STAGES)
    path = path[: path.index(stage) + 1]
    step = (moment - order.created_at) / (len(path) + 1)
    for number, (before, after) in enumerate(pairwise(path), start=1):
        by = chance.choice(_FLOOR)
        when = order.created_at + step * number
        session.add(StageLog(order_id=order.id, from_stage=before, to_stage=after, by=by, at=when))
        order.stage, order.version = after, order.version + 1
        order.updated_by, order.updated_at = by, when
    session.flush()


def _set_aside(session: Session, chance: random.Random, order: Order) -> None:
    """Allocate from what the client has, if there is any."""
    stock = session.query(Stock).filter_by(client_id=order.client_id).order_by(Stock.id).first()
    if stock is None:
        return
    quantity = 10 * chance.randint(5, 30)
    by = chance.choice(_SALES)
    entry = {
        "kind": "allocation",
        "reference": order.number,
        "by": by,
        "at": order.updated_at,
    }
    try:
        taken = take(session, Stock.on_hand, quantity, where=stock.id, entry=entry)
    except Insufficient:
        return
    session.add(
        Allocation(
            stock_id=stock.id,
            quantity=quantity,
            order_id=order.id,
            reference=order.number,
            movement_id=taken.entry_id,
            by=by,
            at=order.updated_at,
        )
    )
    session.flush()


def _staff(session: Session) -> None:
    for name, username, position, rate, *hours in demo_data.STAFF:
        employee = Employee(name=name, username=username, position=position, hourly_rate_cents=rate)
        session.add(employee)
        session.flush()
        for kind, opening in zip(leave.BALANCES, hours, strict=True):
            entry = {"kind": kind, "reason": "opening balance", "by": "manager"}
            column = leave.BALANCES[kind][0]
            give(session, column, opening * 60, where=employee.id, entry=entry)


def _weeks(session: Session, chance: random.Random, moment: datetime) -> None:
    """Two weeks ago is approved, last week is handed in, this week is being filled in."""
    manager = _By("manager", "Grace Oduya")
    monday = (moment - timedelta(days=moment.weekday())).date()
    for employee in session.query(Employee).order_by(Employee.id):
        person = _By(employee.username or "supervisor", employee.name)
        for back in (2, 1, 0):
            days = [456 + 30 * chance.choice((0, 0, 0, 1, 2)) for _ in range(5)]
            sheet = timesheets.create_timesheet(
                session,
                employee_id=employee.id,
                week_start=monday - timedelta(weeks=back),
                minutes=(days if back else [456, 456, 0, 0, 0]) + [0, 0],
                actor=person,
                for_anyone=True,
            )
            if back:
                timesheets.submit_timesheet(
                    session, timesheet_id=sheet["id"], actor=person, for_anyone=True
                )
            if back == 2:
                timesheets.approve_timesheet(session, timesheet_id=sheet["id"], actor=manager)


def _leave(session: Session, moment: datetime) -> None:
    manager = _By("manager", "Grace Oduya")
    staff = session.query(Employee).order_by(Employee.id).all()
    wishes = (
        (2, "annual", 14, 5, "Family in Perth", "approve"),
        (5, "sick", -4, 1, "Doctor", "approve"),
        (8, "annual", 21, 5, "Moving house", ""),
        (9, "personal", 6, 1, "School concert", ""),
        (6, "annual", 40, 10, "Trip north", ""),
        (11, "sick", -9, 2, "Flu", "approve"),
        (3, "personal", 2, 1, "Council appointment", "reject"),
        (10, "annual", 30, 3, "Long weekend", ""),
    )
    for index, kind, begins, days, reason, decision in wishes:
        person = staff[index]
        start = (moment + timedelta(days=begins)).date()
        request = leave.request_leave(
            session,
            employee_id=person.id,
            kind=kind,
            start_date=start,
            end_date=start + timedelta(days=days - 1),
            minutes=days * 456,
            reason=reason,
            actor=_By(person.username or "supervisor", person.name),
            for_anyone=True,
        )
        if decision == "approve":
            leave.approve_leave(session, leave_id=request["id"], actor=manager)
        elif decision == "reject":
            leave.reject_leave(session, leave_id=request["id"], actor=manager)
