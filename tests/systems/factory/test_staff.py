"""Timesheets and leave: paid once, deducted if and only if approved."""

from __future__ import annotations

from datetime import date
from functools import partial

import pytest

from crowdsafe.errors import Forbidden, InvalidInput, StaleVersion
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.errors import (
    DuplicateTimesheet,
    InsufficientLeave,
    LeaveMoved,
    TimesheetMoved,
)
from crowdsafe.systems.factory.operations import leave, queries, timesheets
from tests.systems.factory.plant import GRACE, MARA, MONDAY, Plant, at_once, refused


def test_one_timesheet_a_week(plant: Plant) -> None:
    employee = plant.employee()
    create = partial(
        timesheets.create_timesheet,
        employee_id=employee,
        week_start=MONDAY,
        minutes=[456] * 7,
        actor=GRACE,
        for_anyone=True,
    )
    results = at_once([partial(store.write, create) for store in plant.stores(8)])
    (made,) = (result for result in results if isinstance(result, dict))
    schemas.Timesheet.model_validate(made)
    lost = refused(results, DuplicateTimesheet)
    assert {error.data["timesheet_id"] for error in lost} == {made["id"]}


def test_submitted_once(plant: Plant) -> None:
    sheet = plant.submitted_week(plant.employee())
    submit = partial(timesheets.submit_timesheet, timesheet_id=sheet, actor=GRACE, for_anyone=True)
    with pytest.raises(TimesheetMoved) as refusal:
        plant.store.write(submit)
    assert refusal.value.data["current"] == "submitted"


def test_many_approvals_are_one_pay_calculation(plant: Plant) -> None:
    sheet = plant.submitted_week(plant.employee(), minutes=480)
    approve = partial(timesheets.approve_timesheet, timesheet_id=sheet, actor=GRACE)
    results = at_once([partial(store.write, approve) for store in plant.stores(10)])
    lost = refused(results, TimesheetMoved)
    assert len(lost) == 9
    assert {(e.data["current"], e.data["by"]) for e in lost} == {("approved", "Grace Oduya")}
    (pay,) = plant.store.read(queries.get_timesheet, sheet)["pay_calculations"]
    assert (pay["ordinary_minutes"], pay["overtime_minutes"]) == (2280, 120)
    assert pay["gross_cents"] == 38 * 3000 + 2 * 4500


def test_reopen_writes_one_reversal(plant: Plant) -> None:
    sheet = plant.submitted_week(plant.employee())
    approve = partial(timesheets.approve_timesheet, timesheet_id=sheet, actor=GRACE)
    reopen = partial(timesheets.reopen_timesheet, timesheet_id=sheet, actor=GRACE)
    submit = partial(timesheets.submit_timesheet, timesheet_id=sheet, actor=GRACE, for_anyone=True)
    for round_ in range(1, 4):
        plant.store.write(approve)
        results = at_once([partial(store.write, reopen) for store in plant.stores(6)])
        assert len(refused(results, TimesheetMoved)) == 5
        kinds = [
            pay["kind"]
            for pay in plant.store.read(queries.get_timesheet, sheet)["pay_calculations"]
        ]
        assert kinds == ["pay", "reversal"] * round_
        assert plant.store.read(timesheets.paid_cents, sheet) == 0
        plant.store.write(submit)
    plant.store.write(reopen)  # sent back without having been paid
    assert plant.store.read(timesheets.paid_cents, sheet) == 0


def test_a_stale_timesheet_save(plant: Plant) -> None:
    sheet = plant.submitted_week(plant.employee())
    plant.store.write(timesheets.reopen_timesheet, timesheet_id=sheet, actor=GRACE)
    version = plant.store.read(queries.get_timesheet, sheet)["version"]
    calls = [
        partial(
            store.write,
            timesheets.edit_timesheet,
            timesheet_id=sheet,
            minutes=[index] * 7,
            version=version,
            actor=GRACE,
            for_anyone=True,
        )
        for index, store in enumerate(plant.stores(4))
    ]
    assert len(refused(at_once(calls), StaleVersion)) == 3


