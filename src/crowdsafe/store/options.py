"""What a write function says about how it wants to run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError
from crowdsafe.store.settings import Isolation

__all__ = [
    "Call",
    "Combiner",
    "WriteOptions",
    "checked_isolation",
    "combined_by",
    "options_of",
    "write",
]

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = "__crowdsafe_write__"
_ISOLATIONS = ("serializable", "repeatable read", "read committed")


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one waiting write."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Combiner(Protocol):
    """Does the work of many calls of one function in a few statements."""

    def lane(self, call: Call) -> Hashable | None:
        """The key of the calls that can be combined with this one, or None for none."""

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        """Each call's result, or the exception instance that it would have raised, in order.

        The outcome is that of running the calls one after the other.
        """


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a function is run by ``write`` when the caller does not say otherwise."""

    isolation: Isolation | None = None
    lane: Callable[..., Hashable] | None = None
    combiner: Combiner | None = None


_PLAIN = WriteOptions()


def write(
    *, isolation: Isolation | None = None, lane: Callable[..., Hashable] | None = None
) -> Callable[[F], F]:
    """Declare how a write function runs.

    ``isolation`` is the level on PostgreSQL ("serializable" without it; SQLite always is).
    ``lane`` gets the call's arguments without the session and returns a key: calls with equal
    keys queue up in the process and share one transaction, a savepoint each.

    Example: ``@write(isolation="read committed", lane=lambda product_id, **_: ("stock",
    product_id))``. Raises ConfigError for an unknown level.
    """
    checked_isolation(isolation)

    def declare(fn: F) -> F:
        setattr(fn, _OPTIONS, WriteOptions(isolation=isolation, lane=lane))
        return fn

    return declare


def checked_isolation(isolation: Isolation | None) -> Isolation | None:
    """The level as it was given. Raises ConfigError for an unknown one."""
    if isolation is not None and isolation not in _ISOLATIONS:
        raise ConfigError(f"isolation {isolation!r} is not one of {', '.join(_ISOLATIONS)}")
    return isolation


def combined_by(combiner: Combiner) -> Callable[[F], F]:
    """Declare that concurrent calls of a write function are done by ``combiner`` together."""

    def declare(fn: F) -> F:
        setattr(fn, _OPTIONS, WriteOptions(isolation="read committed", combiner=combiner))
        return fn

    return declare


def options_of(fn: Callable[..., Any]) -> WriteOptions:
    """The options declared on ``fn``, or those of a plain function."""
    options: WriteOptions = getattr(fn, _OPTIONS, _PLAIN)
    return options
