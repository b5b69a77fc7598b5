"""A database, a controller and operations: run them, and put back what they did, any number of
times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crowdsafe.find.analyst import Analyse, analyst
from crowdsafe.find.database import Database
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.engine import Controller, in_order
from crowdsafe.find.memory import keep_caches
from crowdsafe.find.model import Finding, Operation, Run, Schedule, State, Verb
from crowdsafe.find.predict import ALL, footprint

__all__ = ["Invariant", "Job", "Stage"]

Invariant = Callable[[dict[str, list[dict[str, Any]]]], object]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be found out: a target, its operations, and how far to look.

    ``budget_s`` (seconds) is for everything, ``schedules`` for each set of operations.
    """

    target: Any
    operations: tuple[Any, ...]
    database: str
    setup: Any = None
    login: str | None = None
    headers: tuple[str, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    budget_s: float = 60.0
    schedules: int = 2000
    triples: bool = False
    in_place: bool = False
    hang_s: float = 10.0


class Stage:
    """Where runs take place. Whoever sets it up gives it its ``database``, ``controller`` and
    ``operations``, and calls :meth:`keep` when the database is as each run shall find it."""

    job: Job
    database: Database
    controller: Controller
    operations: list[Operation]
    schema: Schema
    analyse: Analyse

    def __init__(self, job: Job) -> None:
        self.job = job
        self.base: State = {}
        self.runs = 0
        self._dirty: frozenset[str] | None = frozenset()
        self._put_caches_back: Callable[[], None] = keep_caches()
        self._mark: object = None

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        return self.job.invariants

    def keep(self) -> None:
        """Take the database as it is now for what each run begins with."""
        self.schema = self.database.schema()
        self.analyse = analyst(self.schema, self.database.dialect)
        self.database.keep()
        self._put_caches_back = keep_caches()
        self.base = self.database.read(None)
        self._mark = self.database.original_mark()

    def token(self, finding: Finding) -> str | None:
        """What shows that race again in another process; None where nothing can."""
        return None

    def strangers(self) -> list[str]:
        """The databases that the target talks to besides the one that was named."""
        return sorted(map(str, self.database.redirect.strangers))

    def notes(self) -> list[str]:
        """What holds for all findings."""
        notes = list(getattr(self.database, "notes", []))
        if strangers := self.strangers():
            notes.append(
                f"the target also talks to {', '.join(strangers)}: what it does there is neither "
                "put back between runs nor compared"
            )
        if self.database.original_mark() != self._mark:
            notes.append(
                f"{self.database.shown_url} itself was used meanwhile, by somebody else or by a "
                "process of the target (a worker, say): what it did there was not looked at"
            )
        return notes

    def serial(
        self,
        operations: Sequence[Operation],
        order: Sequence[int],
        limits: Sequence[int | None] | None = None,
        *,
        perturbed: bool = False,
    ) -> Run:
        """These operations one after another; ``limits`` ends some of them early."""
        self.reset()
        if perturbed:
            self.database.perturb()
            self._dirty = None
        run = self.controller.replay(operations, in_order(order), limits=limits)
        self.after(run)
        return run

    def replay(
        self, operations: Sequence[Operation], schedule: Schedule, *, keep_rows: bool = False
    ) -> Run:
        """One run under that schedule, from the kept state, with its outcome read.

        A schedule that cannot be kept is tried once more with all operations begun before the
        first goes on: one that waits for another inside of the process may get its turn only so.
        """
        for eager in (False, True):
            self.reset()
            run = self.controller.replay(operations, schedule, keep_rows=keep_rows, eager=eager)
            self.after(run)
            if run.problem is None or self.controller.broken:
                break
        return run

    def reset(self) -> None:
        """Put the database back to what it was when it was kept."""
        self.database.restore(self._dirty)
        self._put_caches_back()
        self._dirty = frozenset()

    def after(self, run: Run) -> None:
        """Read what a run left, and remember what has to be put back."""
        self.runs += 1
        touched = self.touched(run)
        if self._dirty is not None:
            self._dirty = None if touched is None else self._dirty | touched
        if run.problem is None:
            run.state = self._state(touched)

    def touched(self, run: Run) -> frozenset[str] | None:
        """The tables that the run's statements may have written; None: perhaps all."""
        if any(self.analyse(step.sql).verb is Verb.DDL for step in run.steps):
            return None
        writes = footprint(run.steps, self.analyse).writes
        return None if ALL in writes else writes & self.schema.tables.keys()

    def _state(self, touched: frozenset[str] | None) -> State:
        """All tables: those that the run may have written as they are now, the others as kept."""
        if touched is None:
            return self.database.read(None)
        return self.base | self.database.read(touched) if touched else dict(self.base)
