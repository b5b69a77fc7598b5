"""A small plant for the tests: two stores on one database, calls that come at once, invariants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import create_engine, text

import crowdsafe.feed.tables  # noqa: F401 (its tables are created with the others)
from crowdsafe import Store
from crowdsafe.identity.tables import UserRow
from crowdsafe.systems.factory.models import metadata
from crowdsafe.systems.factory.operations import (
    allocating,
    catalogue,
    leave,
    orders,
    stock,
    timesheets,
)

MONDAY = date(2026, 11, 16)
JOIN_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Person:
    """An actor."""

    username: str
    name: str


MARA = Person("mara", "Mara Lindqvist")
TOMAS = Person("tomas", "Tomas Reyes")
GRACE = Person("manager", "Grace Oduya")


class Plant:
    """A client, a product and an employee, and what the tests do with them over and over."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store(url)
        self.store.create_all(metadata)
        self.other = Store(url)
        self.store.write(_add_users)
        self.client_id = self.store.write(
            catalogue.add_client, name="Bellwether Paper", contact_name="Jane Roe"
        )["id"]
        self.product_id = self.store.write(
            catalogue.add_product, code="CORE", name="Core", unit="pieces", unit_price_cents=74
        )["id"]

    def close(self) -> None:
        """Close both stores."""
        self.store.close()
        self.other.close()

    def stores(self, count: int) -> list[Store]:
        """`count` stores, this process's two in turn."""
        return [(self.store, self.other)[index % 2] for index in range(count)]

    def receive(self, quantity: int) -> int:
        """Receive stock; the id of the stock row."""
        got = self.store.write(
            stock.receive_stock,
            product_id=self.product_id,
            client_id=self.client_id,
            quantity=quantity,
            actor=MARA,
        )
        return int(got["stock_id"])

    def allocate(self, quantity: int, store: Store | None = None, **more: Any) -> dict[str, Any]:
        """Set stock aside."""
        return (store or self.store).write(
            allocating.allocate_stock,
            product_id=self.product_id,
            client_id=self.client_id,
            quantity=quantity,
            actor=MARA,
            **more,
        )

    def order(self, *quantities: int, store: Store | None = None) -> dict[str, Any]:
        """Enter an order with an item for each quantity."""
        items = [
            {"product_id": self.product_id, "quantity": quantity}
            for quantity in quantities or (4000,)
        ]
        return (store or self.store).write(
            orders.create_order, client_id=self.client_id, items=items, actor=MARA
        )

    def employee(self, **minutes: int) -> int:
        """Add an employee with these balances."""
        added = self.store.write(
            catalogue.add_employee,
            name="Liam Foster",
            actor=GRACE,
            hourly_rate_cents=3000,
            balances=minutes,
        )
        return int(added["id"])

    def leave(self, employee_id: int, minutes: int, kind: str = "annual") -> int:
        """Ask for leave."""
        asked = self.store.write(
            leave.request_leave,
            employee_id=employee_id,
            kind=kind,
            start_date=MONDAY,
            end_date=date(2026, 11, 27),
            minutes=minutes,
            actor=GRACE,
            for_anyone=True,
        )
        return int(asked["id"])

    def submitted_week(self, employee_id: int, minutes: int = 456) -> int:
        """A timesheet that waits for approval."""
        sheet = self.store.write(
            timesheets.create_timesheet,
            employee_id=employee_id,
            week_start=MONDAY,
            minutes=[minutes] * 5 + [0, 0],
            actor=GRACE,
            for_anyone=True,
        )
        self.store.write(
            timesheets.submit_timesheet, timesheet_id=sheet["id"], actor=GRACE, for_anyone=True
        )
        return int(sheet["id"])


