"""Makes a Python web backend safe for a crowd: nothing lost, nothing sold twice, nobody starved."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crowdsafe.errors import (
    AlreadyMoved,
    Conflict,
    CrowdsafeError,
    ForbiddenTransition,
    Insufficient,
    KeyReused,
    OverLimit,
)

if TYPE_CHECKING:
    from crowdsafe.store import AsyncStore, Settings, Store, after_commit, write
    from crowdsafe.writes import (
        Ledger,
        Log,
        StateMachine,
        edit,
        get_or_create,
        give,
        merge,
        mutate,
        next_number,
        number_block,
        once,
        take,
        transition,
    )

__all__ = [
    "AlreadyMoved",
    "AsyncStore",
    "Conflict",
    "CrowdsafeError",
    "ForbiddenTransition",
    "Insufficient",
    "KeyReused",
    "Ledger",
    "Log",
    "OverLimit",
    "Settings",
    "StateMachine",
    "Store",
    "after_commit",
    "edit",
    "get_or_create",
    "give",
    "merge",
    "mutate",
    "next_number",
    "number_block",
    "once",
    "take",
    "transition",
    "write",
]

_STORE = frozenset({"AsyncStore", "Settings", "Store", "after_commit", "write"})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load what needs SQLAlchemy when it is first asked for: the finder, which pytest loads in
        each of its runs, needs none of it."""
        if name in __all__:
            room = "store" if name in _STORE else "writes"
            value = getattr(import_module(f"crowdsafe.{room}"), name)
        elif name in {"store", "writes"}:
            value = import_module(f"crowdsafe.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
