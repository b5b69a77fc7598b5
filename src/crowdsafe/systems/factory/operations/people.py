"""Who an employee is, and who may act for whom."""

from __future__ import annotations

from sqlalchemy.orm import Session

from crowdsafe.errors import Forbidden, NotFound
from crowdsafe.systems.factory.models import Employee
from crowdsafe.systems.factory.operations.common import Actor


def own_employee(session: Session, employee_id: int, actor: Actor, *, for_anyone: bool) -> Employee:
    """The employee, if the actor is that person or may act for anyone.

    Raises NotFound, Forbidden.
    """
    employee = session.get(Employee, employee_id)
    if employee is None:
        raise NotFound(f"There is no employee {employee_id}.")
    if not for_anyone and employee.username != actor.username:
        raise Forbidden("You can do this for yourself only; ask a manager to do it for others.")
    return employee
