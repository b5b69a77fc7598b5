"""Runs operations at once under control: one statement at a time, by somebody's choice."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from crowdsafe.find.engine.actor import Actor
from crowdsafe.find.engine.gate import Gate
from crowdsafe.find.engine.host import Host
from crowdsafe.find.engine.play import Limits, Play
from crowdsafe.find.engine.schedule import Following, of_grants
from crowdsafe.find.engine.trace import Picker, Trace
from crowdsafe.find.engine.transactions import Transactions
from crowdsafe.find.gates.control import keep
from crowdsafe.find.model import Answer, Operation, Reply, Run, Schedule, Statement
from crowdsafe.find.sql import analyse as analyse_text

if TYPE_CHECKING:
    from crowdsafe.find.database import Database

__all__ = ["Controller"]

_CALL_S = 60.0
_numbers = itertools.count(1)


class Controller:
    """Has the gate stop what operations ask; a context manager around the threads they run in.

    ``hang_s`` ends a run in which nothing happens for so long, ``stall_s`` is how long an
    operation may do nothing visible (no statement, no work) before the others go on without it.
    After a hang ``broken`` is True: threads of the target may be stuck for good, so the process
    should be ended. One controller at a time; not for use from several threads.
    """

    def __init__(
        self,
        database: Database,
        *,
        hang_s: float = 10.0,
        stall_s: float = 0.1,
        analyse: Callable[[str], Statement] | None = None,
    ) -> None:
        self.database = database
        self.broken = False
        self._limits = Limits(hang_s, stall_s)
        self._host = Host()
        self._gate = Gate(
            analyse or (lambda text: analyse_text(text, database.dialect)),
            lambda: self._host.loop_thread_ids,
        )
        self._play: Play | None = None

    def __enter__(self) -> Self:
        keep(self._gate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        keep(None)
        self._host.close()

    def call(self, coroutine: Coroutine[Any, Any, Any], *, timeout_s: float = _CALL_S) -> Any:
        """Run a coroutine on the event loop of the async operations (a lifespan, a setup)."""
        return self._host.loop().call(coroutine, timeout_s)

    def understand(self, analyse: Callable[[str], Statement]) -> None:
        """Tell statements by this from now on."""
        self._gate.analyse = analyse

    @property
    def progress_at(self) -> float:
        """When a statement last moved on, by ``time.monotonic()``; 0 before the first run."""
        return 0.0 if self._play is None else self._play.progress_at

    def run(
        self,
        operations: Sequence[Operation],
        pick: Picker,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        eager: bool = False,
    ) -> Run:
        """Run them, ``pick`` deciding. Never raises for what the target does."""
        return self.trace(operations, pick, limits=limits, keep_rows=keep_rows, eager=eager).run

    def replay(
        self,
        operations: Sequence[Operation],
        schedule: Schedule,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        eager: bool = False,
    ) -> Run:
        """Run them as the schedule says; ``Run.problem`` says where it could not be kept."""
        return self.run(
            operations, Following(schedule), limits=limits, keep_rows=keep_rows, eager=eager
        )

    def trace(
        self,
        operations: Sequence[Operation],
        pick: Picker,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        transactions: Transactions | None = None,
        eager: bool = False,
    ) -> Trace:
        """As :meth:`run`, with all that a search wants to know. ``eager`` has each operation come
        to its first gate before the first decision, else it begins when it is first picked."""
        began = time.monotonic()
        limits = limits or [None] * len(operations)
        actors = [
            Actor(place, next(_numbers), operation, limit)
            for place, (operation, limit) in enumerate(zip(operations, limits, strict=True))
        ]
        self.database.locks.reset()
        self._host.prepare(operations)
        self._gate.open_for(actors, keep_rows=keep_rows)
        self._play = play = Play(
            actors,
            self._gate,
            self._host,
            self.database.locks,
            transactions or Transactions(self.database.dialect),
            limits=self._limits,
        )
        try:
            problem = play.perform(pick, eager=eager)
        finally:
            self._gate.close()
            self._host.apart = self._host.apart or self._gate.loop_was_blocked
            self.broken = self.broken or play.broken
        run = Run(
            schedule=of_grants([grant.operation for grant in play.grants]),
            steps=play.steps,
            answers=[_answer(actor) for actor in actors],
            deadlocked=any(step.sqlstate == "40P01" for step in play.steps),
            problem=problem,
            seconds=time.monotonic() - began,
        )
        return Trace(run, play.grants, stalled=play.stalled)


def _answer(actor: Actor) -> Answer:
    if isinstance(actor.answer, Answer):
        return actor.answer
    error = actor.answer
    if error is None:
        return Answer()
    reply = Reply(actor.operation.name, error=type(error).__name__, message=str(error))
    return Answer([reply], stopped_at=0)
