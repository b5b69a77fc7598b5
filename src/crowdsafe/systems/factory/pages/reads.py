"""What each page shows at first, read in one snapshot: plain functions of a session."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.errors import NotFound
from crowdsafe.identity import User
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.models import CANCELLED, ORDER_EDGES
from crowdsafe.systems.factory.operations import queries
from crowdsafe.systems.factory.operations.stock import OPEN_FOR_STOCK
from crowdsafe.systems.factory.permissions import sees_staff
from crowdsafe.systems.factory.schemas import LEAVE_KINDS, PRIORITIES, STAGES

SHOWN_MAX = 200
CLEARED_SHOWN_MAX = 20


def orders(session: Session, *, q: str, stage: str, priority: str) -> dict[str, Any]:
    """The newest orders that match."""
    found = queries.list_orders(
        session, stage=stage or None, priority=priority or None, search=q, limit=SHOWN_MAX
    )
    return {
        "orders": found["items"],
        "next_cursor": found["next_cursor"],
        "filter": {"q": q, "stage": stage, "priority": priority},
        "clients": queries.list_clients(session),
        "products": queries.list_products(session),
        "stages": [*STAGES, CANCELLED],
        "priorities": PRIORITIES,
    }


def order(session: Session, *, order_id: int) -> dict[str, Any]:
    """One order to edit. Raises NotFound."""
    return {
        "order": queries.get_order(session, order_id),
        "products": queries.list_products(session),
        "priorities": PRIORITIES,
        "allocatable": sorted(OPEN_FOR_STOCK),
        "cancellable": [stage for stage, to in ORDER_EDGES.items() if CANCELLED in to],
    }


def floor(session: Session) -> dict[str, Any]:
    """The orders of each stage, and where a move may go; of the cleared ones, the newest."""
    columns = {
        stage: queries.list_orders(
            session, stage=stage, limit=CLEARED_SHOWN_MAX if stage == "cleared" else SHOWN_MAX
        )["items"]
        for stage in STAGES
    }
    edges = {stage: sorted(to - {CANCELLED}, key=STAGES.index) for stage, to in ORDER_EDGES.items()}
    return {"stages": STAGES, "columns": columns, "edges": edges}


def stock(session: Session, *, order_number: str, client_id: int) -> dict[str, Any]:
    """All stock, with the order and client that the allocation form starts with."""
    return {
        "stock": queries.list_stock(session, limit=SHOWN_MAX)["items"],
        "clients": queries.list_clients(session),
        "products": queries.list_products(session),
        "wanted": {"order": order_number, "client": client_id},
    }


def movements(session: Session, *, stock_id: int) -> dict[str, Any]:
    """One stock row with the newest of its ledger. Raises NotFound."""
    found = queries.list_stock(session, cursor=stock_id - 1, limit=1)["items"]
    if not found or found[0]["id"] != stock_id:
        raise NotFound(f"There is no stock row {stock_id}.")
    page = queries.stock_movements(session, stock_id)
    return {"stock": found[0], "movements": page["items"], "next_cursor": page["next_cursor"]}


def invoices(session: Session, *, order_id: int) -> dict[str, Any]:
    """The newest invoices, and the orders that can still be billed."""
    page = queries.list_invoices(session)
    every = queries.list_orders(session, limit=SHOWN_MAX)["items"]
    return {
        "invoices": page["items"],
        "next_cursor": page["next_cursor"],
        "open_orders": [
            each for each in every if each["invoiced"] != "fully" and each["stage"] != CANCELLED
        ],
        "wanted_order": order_id,
    }


def timesheets(session: Session, *, viewer: User) -> dict[str, Any]:
    """The timesheets that this user may see."""
    whose = None if sees_staff(viewer.roles) else viewer.username
    found = queries.list_timesheets(session, username=whose, limit=SHOWN_MAX)["items"]
    today = utcnow().date()
    return {
        "timesheets": [{**sheet, "pay": _pay(sheet)} for sheet in found],
        "this_monday": (today - timedelta(days=today.weekday())).isoformat(),
        **_staff(session, viewer),
    }


def leave(session: Session, *, viewer: User) -> dict[str, Any]:
    """The leave requests and balances that this user may see."""
    whose = None if sees_staff(viewer.roles) else viewer.username
    return {
        "leave": queries.list_leave(session, username=whose, limit=SHOWN_MAX)["items"],
        "kinds": LEAVE_KINDS,
        **_staff(session, viewer),
    }


def _staff(session: Session, user: User) -> dict[str, Any]:
    """For whom this user may enter something, and which of them the user is."""
    own = queries.list_employees(session, username=user.username)
    return {
        "employees": queries.list_employees(session) if sees_staff(user.roles) else own,
        "own_employee": own[0]["id"] if own else None,
    }


def _pay(sheet: dict[str, Any]) -> str:
    """What a timesheet pays now, as text; nothing before its first approval."""
    paid = sheet["pay_calculations"]
    cents = sum(each["gross_cents"] for each in paid)
    return f"${cents // 100:,}.{cents % 100:02}" if paid else ""
