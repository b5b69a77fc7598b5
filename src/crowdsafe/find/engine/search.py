"""Runs one schedule of each kind that could make a difference, those with fewest switches first.

Two runs are of one kind when they differ only in the order of neighbouring steps that do not
depend on each other (:mod:`crowdsafe.find.engine.touch` says which do). Then they leave the same
rows and give the same answers, so one of them is enough. The search is dynamic partial-order
reduction (Flanagan and Godefroid, POPL 2005) with source sets and sleep sets (Abdulla, Aronis,
Jonsson and Sagonas, "Optimal dynamic partial order reduction", POPL 2014, algorithm 1: the
source-DPOR): each run is looked through for races (:mod:`crowdsafe.find.engine.races`), and for
each race a run is wanted in which the later step comes first, unless a choice that is already
tried or asleep at that point begins an equivalent run. Why every kind is run, where this differs
from the paper:

*Waits.* On PostgreSQL a step is the attempt of a statement, which is possible whenever its
operation is at its gate; a wait that it runs into, and coming through it, are part of the steps
that cause them: the end of a transaction counts with all that it woke. A woken operation's next
step is ordered after the step that woke it, so what only that made possible is not reversed. On
SQLite a statement that would wait is not possible. A race of the paper is between steps that were
taken; here a held statement also races, from the moment at which it is held, with the steps that
took what it waits for. Else the order in which a lock is taken would never be turned round: the
later taker is ordered after the earlier one's release, which came before it.

*Touches that do not vary.* That a reversed step leads to every kind rests on its dependencies being
the same where it stands after the reversal. So what a step touches does not depend on whether it
waits, nor on whether it fails, as far as that was seen (``Habits``). Whatever else a run teaches
about dependencies (``Knowledge``) starts the search over.

*Order.* The paper goes depth first; here the wanted runs wait in a heap, fewest preemptions first.
The proof is by induction over the calls in the order in which they return. It carries over to the
finished tree: take its nodes in the post-order of a walk that visits the choices of each node in
the order in which they were begun. A sleeping choice was begun before those that it sleeps for, so
what the induction needs of it comes earlier in that order; and the check that a race's reversal
begins with a choice of the node is against a set that only grows.

*The end of a wanted run* follows the steps that the race leaves in place (as a wakeup sequence of
that paper would), then goes on without preemption; any end would do.

``tests/find/engine`` holds all this against the set of all interleavings of random programs.

What it does not do: it does not choose which thread gets a lock inside of the process, nor which
of several waiting transactions PostgreSQL wakes to the lock first.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from crowdsafe.find.engine.knowledge import Knowledge
from crowdsafe.find.engine.races import Reversal, reversals, whole_touch
from crowdsafe.find.engine.touch import Touch, dependent
from crowdsafe.find.engine.trace import Grant, Impossible, Picker, Situation, Trace
from crowdsafe.find.model import Operation, Run, Statement

if TYPE_CHECKING:
    from crowdsafe.find.database import Database
    from crowdsafe.find.engine.transactions import Transactions

__all__ = ["Budget", "Search"]

_clock = time.monotonic
_TRIES = 3
"""How often a schedule is tried of which something depends on time."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many schedules may be run, and for how many seconds (the one that runs then ends)."""

    schedules: int = 2000
    seconds: float = 60.0


class _Runs(Protocol):
    """What the search needs of a :class:`~crowdsafe.find.engine.controller.Controller`."""

    database: Database

    def understand(self, analyse: Callable[[str], Statement]) -> None: ...

    def trace(
        self,
        operations: Sequence[Operation],
        pick: Picker,
        *,
        transactions: Transactions | None = None,
        eager: bool = False,
    ) -> Trace: ...


@dataclass(eq=False, slots=True)
class _Node:
    """A point of decision at which more than one choice was or will be tried.

    ``sleep`` are choices that need not be tried here, with what they would do: runs with them
    first are tried elsewhere. ``tried`` are the choices in the order in which they were begun,
    with what they did; ``wanted`` those and what waits in the heap.
    """

    sleep: dict[int, Touch]
    tried: dict[int, Touch | None] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)


@dataclass(order=True, frozen=True, slots=True)
class _Todo:
    preemptions: int
    depth: int
    nth: int
    prefix: bytes = field(compare=False)
    choice: int | None = field(compare=False)
    guide: tuple[int, ...] = field(compare=False, default=())


