"""What a user may do on the factory's pages: what is not allowed is not offered."""

from __future__ import annotations

from dataclasses import dataclass

from crowdsafe.identity import User
from crowdsafe.systems.factory.permissions import may, sees_staff

__all__ = ["May", "may_of"]


@dataclass(frozen=True, slots=True)
class May:
    """One answer for each kind of change; the API decides again at each request."""

    create_orders: bool
    edit_orders: bool
    cancel_orders: bool
    move_stage: bool
    receive_stock: bool
    take_stock: bool
    invoice: bool
    approve_timesheets: bool
    reopen_timesheets: bool
    decide_leave: bool
    see_staff: bool


def may_of(user: User) -> May:
    """What this user's roles allow."""
    return May(
        create_orders=may(user.roles, "order.create"),
        edit_orders=may(user.roles, "order.edit"),
        cancel_orders=may(user.roles, "order.cancel"),
        move_stage=may(user.roles, "order.stage"),
        receive_stock=may(user.roles, "stock.receive"),
        take_stock=may(user.roles, "stock.allocate"),
        invoice=may(user.roles, "order.invoice"),
        approve_timesheets=may(user.roles, "timesheet.approve"),
        reopen_timesheets=may(user.roles, "timesheet.reopen"),
        decide_leave=may(user.roles, "leave.decide"),
        see_staff=sees_staff(user.roles),
    )
