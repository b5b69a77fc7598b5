"""Leave: request, approve, reject, cancel. Approved if and only if it is off the balance."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute, Session

from crowdsafe import write
from crowdsafe.errors import AlreadyMoved, Insufficient, InvalidInput, NotFound
from crowdsafe.systems.factory.errors import InsufficientLeave, LeaveMoved
from crowdsafe.systems.factory.models import ANNUAL_FLOOR_MINUTES, Employee, LeaveRequest
from crowdsafe.systems.factory.operations.common import Actor, name_of, tell_staff
from crowdsafe.systems.factory.operations.people import own_employee
from crowdsafe.systems.factory.operations.views import leave_view
from crowdsafe.writes import give, take, transition

DAYS_MAX = 366

BALANCES: dict[str, tuple[InstrumentedAttribute[int], int]] = {
    "annual": (Employee.annual_minutes, ANNUAL_FLOOR_MINUTES),
    "sick": (Employee.sick_minutes, 0),
    "personal": (Employee.personal_minutes, 0),
}
"""The balance of each kind of leave, and the floor that it never passes."""


@write(isolation="read committed")
def request_leave(
    session: Session,
    *,
    employee_id: int,
    kind: str,
    start_date: date,
    end_date: date,
    minutes: int,
    actor: Actor,
    reason: str = "",
    for_anyone: bool = False,
) -> dict[str, Any]:
    """Ask for leave; the balance is not touched before the approval.

    Raises InvalidInput, NotFound, Forbidden. Does not hold: that a repeat is the same request,
    unless it carries the same Idempotency-Key.
    """
    own_employee(session, employee_id, actor, for_anyone=for_anyone)
    if kind not in BALANCES:
        raise InvalidInput(f"{kind!r} is not a kind of leave.", field="kind")
    days = (end_date - start_date).days + 1
    if not 1 <= days <= DAYS_MAX:
        raise InvalidInput(
            f"Leave lasts from 1 to {DAYS_MAX} days; end_date is its last day.", field="end_date"
        )
    if minutes > days * 24 * 60:
        raise InvalidInput(f"{days} days do not have {minutes} minutes.", field="hours")
    leave = LeaveRequest(
        employee_id=employee_id,
        kind=kind,
        start_date=start_date,
        end_date=end_date,
        minutes=minutes,
        reason=reason,
        updated_by=actor.username,
    )
    session.add(leave)
    session.flush()
    return _told(session, leave, "requested", actor)


@write(isolation="read committed")
def approve_leave(session: Session, *, leave_id: int, actor: Actor) -> dict[str, Any]:
    """Approve a request and take its minutes off the balance.

    Raises LeaveMoved (`current`, `by`, `at`), InsufficientLeave (`available` minutes), NotFound.

    Holds: approved if and only if deducted, in one transaction; of many approvals of one request
    one succeeds; of many requests at once so many are approved as the floor allows (one
    conditional UPDATE decides).
    Does not hold: an order among requests that are approved at once.
    Test: test_leave_approved_at_once_never_passes_the_floor,
    test_nothing_is_lost_or_doubled_by_5_kills.
    """
    leave = _lock(session, leave_id)
    _move(session, leave, "requested", "approved", actor)
    column, floor = BALANCES[leave.kind]
    entry = {"kind": leave.kind, "request_id": leave.id, "reason": "approved", "by": actor.username}
    try:
        take(
            session,
            column,
            leave.minutes,
            where=Employee.id == leave.employee_id,
            floor=floor,
            entry=entry,
        )
    except Insufficient as short:
        raise InsufficientLeave(
            f"{short.available} minutes of {leave.kind} leave are left and {leave.minutes} were "
            "asked for; shorten the request or reject it.",
            available=short.available,
            requested=leave.minutes,
            kind=leave.kind,
        ) from short
    return _told(session, leave, "approved", actor)


@write(isolation="read committed")
def reject_leave(session: Session, *, leave_id: int, actor: Actor) -> dict[str, Any]:
    """Reject a request. Raises LeaveMoved, NotFound.

    Holds: a request that is approved at the same moment is either approved or rejected, and
    deducted accordingly. Test: test_approve_and_reject_at_once.
    """
    leave = _lock(session, leave_id)
    _move(session, leave, "requested", "rejected", actor)
    return _told(session, leave, "rejected", actor)


@write(isolation="read committed")
def cancel_leave(
    session: Session, *, leave_id: int, actor: Actor, for_anyone: bool = False
) -> dict[str, Any]:
    """Withdraw a request, or give approved leave back. Raises LeaveMoved, NotFound, Forbidden.

    Holds: the minutes of approved leave come back exactly once.
    Test: test_cancelled_leave_comes_back_exactly_once.
    """
    leave = _lock(session, leave_id)
    own_employee(session, leave.employee_id, actor, for_anyone=for_anyone)
    before = leave.status
    if before not in ("requested", "approved"):
        raise _moved(session, leave)
    _move(session, leave, before, "cancelled", actor)
    if before == "approved":
        column, _ = BALANCES[leave.kind]
        entry = {"kind": leave.kind, "request_id": leave.id, "reason": "cancelled"}
        give(
            session,
            column,
            leave.minutes,
            where=Employee.id == leave.employee_id,
            entry=entry | {"by": actor.username},
        )
    return _told(session, leave, "cancelled", actor)


def _lock(session: Session, leave_id: int) -> LeaveRequest:
    leave = session.get(
        LeaveRequest, leave_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if leave is None:
        raise NotFound(f"There is no leave request {leave_id}.")
    return leave


def _move(session: Session, leave: LeaveRequest, from_: str, to: str, actor: Actor) -> None:
    try:
        transition(session, LeaveRequest, leave.id, "status", from_=from_, to=to, by=actor.username)
    except AlreadyMoved as moved:
        raise _moved(session, leave) from moved
    session.refresh(leave)


def _moved(session: Session, leave: LeaveRequest) -> LeaveMoved:
    who = name_of(session, leave.updated_by)
    return LeaveMoved(
        f"This request is already {leave.status}, by {who}; reload, and decide from there.",
        current=leave.status,
        by=who,
        username=leave.updated_by,
        at=leave.updated_at.isoformat(),
    )


def _told(session: Session, leave: LeaveRequest, action: str, actor: Actor) -> dict[str, Any]:
    view = leave_view(session, leave)
    keys = ("id", "employee_id", "employee", "kind", "minutes", "status", "version")
    data = {key: view[key] for key in (*keys, "balance_minutes")}
    tell_staff(session, "leave.changed", data | {"action": action}, actor)
    return view
