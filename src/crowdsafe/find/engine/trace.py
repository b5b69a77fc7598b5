"""What happened in a run as the search needs it: who was let go on, and what that did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crowdsafe.find.engine.touch import Touch
from crowdsafe.find.model import Run, Statement, Step

__all__ = ["Grant", "Impossible", "Picker", "Situation", "Trace"]


@dataclass(eq=False, slots=True)
class Grant:
    """One statement that was let go on, in the order in which they were.

    ``able`` are the operations that could have gone on instead, ``held`` those that stood at
    their gates but had to wait for a lock (SQLite). ``touch`` is what the statement did, or tried
    to do where it had to wait in the database; ``woke`` says which operations came through a wait
    by it, and what they did then.
    """

    operation: int
    step: Step
    statement: Statement
    able: frozenset[int]
    held: frozenset[int] = frozenset()
    waited_for: frozenset[int] = frozenset()
    touch: Touch = field(default_factory=dict)
    woke: list[tuple[int, Touch]] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """A run with its grants. ``stalled`` tells that an operation waited inside of the process."""

    run: Run
    grants: list[Grant]
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """A point of decision: ``able`` may go on, ``pending`` is what those at a gate would do.

    ``last`` is the operation that had the last grant. An operation that has not begun is able,
    and not in ``pending``.
    """

    able: tuple[int, ...]
    held: frozenset[int]
    pending: Mapping[int, Statement]
    last: int | None
    grants: list[Grant]
    finished: frozenset[int] = frozenset()
    stalled: frozenset[int] = frozenset()


class Impossible(Exception):
    """The schedule that was asked for cannot be kept here; its text says why."""


Picker = Callable[[Situation], int]
"""Says which of ``Situation.able`` goes on; raises :class:`Impossible` when it must not be any."""