class Search:
    """Iterate over it: each item is one run, its state read by ``after``.

    ``complete`` is True when the iteration ended because no schedule is left that could give
    another outcome; else ``why_not`` says what stopped it, ``problem`` the first thing that went
    wrong in a run, if any, and ``schedules`` how many were run (some runs turn out to repeat an
    earlier one; they count, and are not given out).
    """

    def __init__(
        self,
        controller: _Runs,
        operations: Sequence[Operation],
        *,
        reset: Callable[[], None],
        after: Callable[[Run], None],
        budget: Budget | None = None,
        analyse: Callable[[str], Statement] | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.complete = False
        self.why_not: str | None = None
        self.problem: str | None = None
        self.schedules = 0
        self.redundant = 0
        self._controller = controller
        self._operations = operations
        self._reset = reset
        self._after = after
        self._budget = budget or Budget()
        if analyse is not None:
            controller.understand(analyse)
        self._knowledge = knowledge or Knowledge.of(controller.database)
        self._eager = True
        self._stalled = False
        self._numbers = itertools.count()
        self._nodes: dict[bytes, _Node] = {}
        self._heap: list[_Todo] = []

    def __iter__(self) -> Iterator[Run]:
        began = _clock()
        self._start_over()
        while self._heap:
            todo = heapq.heappop(self._heap)
            if not self._begin(todo):
                continue
            if self.schedules >= self._budget.schedules:
                self.why_not = f"the budget of {self._budget.schedules} schedules was used up"
                return
            if _clock() - began >= self._budget.seconds:
                self.why_not = f"the budget of {self._budget.seconds:g} s was used up"
                return
            run = self._run(todo)
            if run is not None:
                yield run
        self.complete = self.why_not is None

    def _start_over(self) -> None:
        self._nodes.clear()
        self._heap = [_Todo(0, 0, next(self._numbers), b"", None)]

    def _begin(self, todo: _Todo) -> bool:
        """Note that a choice is being tried; False when it turned out not to be needed."""
        if todo.choice is None:
            return True
        node = self._nodes[todo.prefix]
        if todo.choice in node.sleep:
            return False
        node.tried[todo.choice] = None
        return True

    def _run(self, todo: _Todo) -> Run | None:
        """One schedule; None when it repeats another."""
        for _ in range(_TRIES):
            guided, trace = self._execute(todo)
            if not guided.lost and (not trace.stalled or self._stalled):
                break
            self._stalled = self._stalled or not guided.lost
        if trace.stalled:
            self.why_not = self.why_not or (
                "operations waited for each other inside of the process (a lock, a pool of "
                "connections), where other processes would not"
            )
        if trace.run.problem is not None:
            self.problem = self.problem or trace.run.problem
            self.why_not = f"a run had a problem: {self.problem}"
            return trace.run
        if self._knowledge.learn(trace.grants) or (trace.stalled and self._eager):
            self._eager = not (trace.stalled or not self._eager)
            self._start_over()
            return trace.run
        self._explore(trace.grants, guided)
        if guided.cut is not None:
            self.redundant += 1
            return None
        return trace.run

    def _execute(self, todo: _Todo) -> tuple[_Guided, Trace]:
        self.schedules += 1
        guided = _Guided(todo, self._nodes)
        self._reset()
        trace = self._controller.trace(
            self._operations,
            guided,
            transactions=self._knowledge.transactions(),
            eager=self._eager,
        )
        guided.absorb(trace.grants)
        self._after(trace.run)
        return guided, trace

    def _explore(self, grants: list[Grant], guided: _Guided) -> None:
        ran = _Ran(grants, guided.sleeps)
        depth, choice = len(guided.todo.prefix), guided.todo.choice
        if choice is not None:
            if ran.choices[depth : depth + 1] == bytes([choice]):
                self._nodes[guided.todo.prefix].tried[choice] = whole_touch(grants[depth])
            else:
                self._want_earlier(choice, depth, ran)
        end = len(grants) if guided.cut is None else guided.cut
        for reversal in reversals(grants, len(self._operations), end):
            self._want_reversal(reversal, ran)

    def _want_reversal(self, reversal: Reversal, ran: _Ran) -> None:
        """Have a reversal tried, unless what is tried there already leads to it."""
        initials = reversal.initials & ran.grants[reversal.depth].able
        if not initials:
            self._want_earlier(reversal.operation, reversal.depth + 1, ran)
            return
        node = self._node(reversal.depth, ran)
        if initials & (node.wanted | node.sleep.keys()):
            return
        chosen = reversal.operation
        if chosen not in initials:
            chosen = min(initials, key=reversal.order.index)
        guide = list(reversal.order)
        guide.remove(chosen)
        self._push(reversal.depth, chosen, tuple(guide), ran)

    def _want_earlier(self, operation: int, before: int, ran: _Ran) -> None:
        """Have an operation tried at the last point at which it could have gone on: where it was
        wanted it could not, for a wait that the dependencies do not know of."""
        for depth in range(min(before, len(ran.grants)) - 1, -1, -1):
            if ran.grants[depth].operation == operation:
                return
            if operation in ran.grants[depth].able:
                node = self._node(depth, ran)
                if operation not in node.wanted:
                    if operation not in node.sleep:
                        self._push(depth, operation, (), ran)
                    return

    def _node(self, depth: int, ran: _Ran) -> _Node:
        node = self._nodes.get(ran.choices[:depth])
        if node is None:
            choice = ran.choices[depth]
            node = _Node(dict(ran.sleeps[depth]), {}, {choice})
            node.tried[choice] = whole_touch(ran.grants[depth])
            self._nodes[ran.choices[:depth]] = node
        return node

    def _push(self, depth: int, choice: int, guide: tuple[int, ...], ran: _Ran) -> None:
        prefix = ran.choices[:depth]
        self._nodes[prefix].wanted.add(choice)
        before = ran.grants[depth - 1].operation if depth else choice
        preempts = before != choice and before in ran.grants[depth].able
        cost = ran.costs[depth] + preempts
        todo = _Todo(cost, depth, next(self._numbers), prefix, choice, guide)
        heapq.heappush(self._heap, todo)


class _Ran:
    """A run that was made: its steps, who took them, who slept before each, and what it cost."""

    def __init__(self, grants: list[Grant], sleeps: list[dict[int, Touch]]) -> None:
        self.grants = grants
        self.sleeps = sleeps
        self.choices = bytes(grant.operation for grant in grants)
        self.costs = _preemptions(grants)


def _preemptions(grants: list[Grant]) -> list[int]:
    """For each depth, how many steps before it took over from an operation that could go on."""
    counts = [0]
    for before, grant in itertools.pairwise(grants):
        switched = grant.operation != before.operation and before.operation in grant.able
        counts.append(counts[-1] + switched)
    return counts


class _Guided:
    """Picks along a prefix, then the choice that is to be tried, then what leads to the race,
    then whoever runs already; never one that sleeps. ``cut`` is where only sleepers were left:
    from there on the run repeats another."""

    def __init__(self, todo: _Todo, nodes: dict[bytes, _Node]) -> None:
        self.todo = todo
        self.cut: int | None = None
        self.lost = False
        self.sleeps: list[dict[int, Touch]] = [{}]
        self._nodes = nodes
        self._path = todo.prefix + (b"" if todo.choice is None else bytes([todo.choice]))
        self._guide = list(todo.guide)
        self._done = bytearray()
        self._asked = -1

    def absorb(self, grants: list[Grant]) -> None:
        """Put to sleep, and wake, what the latest steps say."""
        for grant in grants[len(self._done) :]:
            sleep = self.sleeps[-1]
            node = self._nodes.get(bytes(self._done)) if len(self._done) < len(self._path) else None
            if node is not None:
                sleep = dict(node.sleep)
                for choice, touch in node.tried.items():
                    if choice == grant.operation:
                        break
                    if touch is not None:
                        sleep[choice] = touch
            touch_now = whole_touch(grant)
            self.sleeps.append(
                {
                    choice: touch
                    for choice, touch in sleep.items()
                    if choice != grant.operation and not dependent(touch, touch_now)
                }
            )
            self._done.append(grant.operation)

    def __call__(self, situation: Situation) -> int:
        self.absorb(situation.grants)
        place = len(self._done)
        if place < len(self._path):
            chosen = self._path[place]
            if chosen in situation.able:
                self._asked = place
                return chosen
            if self._asked != place:
                self.lost = True
                raise Impossible(
                    f"not the same twice: operation {chosen + 1} could go on after {place} "
                    f"statements before, and cannot now"
                )
            self._path = self._path[:place]  # it began, and could not come to a statement
            self._guide.clear()
        sleep = self.sleeps[-1]
        while self._guide:
            chosen = self._guide.pop(0)
            if chosen in situation.able and chosen not in sleep:
                return chosen
            self._guide.clear()
        awake = [operation for operation in situation.able if operation not in sleep]
        if not awake:
            self.cut = place if self.cut is None else self.cut
            awake = list(situation.able)
        return situation.last if situation.last in awake else awake[0]
