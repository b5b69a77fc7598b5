"""What a few operations give one after another, run as it is needed, and runs held against it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from crowdsafe.find.judge import Judgement, Oracle
from crowdsafe.find.model import Answer, Operation, Run
from crowdsafe.find.stage import Stage
from crowdsafe.find.targets import told

__all__ = ["Inconclusive", "SerialOutcomes"]

_CLOCK_STEP_S = 1.1
_WANTED_MAX = 64

Key = tuple[tuple[int, ...], tuple[int | None, ...]]


class Inconclusive(Exception):
    """Nothing can be said about these operations; the message says why."""


class SerialOutcomes:
    """The serial runs of some operations, and the oracle that knows them.

    All orders are run when it is made, each once for nothing, as the target then has in memory
    what it keeps there, and then twice, so that what is volatile shows: also what an operation
    does in one of the orders only, such as a token that it gives out when it comes first.
    Raises Inconclusive when a serial run hangs.
    """

    def __init__(self, stage: Stage, operations: Sequence[Operation]) -> None:
        self.stage = stage
        self.operations = operations
        self.runs: dict[Key, Run] = {}
        self.oracle = Oracle(stage.schema, stage.invariants, stage.base)
        whole = (None,) * len(operations)
        first = tuple(range(len(operations)))
        self._distinct = self._distinct_orders()
        for order in self._distinct:
            self._run(order, whole)
        for order in self._distinct:
            self.runs[order, whole] = self._run(order, whole)
            self.oracle.learn([self.runs[order, whole], self._run(order, whole, perturbed=True)])
        for order in permutations(first):
            if (order, whole) not in self.runs:
                self.runs[order, whole] = self._turned(order) or self._run(order, whole)
        self._last_learned = time.monotonic()
        for (order, limits), run in self.runs.items():
            self.oracle.add_serial(order, limits, run)

    @property
    def orders(self) -> dict[tuple[int, ...], Run]:
        """Order → run, of the orders in which every operation ran to its end."""
        return {order: run for (order, limits), run in self.runs.items() if set(limits) == {None}}

    def demand_success(self) -> None:
        """Raises Inconclusive for an operation that is refused whatever comes before it."""
        for number, operation in enumerate(self.operations):
            answers = [run.answers[number] for run in self.orders.values()]
            if all(answer.stopped_at is not None for answer in answers):
                why = f"{operation.name} is refused each time, with {told(answers[0].replies[-1])}"
                raise Inconclusive(f"{why}: give one that succeeds")

    def demand_repeatable_rows(self) -> None:
        """Raises Inconclusive when one order twice leaves other rows, beyond what is volatile."""
        unstable = self.oracle.unstable
        if unstable is not None and unstable.rows_differ:
            raise Inconclusive(_unrepeatable(unstable.as_repeated()))

    def demand_repeatable_answers(self) -> None:
        """Raises Inconclusive when one order twice gives other answers or rows likewise."""
        unstable = self.oracle.unstable
        if unstable is not None:
            raise Inconclusive(_unrepeatable(unstable.as_repeated()))

    def judge(self, run: Run) -> Judgement:
        """Whether a serial order gives this; runs the serial orders that are missing first."""
        for _ in range(_WANTED_MAX):
            wanted = [key for key in self.oracle.wants(run) if key not in self.runs]
            if not wanted:
                break
            for order, limits in wanted:
                self.runs[order, limits] = self._run(order, limits)
                self.oracle.add_serial(order, limits, self.runs[order, limits])
        return self.oracle.judge(run)

    def relearn(self) -> None:
        """Run the orders again when a clock has moved on, to learn what holds the time."""
        rest = self._last_learned + _CLOCK_STEP_S - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        self.repeat()

    def repeat(self) -> None:
        """Run the orders again, to learn what else is not the same each time."""
        whole = (None,) * len(self.operations)
        for order in self._distinct:
            self.oracle.learn([self.runs[order, whole], self._run(order, whole)])
        self._last_learned = time.monotonic()

    def _run(
        self,
        order: tuple[int, ...],
        limits: tuple[int | None, ...],
        *,
        perturbed: bool = False,
    ) -> Run:
        run = self.stage.serial(self.operations, order, limits, perturbed=perturbed)
        if run.problem is not None:
            raise Inconclusive(f"one after another: {run.problem}")
        return run

    def _distinct_orders(self) -> list[tuple[int, ...]]:
        """The orders that differ, where one operation is there more than once."""
        members = self.operations
        orders = permutations(range(len(members)))
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for order in orders:
            found.setdefault(tuple(id(members[n]) for n in order), order)
        return list(found.values())

    def _turned(self, order: tuple[int, ...]) -> Run | None:
        """The run of a known order with its operations renamed, where they are the same one."""
        for (known, limits), run in self.runs.items():
            if set(limits) != {None}:
                continue
            names = dict(zip(known, order, strict=True))
            if all(self.operations[a] is self.operations[b] for a, b in names.items()):
                return _renamed(run, names)
        return None


def _unrepeatable(difference: str) -> str:
    return (
        "one after another, in the same order, they do not give the same each time "
        f"({difference}): take chance, and what is left from earlier calls, out of them"
    )


def _renamed(run: Run, names: dict[int, int]) -> Run:
    answers = [Answer() for _ in run.answers]
    for old, new in names.items():
        answers[new] = run.answers[old]
    return replace(
        run,
        answers=answers,
        schedule=tuple((names[operation], count) for operation, count in run.schedule),
        steps=[replace(step, operation=names[step.operation]) for step in run.steps],
    )