def _add_users(session: Any) -> None:
    for person in (MARA, TOMAS, GRACE):
        session.add(
            UserRow(
                username=person.username, name=person.name, roles=["sales"], password_hash="none"
            )
        )


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returned or raised; all of them are let go at the same moment."""
    results: list[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = calls[index]()
        except Exception as error:  # the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S_MAX)
        assert not thread.is_alive(), "a call did not come back"
    return results


def refused(results: Sequence[Any], kind: type[Exception]) -> list[Any]:
    """The refusals of this kind; anything else that was raised fails the test."""
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, kind):
            raise result
    return [result for result in results if isinstance(result, kind)]


_INVARIANTS = {
    "stock below zero": "SELECT id FROM factory_stock WHERE on_hand < 0",
    "on_hand is not the sum of its movements": """
        SELECT s.id FROM factory_stock s WHERE s.on_hand <> COALESCE(
            (SELECT SUM(m.quantity) FROM factory_stock_movements m WHERE m.stock_id = s.id), 0)""",
    "an allocation without its movement": """
        SELECT a.id FROM factory_allocations a LEFT JOIN factory_stock_movements m
        ON m.id = a.movement_id AND m.quantity = -a.quantity AND m.stock_id = a.stock_id
        WHERE m.id IS NULL""",
    "a movement without its allocation": """
        SELECT m.id FROM factory_stock_movements m LEFT JOIN factory_allocations a
        ON a.movement_id = m.id WHERE m.kind = 'allocation' AND a.id IS NULL""",
    "stock set aside or given back twice": """
        SELECT s.id FROM factory_stock s WHERE COALESCE((SELECT SUM(m.quantity)
            FROM factory_stock_movements m WHERE m.stock_id = s.id AND m.kind = 'receipt'), 0)
        - s.on_hand <> COALESCE((SELECT SUM(a.quantity) FROM factory_allocations a
            WHERE a.stock_id = s.id AND a.state IN ('active', 'consumed')), 0)""",
    "stock is set aside for a cancelled order": """
        SELECT a.id FROM factory_allocations a JOIN factory_orders o ON o.id = a.order_id
        WHERE a.state = 'active' AND o.stage = 'cancelled'""",
    "an item is billed beyond what was ordered": """
        SELECT id FROM factory_order_items WHERE invoiced_quantity > quantity""",
    "billed quantities are not those of the invoice lines": """
        SELECT i.id FROM factory_order_items i WHERE i.invoiced_quantity <> COALESCE(
            (SELECT SUM(l.quantity) FROM factory_invoice_lines l WHERE l.item_id = i.id), 0)""",
    "an invoice without lines": """
        SELECT v.id FROM factory_invoices v WHERE NOT EXISTS
            (SELECT 1 FROM factory_invoice_lines l WHERE l.invoice_id = v.id)""",
    "a stage that is not where the log ends": """
        SELECT o.id FROM factory_orders o WHERE o.stage <> COALESCE(
            (SELECT l.to_stage FROM factory_stage_log l WHERE l.order_id = o.id
             ORDER BY l.id DESC LIMIT 1), 'order_entered')""",
    "a balance that is not the sum of its entries": """
        SELECT e.id FROM factory_employees e WHERE
        e.annual_minutes <> COALESCE((SELECT SUM(n.minutes) FROM factory_leave_entries n
            WHERE n.employee_id = e.id AND n.kind = 'annual'), 0) OR
        e.sick_minutes <> COALESCE((SELECT SUM(n.minutes) FROM factory_leave_entries n
            WHERE n.employee_id = e.id AND n.kind = 'sick'), 0)""",
    "a balance below its floor": """
        SELECT id FROM factory_employees
        WHERE annual_minutes < -4560 OR sick_minutes < 0 OR personal_minutes < 0""",
    "leave that is approved and not deducted, or the reverse": """
        SELECT r.id FROM factory_leave_requests r WHERE
        CASE WHEN r.status = 'approved' THEN r.minutes ELSE 0 END <> -COALESCE(
            (SELECT SUM(n.minutes) FROM factory_leave_entries n WHERE n.request_id = r.id), 0)""",
    "approved without one pay calculation in force": """
        SELECT t.id FROM factory_timesheets t WHERE
        CASE WHEN t.status = 'approved' THEN 1 ELSE 0 END <>
            (SELECT COUNT(*) FROM factory_pay_calculations p
             WHERE p.timesheet_id = t.id AND p.kind = 'pay') -
            (SELECT COUNT(*) FROM factory_pay_calculations p
             WHERE p.timesheet_id = t.id AND p.kind = 'reversal')""",
}


def broken(url: str) -> list[str]:
    """What is wrong in the database, by plain SQL that knows nothing of the code under test."""
    level = {} if url.startswith("sqlite") else {"isolation_level": "REPEATABLE READ"}
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), **level)
    try:
        with engine.connect() as connection:
            wrong = [
                f"{name}: {rows}"
                for name, query in _INVARIANTS.items()
                if (rows := connection.execute(text(query)).scalars().all())
            ]
            return wrong + _gaps(connection)
    finally:
        engine.dispose()


def _gaps(connection: Any) -> list[str]:
    """Invoice numbers are 1, 2, 3, ...; order numbers too, but for those that were deleted."""
    found = []
    counters = connection.execute(text("SELECT name, scope, value FROM crowdsafe_counters"))
    for name, scope, value in counters.all():
        table, prefix = {
            "factory.order": ("factory_orders", "ADM"),
            "factory.invoice": ("factory_invoices", "INV"),
        }[name]
        query = f"SELECT number FROM {table} WHERE number LIKE '{prefix}-{scope}-%'"
        numbers = connection.execute(text(query)).scalars().all()
        used = sorted(int(number.rsplit("-", 1)[1]) for number in numbers)
        if used != list(range(1, value + 1)):
            missing = sorted(set(range(1, value + 1)) - set(used))
            found.append(f"{name} {scope}: {len(used)} used of {value}, missing {missing}")
    return found
