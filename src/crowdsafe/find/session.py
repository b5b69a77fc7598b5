"""The target on a database of its own: set up once, then run and put back any number of times."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from crowdsafe.errors import ConfigError
from crowdsafe.find.analyst import Analyse, analyst
from crowdsafe.find.database import Database, open_database
from crowdsafe.find.engine import Controller
from crowdsafe.find.gates import install
from crowdsafe.find.model import Finding, Operation, Run, Schedule, State, Verb
from crowdsafe.find.predict import ALL, footprint
from crowdsafe.find.targets import (
    Call,
    Scenario,
    Spec,
    Target,
    call,
    load,
    load_function,
    name_apart,
    spec_of,
)
from crowdsafe.find.token import Token, encode

__all__ = ["Job", "Session"]

_CALL = "call "

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


class Session:
    """A context manager around the patched drivers, the working copy and the loaded target."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._stack = ExitStack()
        self.base: State = {}
        self.specs: tuple[Spec, ...] = ()
        self._dirty: frozenset[str] | None = frozenset()
        self.runs = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.database: Database = open_database(self.job.database, in_place=self.job.in_place)
            stack.callback(self.database.close)
            stack.callback(install(self.database.dialect, self.database.redirect))
            self.controller = stack.enter_context(Controller(self.database, hang_s=self.job.hang_s))
            self.target: Target = load(self.job.target)
            self._set_up()
            self.controller.call(self.target.startup())
            stack.callback(lambda: self.controller.call(self.target.shutdown()))
            self.operations = self.target.prepare(
                self.specs,
                login=self.job.login or (self.scenario.login if self.scenario else None),
                headers=self._headers(),
                on_loop=self.controller.call,
            )
            self.schema = self.database.schema()
            self.analyse: Analyse = analyst(self.schema, self.database.dialect)
            self.database.keep()
            self.base = self.database.read(None)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def token(self, finding: Finding) -> str | None:
        """What shows that race again; None where it holds an operation that has no name."""
        specs = {spec.name: spec for spec in self.specs}
        in_scenario = self.scenario is not None and not self.job.operations
        texts = [
            name if in_scenario else _text(specs[name])
            for name in finding.operations
            if name in specs
        ]
        if None in texts or not isinstance(self.job.target, str | None):
            return None
        return encode(
            Token(
                target=self.job.target or "",
                database=self.database.shown_url,
                operations=tuple(text for text in texts if text is not None),
                schedule=finding.schedule,
                setup=self.job.setup if isinstance(self.job.setup, str) else None,
                login=self.job.login,
                headers=self.job.headers,
                scenario=in_scenario,
            )
        )

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
        return notes

    @property
    def scenario(self) -> Scenario | None:
        return self.target.scenario

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        return (*self.job.invariants, *(self.scenario.invariants if self.scenario else ()))

    def _set_up(self) -> None:
        """Run the setup, and learn what the operations are."""
        setup = self.job.setup or (self.scenario.setup if self.scenario else None)
        if setup is not None:
            made = load_function(setup)()
            if inspect.isawaitable(made):
                self.controller.call(_awaited(made))
        if self.job.operations:
            self.specs = name_apart([_spec(one) for one in self.job.operations])
        elif self.scenario is not None:
            self.specs = self.scenario.specs()
        else:
            raise ConfigError(
                "there is no operation to try: give at least one request, such as "
                "--request 'POST /orders {\"product_id\": 1}'"
            )

    def _headers(self) -> tuple[str, ...]:
        given = self.scenario.headers if self.scenario else ()
        if isinstance(given, Mapping):
            given = [f"{name}: {value}" for name, value in given.items()]
        return (*given, *self.job.headers)

    def serial(
        self,
        operations: Sequence[Operation],
        order: Sequence[int],
        limits: Sequence[int | None] | None = None,
        *,
        perturbed: bool = False,
    ) -> Run:
        """These operations one after another; ``limits`` ends some of them early."""
        return self.replay(
            operations, tuple((n, 1) for n in order), limits=limits, perturbed=perturbed
        )

    def replay(
        self,
        operations: Sequence[Operation],
        schedule: Schedule,
        *,
        limits: Sequence[int | None] | None = None,
        perturbed: bool = False,
        keep_rows: bool = False,
    ) -> Run:
        """One run under that schedule, from the kept state, with its outcome read."""
        self.reset()
        if perturbed:
            self.database.perturb()
            self._dirty = None
        run = self.controller.replay(operations, schedule, limits=limits, keep_rows=keep_rows)
        self.after(run)
        return run

    def reset(self) -> None:
        """Put the database back to what it was when it was kept."""
        self.database.restore(self._dirty)
        self._dirty = frozenset()

    def after(self, run: Run) -> None:
        """Read what a run left, and remember what has to be put back."""
        self.runs += 1
        touched = self._touched(run)
        if self._dirty is not None:
            self._dirty = None if touched is None else self._dirty | touched
        if run.problem is None:
            run.state = self._state(touched)

    def _touched(self, run: Run) -> frozenset[str] | None:
        if any(self.analyse(step.sql).verb is Verb.DDL for step in run.steps):
            return None
        writes = footprint(run.steps, self.analyse).writes
        return None if ALL in writes else writes & self.schema.tables.keys()

    def _state(self, touched: frozenset[str] | None) -> State:
        """All tables: those that the run may have written as they are now, the others as kept."""
        if touched is None:
            return self.database.read(None)
        return self.base | self.database.read(touched) if touched else dict(self.base)


def _spec(operation: Any) -> Spec:
    """An operation as it was given; ``call module:function`` names a function."""
    if isinstance(operation, str) and operation.startswith(_CALL):
        return call(load_function(operation.removeprefix(_CALL).strip()))
    return spec_of(operation)


def _text(spec: Spec) -> str | None:
    """What names that operation in another process; None for a function without a name."""
    if isinstance(spec, Call):
        return f"{_CALL}{spec.reference}" if spec.reference and not spec.args else None
    return spec.text


async def _awaited(made: Awaitable[object]) -> object:
    return await made
