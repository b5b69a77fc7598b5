"""The seam between the patched drivers (gates) and whoever decides who goes on (the gatekeeper).

A gate calls :func:`keeper` before each round trip to the database. Outside of an operation it
gets None and does nothing, so that the finder's own connections and the target's start-up run
freely. Inside, it stands at the gate until it is let go on, and tells how the statement ended.
"""

from __future__ import annotations

import contextvars
import itertools
import mmap
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

from crowdsafe.find.model import Source, Step

__all__ = [
    "Gatekeeper",
    "Link",
    "Pass",
    "current_operation",
    "fork_spoke",
    "keep",
    "keeper",
    "operate",
    "scratch",
]

_numbers = itertools.count(1)


@dataclass(eq=False, slots=True)
class Link:
    """One connection of the target. ``backend_pid`` is PostgreSQL's, None on SQLite.

    ``state`` is the driver's gate's own (for example which locks SQLite holds for it). A gate that
    knows it keeps ``in_transaction`` up to date before each ``leave`` (whether a transaction is
    open now), and ``isolation`` (lower case, such as ``repeatable read``) before each ``enter``;
    None where it does not know, which costs the search a few more schedules.
    """

    driver: str
    backend_pid: int | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    state: Any = None
    in_transaction: bool | None = None
    isolation: str | None = None


@dataclass(eq=False, slots=True)
class Pass:
    """A statement that was let through; given back to the gatekeeper when it ended."""

    step: Step
    link: Link
    ticket: Any = None


class Gatekeeper(Protocol):
    """Who decides. All are called in the thread or task that runs the statement."""

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        """Block this thread until the statement may run."""

    async def enter_async(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        """The same for a task of the event loop."""

    def leave(
        self,
        passed: Pass,
        *,
        rowcount: int | None = None,
        error: BaseException | None = None,
        sqlstate: str | None = None,
    ) -> None:
        """The statement ended: with its count of rows, or with an error. Never blocks."""

    def keep_rows(
        self, passed: Pass, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> None:
        """What the statement read (at most 20 rows); only called while :attr:`wants_rows`."""

    def sent(self, operation: int) -> int:
        """How many statements of that operation were let go on so far."""

    @property
    def wants_rows(self) -> bool: ...


_operation: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "crowdsafe_find_operation", default=None
)
_scratch: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "crowdsafe_find_scratch", default=None
)
_keeper: Gatekeeper | None = None
_process = 0
_forks = mmap.mmap(-1, 1)
"""One byte that forked processes share: 1 when one of them came to a gate."""


def keep(gatekeeper: Gatekeeper | None) -> None:
    """Set who decides in this process; None lets everything pass."""
    global _keeper, _process  # noqa: PLW0603
    _keeper = gatekeeper
    _process = os.getpid()


def keeper() -> tuple[Gatekeeper, int] | None:
    """Who decides for the caller, and as which operation it runs; None outside of operations.

    A process that was forked from this one passes freely, since nobody could let it go on, and
    leaves a sign.
    """
    if _keeper is None:
        return None
    if os.getpid() != _process:
        _forks[0] = 1
        return None
    operation = _operation.get()
    return None if operation is None else (_keeper, operation)


def fork_spoke() -> bool:
    """Whether a forked process came to a gate since this was last asked."""
    spoke = _forks[0] == 1
    _forks[0] = 0
    return spoke


def current_operation() -> int | None:
    return _operation.get()


def operate(operation: int | None) -> contextvars.Token[int | None]:
    """Say that this thread or task runs as that operation from now on."""
    _scratch.set({})
    return _operation.set(operation)


def scratch() -> dict[str, Any]:
    """Notes of the gates, empty again each time that a thread or task is set to an operation."""
    notes = _scratch.get()
    if notes is None:
        notes = {}
        _scratch.set(notes)
    return notes
