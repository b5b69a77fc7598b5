"""One operation in a run, as the controller sees it: where it stands and what it waits for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.engine.trace import Grant
from crowdsafe.find.gates.control import Link, Pass
from crowdsafe.find.model import Answer, Operation, Source, Statement, Step

__all__ = ["Actor", "Parked", "Unwound"]


class Unwound(BaseException):
    """Raised at the gate to end an operation of a run that was given up."""


@dataclass(eq=False, slots=True)
class Parked:
    """A statement that came to the gate. ``release`` lets it go on, in whatever thread it is."""

    actor: Actor
    link: Link
    sql: str
    parameters: Any
    source: Source | None
    statement: Statement
    release: Callable[[], None]
    step: Step | None = None
    unwind: bool = False
    ended: bool = False
    failed: bool = False
    grant: Grant | None = None
    turn: int = 0
    waited_for: set[int] = field(default_factory=set)

    def passed(self) -> Pass:
        if self.unwind:
            raise Unwound("this run was given up")
        assert self.step is not None
        return Pass(self.step, self.link, self)


@dataclass(eq=False, slots=True)
class Actor:
    """``number`` is the operation's own in this process (no two runs share one), ``place`` its
    place in the run. ``parked`` waits at the gate, first come first; ``flying`` was let go on and
    has not ended; ``blocked_by`` are the connections that a flying one waits for (None: it does
    not wait). ``inside`` tells that a stalled one was seen to wait for another inside of the
    process."""

    place: int
    number: int
    operation: Operation
    limit: int | None
    parked: deque[Parked] = field(default_factory=deque)
    flying: Parked | None = None
    blocked_by: frozenset[Link] | None = None
    blocked_since: float = 0.0
    started: bool = False
    stalled: bool = False
    inside: bool = False
    returned: bool = False
    grace_until: float | None = None
    quiet_since: float = 0.0
    answer: Answer | BaseException | None = None
    granted: int = 0
    links: dict[Link, int] = field(default_factory=dict)
    cancel: Callable[[], None] | None = None

    @property
    def at_gate(self) -> bool:
        return self.flying is None and bool(self.parked)

    @property
    def done(self) -> bool:
        return (
            self.returned
            and self.flying is None
            and not self.parked
            and (self.grace_until is None or time.monotonic() >= self.grace_until)
        )

    @property
    def moving(self) -> bool:
        """Whether it will soon be somewhere else than it is."""
        if not self.started or self.at_gate:
            return False
        if self.flying is not None:
            return self.blocked_by is None
        return not self.stalled and not self.done

    def connection(self, link: Link) -> int:
        return self.links.setdefault(link, len(self.links))
