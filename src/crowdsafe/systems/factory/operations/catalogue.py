"""What everything else refers to: clients, products, employees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.systems.factory.errors import Duplicate
from crowdsafe.systems.factory.models import Client, Employee, Product
from crowdsafe.systems.factory.operations.common import Actor
from crowdsafe.systems.factory.operations.leave import BALANCES
from crowdsafe.systems.factory.operations.views import (
    client_view,
    employee_view,
    product_view,
)
from crowdsafe.writes import get_or_create, give


@write(isolation="read committed")
def add_client(session: Session, *, name: str, **details: str) -> dict[str, Any]:
    """Add a client; `details` are abn, contact_name, email, phone, address. Raises Duplicate.

    Holds: one client of a name over all processes (unique constraint).
    """
    client, created = get_or_create(session, Client, defaults=details, name=name)
    if not created:
        raise Duplicate(f"There is already a client {name!r}.", id=client.id)
    return client_view(client)


@write(isolation="read committed")
def add_product(
    session: Session, *, code: str, name: str, unit: str, unit_price_cents: int
) -> dict[str, Any]:
    """Add a product. Raises Duplicate.

    Holds: one product of a code over all processes (unique constraint).
    """
    values = {"name": name, "unit": unit, "unit_price_cents": unit_price_cents}
    product, created = get_or_create(session, Product, defaults=values, code=code)
    if not created:
        raise Duplicate(f"There is already a product {code!r}.", id=product.id)
    return product_view(product)


@write(isolation="read committed")
def add_employee(
    session: Session,
    *,
    name: str,
    actor: Actor,
    username: str | None = None,
    position: str = "",
    hourly_rate_cents: int = 0,
    balances: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Add an employee with opening balances in minutes, by kind of leave. Raises Duplicate.

    Holds: one employee of a login over all processes (unique constraint); every opening balance
    is in the leave ledger.
    """
    values = {"name": name, "position": position, "hourly_rate_cents": hourly_rate_cents}
    if username is None:
        employee = Employee(**values)
        session.add(employee)
        session.flush()
    else:
        employee, created = get_or_create(session, Employee, defaults=values, username=username)
        if not created:
            raise Duplicate(f"The login {username!r} has an employee already.", id=employee.id)
    for kind, minutes in (balances or {}).items():
        if minutes:
            entry = {"kind": kind, "reason": "opening balance", "by": actor.username}
            give(session, BALANCES[kind][0], minutes, where=employee.id, entry=entry)
    session.refresh(employee)
    return employee_view(employee)
