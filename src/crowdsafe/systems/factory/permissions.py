"""Who may do what in the factory: every operation's roles, in one place.

Reading orders, stock and invoices takes any login. Timesheets, leave and balances are shown to
the person they belong to, and to `STAFF_READERS`.
"""

from __future__ import annotations

PERMISSIONS: dict[str, frozenset[str]] = {
    "client.add": frozenset({"admin", "sales"}),
    "product.add": frozenset({"admin", "production_manager"}),
    "employee.add": frozenset({"admin", "manager"}),
    "stock.receive": frozenset({"admin", "production_manager", "production_team", "supervisor"}),
    "stock.allocate": frozenset({"admin", "sales", "production_manager", "supervisor"}),
    "stock.release": frozenset({"admin", "sales", "production_manager", "supervisor"}),
    "order.create": frozenset({"admin", "sales", "production_manager"}),
    "order.edit": frozenset({"admin", "sales", "production_manager"}),
    "order.delete": frozenset({"admin", "sales"}),
    "order.cancel": frozenset({"admin", "sales", "production_manager"}),
    "order.stage": frozenset(
        {"admin", "production_manager", "production_team", "supervisor", "manager"}
    ),
    "order.invoice": frozenset({"admin", "sales", "manager"}),
    "timesheet.approve": frozenset({"admin", "manager", "supervisor"}),
    "timesheet.reopen": frozenset({"admin", "manager", "supervisor"}),
    "leave.decide": frozenset({"admin", "manager"}),
}

STAFF_READERS = frozenset({"admin", "manager", "supervisor", "production_manager"})
"""Who sees everybody's timesheets, leave and balances, and may enter them for others."""


def may(roles: frozenset[str], operation: str) -> bool:
    """Whether someone with these roles may do the operation."""
    return bool(PERMISSIONS[operation] & roles)


def sees_staff(roles: frozenset[str]) -> bool:
    """Whether someone with these roles sees everybody's timesheets, leave and balances."""
    return bool(STAFF_READERS & roles)
