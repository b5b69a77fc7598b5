"""Runs programs on the toy databases without threads, as a controller would, and all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from crowdsafe.find.engine.touch import all_of
from crowdsafe.find.engine.trace import Grant, Picker, Situation, Trace
from crowdsafe.find.engine.transactions import Transactions
from crowdsafe.find.gates.control import Link
from crowdsafe.find.model import Run, Statement, Step
from crowdsafe.find.sql import analyse
from tests.find.engine.toy import CELLS, Act, Done, Program, ToyPostgres, ToySqlite

__all__ = ["Outcome", "Simulation", "every_outcome"]

Outcome = tuple[Any, ...]


@lru_cache(maxsize=10_000)
def _analysed(sql: str, dialect: str) -> Statement:
    return analyse(sql, dialect)


@dataclass
class _Mover:
    program: Program
    link: Link
    place: int = 0
    failing: bool = False
    waits: Grant | None = None

    @property
    def pending(self) -> Act | None:
        if self.waits is not None:
            return None
        if self.failing:
            return Act("rollback")
        return self.program.acts[self.place] if self.place < len(self.program.acts) else None


class Simulation:
    """Stands in for the Controller. ``outcome`` is of the last run: rows and all that was read."""

    def __init__(self, programs: Sequence[Program], dialect: str) -> None:
        self.programs = list(programs)
        self.dialect = dialect
        self.database = SimpleNamespace(dialect=dialect, schema=lambda: None)
        self.outcome: Outcome = ()

    def trace(
        self,
        operations: Any,
        pick: Picker,
        *,
        transactions: Transactions | None = None,
        eager: bool = False,
    ) -> Trace:
        toy = ToyPostgres if self.dialect == "postgresql" else ToySqlite
        self._server: Any = toy(CELLS, self.programs)
        self._transactions = transactions or Transactions(self.dialect)
        self._movers = [
            _Mover(program, Link("toy", isolation="read committed")) for program in self.programs
        ]
        self._seen: list[list[Any]] = [[] for _ in self.programs]
        grants: list[Grant] = []
        while (situation := self._situation(grants)) is not None:
            self._grant(pick(situation), situation, grants)
        rows = tuple(sorted(self._server.rows.items()))
        self.outcome = (rows, tuple(map(tuple, self._seen)))
        return Trace(Run((), [grant.step for grant in grants], []), grants)

    def _situation(self, grants: list[Grant]) -> Situation | None:
        able, held = [], []
        for who, mover in enumerate(self._movers):
            if mover.pending is not None:
                (held if self._server.needed(who, mover.pending) else able).append(who)
        if not able and not held:
            assert all(mover.waits is None for mover in self._movers)
            return None
        last = grants[-1].operation if grants else None
        return Situation(tuple(able or held), frozenset(held), {}, last, grants)

    def _grant(self, who: int, situation: Situation, grants: list[Grant]) -> None:
        mover = self._movers[who]
        act = mover.pending
        assert act is not None
        statement = _analysed(act.sql, self.dialect)
        step = Step(who, mover.place, act.sql)
        grant = Grant(who, step, statement, frozenset(situation.able), situation.held)
        grants.append(grant)
        mover.waits = grant
        done = self._server.execute(who, act)
        if all(one.who != who for one in done):
            grant.waited_for = frozenset(self._server.waiting()[who])
            grant.touch = self._transactions.attempt(mover.link, statement, act.sql, None)
        for one in done:
            self._through(one, grant)

    def _through(self, done: Done, grant: Grant) -> None:
        mover = self._movers[done.who]
        own = mover.waits
        assert own is not None
        mover.waits = None
        own.step.error = done.error
        own.step.waited_for = tuple(own.waited_for)
        mover.link.in_transaction = not mover.program.autocommit if self._pg else None
        touch = self._transactions.left(
            mover.link, own.statement, own.step.sql, None, failed=done.error is not None
        )
        if own is grant:
            grant.touch = all_of([grant.touch, touch])
        else:
            grant.woke.append((done.who, touch))
        self._seen[done.who].append((done.value, done.error))
        mover.place += 1
        if mover.failing or (done.error is not None and mover.program.autocommit):
            mover.place, mover.failing = len(mover.program.acts), False
        elif done.error is not None:
            mover.failing = True

    @property
    def _pg(self) -> bool:
        return self.dialect == "postgresql"


def every_outcome(simulation: Simulation, runs_max: int) -> tuple[set[Outcome], int] | None:
    """The outcomes of all interleavings, and their number; None when there are more than that."""
    outcomes: set[Outcome] = set()
    count = 0
    for prefix in _prefixes(simulation):
        del prefix
        outcomes.add(simulation.outcome)
        count += 1
        if count > runs_max:
            return None
    return outcomes, count


def _prefixes(simulation: Simulation) -> Iterator[list[int]]:
    stack: list[list[int]] = [[]]
    while stack:
        prefix = stack.pop()
        able: list[tuple[int, ...]] = []
        trace = simulation.trace(None, _following(prefix, able))
        yield prefix
        chosen = [grant.operation for grant in trace.grants]
        for depth in range(len(prefix), len(chosen)):
            stack += [[*chosen[:depth], n] for n in able[depth] if n != chosen[depth]]


def _following(prefix: list[int], able: list[tuple[int, ...]]) -> Callable[[Situation], int]:
    def pick(situation: Situation) -> int:
        able.append(situation.able)
        place = len(able) - 1
        return prefix[place] if place < len(prefix) else situation.able[0]

    return pick
