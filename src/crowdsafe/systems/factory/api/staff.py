"""Employees, timesheets and leave over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response

from crowdsafe.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    PreconditionRequired,
    StaleVersion,
)
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.api.documented import (
    Cursor,
    Do,
    DoDep,
    FilterId,
    Limit,
    PathId,
    User,
    allowed,
    answers,
)
from crowdsafe.systems.factory.errors import (
    Duplicate,
    DuplicateTimesheet,
    InsufficientLeave,
    LeaveMoved,
    TimesheetMoved,
)
from crowdsafe.systems.factory.operations import catalogue, leave, queries, timesheets
from crowdsafe.systems.factory.permissions import sees_staff
from crowdsafe.web.fastapi import (
    CurrentUser,
    OptionalIfMatch,
    StoreDep,
    etag_of,
    json_answer,
)

router = APIRouter()


def _only(user: User) -> str | None:
    """The username whose records alone are shown, or None for all."""
    return None if sees_staff(user.roles) else user.username


def _etag(result: Any) -> Mapping[str, str]:
    return {"ETag": etag_of(result["version"])}


@router.get(
    "/employees", summary="Staff with leave balances", responses=answers(list[schemas.Employee])
)
async def employees(store: StoreDep, user: CurrentUser) -> Response:
    """Everybody for managers and supervisors, yourself for others. Balances are in minutes."""
    return json_answer(await store.read(queries.list_employees, username=_only(user)))


@router.post(
    "/employees",
    summary="Add an employee",
    status_code=201,
    responses=answers(schemas.Employee, Duplicate, status=201),
)
async def add_employee(
    body: schemas.NewEmployee,
    do: Annotated[Do, allowed("employee.add")],
) -> Response:
    """Opening balances go into the leave ledger; `username` is the login, if there is one."""
    return await do(
        catalogue.add_employee,
        status_code=201,
        name=body.name,
        username=body.username,
        position=body.position,
        hourly_rate_cents=body.hourly_rate_cents,
        balances={
            "annual": body.annual_minutes,
            "sick": body.sick_minutes,
            "personal": body.personal_minutes,
        },
        actor=do.user,
    )


@router.get("/timesheets", summary="Timesheets", responses=answers(schemas.TimesheetPage))
async def list_timesheets(
    store: StoreDep,
    user: CurrentUser,
    employee_id: FilterId = None,
    status: schemas.TimesheetStatus | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Everybody's for managers and supervisors, your own for others."""
    page = await store.read(
        queries.list_timesheets,
        employee_id=employee_id,
        status=status,
        username=_only(user),
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.post(
    "/timesheets",
    summary="Start a week",
    status_code=201,
    responses=answers(
        schemas.Timesheet, DuplicateTimesheet, NotFound, Forbidden, InvalidInput, status=201
    ),
)
async def create_timesheet(body: schemas.NewTimesheet, do: DoDep) -> Response:
    """One for each employee and week: a second is a 409 with the first one's `timesheet_id`."""
    return await do(
        timesheets.create_timesheet,
        status_code=201,
        answer_headers=lambda made: {
            "Location": f"/factory/api/timesheets/{made['id']}",
            "ETag": etag_of(made["version"]),
        },
        employee_id=body.employee_id,
        week_start=body.week_start,
        minutes=body.minutes,
        notes=body.notes,
        actor=do.user,
        for_anyone=sees_staff(do.user.roles),
    )


@router.get(
    "/timesheets/{timesheet_id}",
    summary="One timesheet with what it pays",
    responses=answers(schemas.Timesheet, NotFound),
)
async def get_timesheet(timesheet_id: PathId, store: StoreDep, user: CurrentUser) -> Response:
    """The ETag is the version."""
    sheet = await store.read(queries.get_timesheet, timesheet_id, username=_only(user))
    return json_answer(sheet, headers=_etag(sheet))


@router.put(
    "/timesheets/{timesheet_id}",
    summary="Replace a draft's minutes",
    responses=answers(
        schemas.Timesheet,
        StaleVersion,
        TimesheetMoved,
        NotFound,
        Forbidden,
        InvalidInput,
        PreconditionRequired,
    ),
)
async def edit_timesheet(
    timesheet_id: PathId,
    body: schemas.EditTimesheet,
    do: DoDep,
    if_match: OptionalIfMatch,
) -> Response:
    """With the version, in If-Match or in the body; 409 `stale-version` when somebody saved."""
    version = if_match if if_match is not None else body.version
    if version is None:
        raise PreconditionRequired
    if body.version not in (None, version):
        raise InvalidInput("If-Match and the body's version differ; send one.", field="version")
    return await do(
        timesheets.edit_timesheet,
        answer_headers=_etag,
        timesheet_id=timesheet_id,
        minutes=body.minutes,
        version=version,
        actor=do.user,
        for_anyone=sees_staff(do.user.roles),
    )


@router.post(
    "/timesheets/{timesheet_id}/submit",
    summary="Hand a timesheet in",
    responses=answers(schemas.Timesheet, TimesheetMoved, NotFound, Forbidden),
)
async def submit_timesheet(timesheet_id: PathId, do: DoDep) -> Response:
    """From draft to submitted."""
    return await do(
        timesheets.submit_timesheet,
        answer_headers=_etag,
        timesheet_id=timesheet_id,
        actor=do.user,
        for_anyone=sees_staff(do.user.roles),
    )


@router.post(
    "/timesheets/{timesheet_id}/approve",
    summary="Approve a timesheet",
    responses=answers(schemas.Timesheet, TimesheetMoved, NotFound),
)
async def approve_timesheet(
    timesheet_id: PathId,
    do: Annotated[Do, allowed("timesheet.approve")],
) -> Response:
    """Writes exactly one pay calculation; a second approval is a 409 `timesheet-moved`."""
    return await do(
        timesheets.approve_timesheet,
        answer_headers=_etag,
        timesheet_id=timesheet_id,
        actor=do.user,
    )


@router.post(
    "/timesheets/{timesheet_id}/reopen",
    summary="Send a timesheet back to draft",
    responses=answers(schemas.Timesheet, TimesheetMoved, NotFound),
)
async def reopen_timesheet(
    timesheet_id: PathId,
    do: Annotated[Do, allowed("timesheet.reopen")],
) -> Response:
    """An approved one is paid back by one reversal."""
    return await do(
        timesheets.reopen_timesheet,
        answer_headers=_etag,
        timesheet_id=timesheet_id,
        actor=do.user,
    )


@router.get("/leave", summary="Leave requests", responses=answers(schemas.LeavePage))
async def list_leave(
    store: StoreDep,
    user: CurrentUser,
    employee_id: FilterId = None,
    status: schemas.LeaveStatus | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Everybody's for managers and supervisors, your own for others."""
    page = await store.read(
        queries.list_leave,
        employee_id=employee_id,
        status=status,
        username=_only(user),
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.post(
    "/leave",
    summary="Ask for leave",
    status_code=201,
    responses=answers(schemas.Leave, NotFound, Forbidden, InvalidInput, status=201),
)
async def request_leave(body: schemas.NewLeave, do: DoDep) -> Response:
    """The balance is checked and taken when the request is approved."""
    return await do(
        leave.request_leave,
        status_code=201,
        answer_headers=lambda made: {"Location": f"/factory/api/leave/{made['id']}"},
        employee_id=body.employee_id,
        kind=body.kind,
        start_date=body.start_date,
        end_date=body.end_date,
        minutes=round(body.hours * 60),
        reason=body.reason,
        actor=do.user,
        for_anyone=sees_staff(do.user.roles),
    )


@router.get(
    "/leave/{leave_id}",
    summary="One leave request",
    responses=answers(schemas.Leave, NotFound),
)
async def get_leave(leave_id: PathId, store: StoreDep, user: CurrentUser) -> Response:
    """With the employee's present balance of its kind."""
    found = await store.read(queries.get_leave, leave_id, username=_only(user))
    return json_answer(found, headers=_etag(found))


@router.post(
    "/leave/{leave_id}/approve",
    summary="Approve leave",
    responses=answers(schemas.Leave, InsufficientLeave, LeaveMoved, NotFound),
)
async def approve_leave(
    leave_id: PathId,
    do: Annotated[Do, allowed("leave.decide")],
) -> Response:
    """Approved if and only if the minutes are off the balance, which never passes its floor:
    76 hours in advance for annual leave, zero for sick and personal leave.
    """
    return await do(leave.approve_leave, leave_id=leave_id, actor=do.user)


@router.post(
    "/leave/{leave_id}/reject",
    summary="Reject leave",
    responses=answers(schemas.Leave, LeaveMoved, NotFound),
)
async def reject_leave(
    leave_id: PathId,
    do: Annotated[Do, allowed("leave.decide")],
) -> Response:
    """The balance stays as it is."""
    return await do(leave.reject_leave, leave_id=leave_id, actor=do.user)


@router.post(
    "/leave/{leave_id}/cancel",
    summary="Withdraw leave",
    responses=answers(schemas.Leave, LeaveMoved, NotFound, Forbidden),
)
async def cancel_leave(leave_id: PathId, do: DoDep) -> Response:
    """The minutes of approved leave come back exactly once."""
    return await do(
        leave.cancel_leave,
        leave_id=leave_id,
        actor=do.user,
        for_anyone=sees_staff(do.user.roles),
    )