def test_a_week_starts_on_monday_and_belongs_to_somebody(plant: Plant) -> None:
    create = partial(
        plant.store.write,
        timesheets.create_timesheet,
        employee_id=plant.employee(),
        minutes=[0] * 7,
    )
    with pytest.raises(InvalidInput):
        create(week_start=date(2026, 11, 17), actor=GRACE, for_anyone=True)
    with pytest.raises(Forbidden):
        create(week_start=MONDAY, actor=MARA)


@pytest.mark.parametrize(("kind", "floor"), [("annual", -4560), ("sick", 0), ("personal", 0)])
def test_leave_approved_at_once_never_passes_the_floor(plant: Plant, kind: str, floor: int) -> None:
    employee = plant.employee(**{kind: 1000})
    asked = [plant.leave(employee, 700, kind) for _ in range(10)]
    calls = [
        partial(store.write, leave.approve_leave, leave_id=leave_id, actor=GRACE)
        for leave_id, store in zip(asked, plant.stores(10), strict=True)
    ]
    results = at_once(calls)
    lost = refused(results, InsufficientLeave)
    approved = (1000 - floor) // 700
    assert len(lost) == 10 - approved
    (person,) = plant.store.read(queries.list_employees)
    assert person[f"{kind}_minutes"] == 1000 - 700 * approved
    assert {error.data["available"] for error in lost} == {1000 - 700 * approved - floor}


def test_one_request_approved_many_times_is_deducted_once(plant: Plant) -> None:
    employee = plant.employee(annual=1000)
    asked = plant.leave(employee, 400)
    approve = partial(leave.approve_leave, leave_id=asked, actor=GRACE)
    results = at_once([partial(store.write, approve) for store in plant.stores(8)])
    assert len(refused(results, LeaveMoved)) == 7
    assert plant.store.read(queries.list_employees)[0]["annual_minutes"] == 600


def test_cancelled_leave_comes_back_exactly_once(plant: Plant) -> None:
    employee = plant.employee(annual=1000)
    asked = plant.leave(employee, 400)
    plant.store.write(leave.approve_leave, leave_id=asked, actor=GRACE)
    cancel = partial(leave.cancel_leave, leave_id=asked, actor=GRACE, for_anyone=True)
    results = at_once([partial(store.write, cancel) for store in plant.stores(8)])
    assert len(refused(results, LeaveMoved)) == 7
    assert plant.store.read(queries.list_employees)[0]["annual_minutes"] == 1000


def test_approve_and_reject_at_once(plant: Plant) -> None:
    employee = plant.employee(annual=100_000)
    for _ in range(4):
        asked = plant.leave(employee, 400)
        results = at_once(
            [
                partial(plant.store.write, leave.approve_leave, leave_id=asked, actor=GRACE),
                partial(plant.other.write, leave.reject_leave, leave_id=asked, actor=MARA),
                partial(
                    plant.other.write,
                    leave.cancel_leave,
                    leave_id=asked,
                    actor=MARA,
                    for_anyone=True,
                ),
            ]
        )
        refused(results, LeaveMoved)


def test_leave_has_days_and_hours_that_fit(plant: Plant) -> None:
    employee = plant.employee()
    ask = partial(
        plant.store.write, leave.request_leave, employee_id=employee, actor=GRACE, for_anyone=True
    )
    day = {"kind": "annual", "start_date": MONDAY}
    with pytest.raises(InvalidInput):
        ask(**day, end_date=date(2026, 11, 15), minutes=60)
    with pytest.raises(InvalidInput):
        ask(**day, end_date=date(2027, 11, 17), minutes=60)
    with pytest.raises(InvalidInput):
        ask(**day, end_date=MONDAY, minutes=24 * 60 + 1)
    with pytest.raises(InvalidInput):
        ask(kind="long service", start_date=MONDAY, end_date=MONDAY, minutes=60)
    schemas.Leave.model_validate(ask(**day, end_date=MONDAY, minutes=456))
