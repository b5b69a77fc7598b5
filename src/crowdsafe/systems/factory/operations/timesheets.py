"""Timesheets: one for each employee and week; approval pays once, reopening takes it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import AlreadyMoved, InvalidInput, NotFound, StaleVersion
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.errors import DuplicateTimesheet, TimesheetMoved
from crowdsafe.systems.factory.models import Employee, PayCalculation, Timesheet
from crowdsafe.systems.factory.operations.common import Actor, name_of, tell_staff
from crowdsafe.systems.factory.operations.people import own_employee
from crowdsafe.systems.factory.operations.views import timesheet_view
from crowdsafe.writes import get_or_create, transition

ORDINARY_MINUTES = 38 * 60
"""Minutes of a week that are paid at the ordinary rate; what is above counts one and a half."""


@write(isolation="read committed")
def create_timesheet(
    session: Session,
    *,
    employee_id: int,
    week_start: date,
    minutes: Sequence[int],
    actor: Actor,
    notes: str = "",
    for_anyone: bool = False,
) -> dict[str, Any]:
    """Start an employee's week. Raises DuplicateTimesheet, InvalidInput, NotFound, Forbidden.

    Holds: one timesheet for each employee and week over all processes (unique constraint).
    Does not hold: a repeat is refused, not answered again, unless it carries the same
    Idempotency-Key. Test: test_one_timesheet_a_week.
    """
    own_employee(session, employee_id, actor, for_anyone=for_anyone)
    if week_start.weekday() != 0:
        raise InvalidInput("A week starts on a Monday.", field="week_start")
    values = {"minutes": list(minutes), "notes": notes, "updated_by": actor.username}
    sheet, created = get_or_create(
        session, Timesheet, defaults=values, employee_id=employee_id, week_start=week_start
    )
    if not created:
        raise DuplicateTimesheet(
            f"There is already a timesheet for the week of {week_start}; open that one.",
            timesheet_id=sheet.id,
        )
    return _told(session, sheet, "created", actor)


@write(isolation="read committed")
def edit_timesheet(
    session: Session,
    *,
    timesheet_id: int,
    minutes: Sequence[int],
    version: int,
    actor: Actor,
    for_anyone: bool = False,
) -> dict[str, Any]:
    """Replace the minutes of a draft. Raises StaleVersion, TimesheetMoved, NotFound, Forbidden.

    Holds: of two savers who started from one version, one saves. Test: test_a_stale_timesheet_save.
    """
    sheet = _lock(session, timesheet_id)
    own_employee(session, sheet.employee_id, actor, for_anyone=for_anyone)
    if sheet.status != "draft":
        raise _moved(session, sheet)
    if version != sheet.version:
        raise StaleVersion(
            current=sheet.version,
            by=name_of(session, sheet.updated_by),
            at=sheet.updated_at.isoformat(),
        )
    sheet.minutes = list(minutes)
    sheet.version += 1
    sheet.updated_by = actor.username
    sheet.updated_at = utcnow()
    session.flush()
    return _told(session, sheet, "edited", actor)


@write(isolation="read committed")
def submit_timesheet(
    session: Session, *, timesheet_id: int, actor: Actor, for_anyone: bool = False
) -> dict[str, Any]:
    """Hand a draft in. Raises TimesheetMoved, NotFound, Forbidden.

    Holds: submitted once, whoever clicks twice. Test: test_submitted_once.
    """
    sheet = _lock(session, timesheet_id)
    own_employee(session, sheet.employee_id, actor, for_anyone=for_anyone)
    _move(session, sheet, "draft", "submitted", actor)
    return _told(session, sheet, "submitted", actor)


@write(isolation="read committed")
def approve_timesheet(session: Session, *, timesheet_id: int, actor: Actor) -> dict[str, Any]:
    """Approve a submitted week and write what it pays. Raises TimesheetMoved, NotFound.

    Holds: of any number of approvals at once one succeeds, and there is exactly one pay
    calculation for it; both or neither after a crash.
    Does not hold: that the approver is another person than the employee.
    Test: test_many_approvals_are_one_pay_calculation.
    """
    sheet = _lock(session, timesheet_id)
    _move(session, sheet, "submitted", "approved", actor)
    sheet.approvals += 1
    worked = sum(sheet.minutes)
    ordinary = min(worked, ORDINARY_MINUTES)
    rate = session.get_one(Employee, sheet.employee_id).hourly_rate_cents
    session.add(
        PayCalculation(
            timesheet_id=sheet.id,
            approval=sheet.approvals,
            kind="pay",
            ordinary_minutes=ordinary,
            overtime_minutes=worked - ordinary,
            gross_cents=gross_cents(rate, ordinary, worked - ordinary),
            by=actor.username,
        )
    )
    session.flush()
    return _told(session, sheet, "approved", actor)


@write(isolation="read committed")
def reopen_timesheet(session: Session, *, timesheet_id: int, actor: Actor) -> dict[str, Any]:
    """Send a week back to draft; an approved one is paid back by a reversal.

    Raises TimesheetMoved for a draft, NotFound.

    Holds: for each approval there is at most one reversal (status and unique constraint), and
    the pay calculations of a timesheet add up to what it pays now.
    Test: test_reopen_writes_one_reversal.
    """
    sheet = _lock(session, timesheet_id)
    before = sheet.status
    if before == "draft":
        raise _moved(session, sheet)
    _move(session, sheet, before, "draft", actor)
    if before == "approved":
        paid = session.scalars(
            select(PayCalculation).where(
                PayCalculation.timesheet_id == sheet.id,
                PayCalculation.approval == sheet.approvals,
                PayCalculation.kind == "pay",
            )
        ).one()
        session.add(
            PayCalculation(
                timesheet_id=sheet.id,
                approval=sheet.approvals,
                kind="reversal",
                ordinary_minutes=-paid.ordinary_minutes,
                overtime_minutes=-paid.overtime_minutes,
                gross_cents=-paid.gross_cents,
                by=actor.username,
            )
        )
        session.flush()
    return _told(session, sheet, "reopened", actor)


def gross_cents(rate_cents: int, ordinary_minutes: int, overtime_minutes: int) -> int:
    """Pay before tax, half a cent upwards; overtime counts one and a half.

    >>> gross_cents(3000, 2280, 60)
    118500
    """
    return (rate_cents * (2 * ordinary_minutes + 3 * overtime_minutes) + 60) // 120


def paid_cents(session: Session, timesheet_id: int) -> int:
    """What a timesheet pays now: its pay calculations and reversals together."""
    total = func.coalesce(func.sum(PayCalculation.gross_cents), 0)
    found = session.scalar(select(total).where(PayCalculation.timesheet_id == timesheet_id))
    return int(found or 0)


def _lock(session: Session, timesheet_id: int) -> Timesheet:
    sheet = session.get(
        Timesheet, timesheet_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if sheet is None:
        raise NotFound(f"There is no timesheet {timesheet_id}.")
    return sheet


def _move(session: Session, sheet: Timesheet, from_: str, to: str, actor: Actor) -> None:
    try:
        transition(session, Timesheet, sheet.id, "status", from_=from_, to=to, by=actor.username)
    except AlreadyMoved as moved:
        raise _moved(session, sheet) from moved
    session.refresh(sheet)


def _moved(session: Session, sheet: Timesheet) -> TimesheetMoved:
    who = name_of(session, sheet.updated_by)
    return TimesheetMoved(
        f"This timesheet is already {sheet.status}, by {who}; reload, and decide from there.",
        current=sheet.status,
        by=who,
        username=sheet.updated_by,
        at=sheet.updated_at.isoformat(),
    )


def _told(session: Session, sheet: Timesheet, action: str, actor: Actor) -> dict[str, Any]:
    view = timesheet_view(session, sheet)
    keys = ("id", "employee_id", "employee", "week_start", "status", "version", "total_minutes")
    data = {key: view[key] for key in keys}
    tell_staff(session, "timesheet.changed", data | {"action": action}, actor)
    return view
