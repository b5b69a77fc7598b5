"""The factory's refusals: each names what happened, what to do next, and the data for it."""

from __future__ import annotations

from crowdsafe.errors import AlreadyMoved, Conflict, CrowdsafeError, Insufficient, Refused


class InsufficientStock(Insufficient):
    """Not enough stock of this product for this client; ask for at most `available`."""

    problem_type = "insufficient-stock"
    title = "Not enough stock"


class InsufficientLeave(Insufficient):
    """Not enough leave left; ask for at most `available` minutes."""

    problem_type = "insufficient-leave"
    title = "Not enough leave"


class StageMoved(AlreadyMoved):
    """Someone moved this order first; reload, and decide from the stage in `current`."""

    problem_type = "stage-moved"
    title = "The order has moved"


class TimesheetMoved(AlreadyMoved):
    """Someone decided on this timesheet first; reload, and decide from `current`."""

    problem_type = "timesheet-moved"
    title = "The timesheet has moved"


class LeaveMoved(AlreadyMoved):
    """Someone decided on this leave request first; reload, and decide from `current`."""

    problem_type = "leave-moved"
    title = "The leave request has moved"


class AllocationMoved(AlreadyMoved):
    """This allocation is no longer active: it was released, has expired or was used."""

    problem_type = "allocation-moved"
    title = "The allocation is closed"


class AlreadyInvoiced(CrowdsafeError):
    """Everything on this order is invoiced; open the invoice that `invoice_number` names."""

    status = 409
    problem_type = "already-invoiced"
    title = "Already invoiced"


class ExceedsOrdered(Refused):
    """An invoice cannot bill more than was ordered; bill at most `available` of `item_id`."""

    problem_type = "exceeds-ordered"
    title = "More than was ordered"


class OrderClosed(CrowdsafeError):
    """The order's stage does not allow this any more; `current` says where it is."""

    status = 409
    problem_type = "order-closed"
    title = "The order is closed"


class WrongClient(Refused):
    """The order belongs to another client than this stock; allocate that client's stock."""

    problem_type = "wrong-client"
    title = "Another client's order"


class EditConflict(Conflict):
    """Someone saved the same fields first; choose a value for each, then save again."""

    problem_type = "edit-conflict"
    title = "Edit conflict"


class ItemInvoiced(Refused):
    """This item is invoiced: it can grow, but not be removed, repriced or cut below that."""

    problem_type = "item-invoiced"
    title = "The item is invoiced"


class Duplicate(CrowdsafeError):
    """There is one of this name already; use the one in `id`, or choose another name."""

    status = 409
    problem_type = "duplicate"
    title = "It exists"


class DuplicateTimesheet(CrowdsafeError):
    """There is already a timesheet for this employee and week; open the one in `timesheet_id`."""

    status = 409
    problem_type = "duplicate-timesheet"
    title = "The timesheet exists"
