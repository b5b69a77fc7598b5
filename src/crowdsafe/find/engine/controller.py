"""Runs operations at once under control: one statement at a time, by somebody's choice.

Each operation is in one of these states: not begun; *moving* (its own code runs, or its statement
is in the database); *at the gate* with its next statement; *held* there, because the statement
would wait for a lock (SQLite); *blocked* in the database (PostgreSQL, observed); *stalled*, when
it waits inside of the process (a lock of Python's, a pool with no connection left); *done*. A
decision is taken only when nobody moves, so that the same choices give the same run.

All states change in the controller's thread: gates put events into a queue, which it reads.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from crowdsafe.find.engine.activity import patience_factor, process_is_busy, waits_for_a_lock
from crowdsafe.find.engine.actor import Actor, Parked, Unwound
from crowdsafe.find.engine.host import Host
from crowdsafe.find.engine.schedule import Following, of_grants
from crowdsafe.find.engine.touch import all_of
from crowdsafe.find.engine.trace import Grant, Impossible, Picker, Situation, Trace
from crowdsafe.find.engine.transactions import Transactions
from crowdsafe.find.gates.control import Link, Pass, keep
from crowdsafe.find.model import (
    Answer,
    Operation,
    Reply,
    Run,
    Schedule,
    Source,
    Statement,
    Step,
)
from crowdsafe.find.sql import analyse as analyse_text

if TYPE_CHECKING:
    from crowdsafe.find.database import Database

__all__ = ["Controller"]

_PARKED_S_MAX = 600.0
_FIRST_POLL_S = 0.002
_LATE_POLL_S = 0.02
_POLL_S = 0.001
_GRACE_S = 0.02
_DEADLOCK_S = 0.012
_UNWIND_S = 2.0
_CALL_S = 60.0
_STATEMENTS_MAX = 5000
_clock = time.monotonic
_numbers = itertools.count(1)

_PARK, _LEFT, _RETURNED, _WITHDRAWN = range(4)


class _Hang(Exception):
    """Nothing happened for too long, or too much."""


def _every(_statement: Statement) -> bool:
    return True


class Controller:
    """The gatekeeper, and a context manager around the threads in which operations run.

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
        self.hang_s = hang_s
        self.stall_s = stall_s
        self.broken = False
        self.analyse = analyse or (lambda text: analyse_text(text, database.dialect))
        self._locks = database.locks
        self._host = Host()
        self._events: SimpleQueue[tuple[int, Any, Any]] = SimpleQueue()
        self._actors: dict[int, Actor] = {}
        self._keep_rows = False
        self._reset([])

    def __enter__(self) -> Self:
        keep(self)
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

    # What the gates call, in the threads of the operations.

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        gate = allocate_lock()
        gate.acquire()
        parked = self._arrive(operation, link, sql, parameters, source, gate.release)
        if parked is None:
            return _free_pass(link, sql)
        if threading.get_ident() in self._host.loop_thread_ids:
            self._loop_was_blocked = True
        if not gate.acquire(timeout=_PARKED_S_MAX):
            parked.unwind = True
            self._events.put((_WITHDRAWN, parked, None))
        return parked.passed()

    async def enter_async(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        loop = asyncio.get_running_loop()
        gate: asyncio.Future[None] = loop.create_future()

        def let_go() -> None:
            if not gate.done():
                gate.set_result(None)

        parked = self._arrive(
            operation, link, sql, parameters, source, lambda: _on_loop(loop, let_go)
        )
        if parked is None:
            return _free_pass(link, sql)
        try:
            await gate
        except BaseException:
            self._events.put((_WITHDRAWN, parked, None))
            raise
        return parked.passed()

    def leave(
        self,
        passed: Pass,
        *,
        rowcount: int | None = None,
        error: BaseException | None = None,
        sqlstate: str | None = None,
    ) -> None:
        step, parked = passed.step, passed.ticket
        if parked is None or parked.ended:
            return
        parked.ended = True
        parked.failed = error is not None
        step.rowcount = rowcount
        if error is not None:
            step.error = f"{type(error).__name__}: {error}".strip()
            step.sqlstate = sqlstate
        self._events.put((_LEFT, parked, None))

    def keep_rows(
        self, passed: Pass, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> None:
        passed.step.columns = columns
        passed.step.rows = rows

    @property
    def progress_at(self) -> float:
        """When a statement last moved on, by ``time.monotonic()``; 0 before the first run."""
        return getattr(self, "_progress_at", 0.0)

    @property
    def wants_rows(self) -> bool:
        return self._keep_rows

    def _arrive(
        self,
        number: int,
        link: Link,
        sql: str,
        parameters: Any,
        source: Source | None,
        release: Callable[[], None],
    ) -> Parked | None:
        """Put a statement into the queue; None for a thread that outlived its operation's run
        (a worker of a pool, say), which nobody waits for."""
        actor = self._actors.get(number)
        if actor is None:
            return None
        if self._given_up:
            raise Unwound("this run was given up")
        parked = Parked(actor, link, sql, parameters, source, self.analyse(sql), release)
        self._events.put((_PARK, parked, None))
        return parked

    # What the session calls.

    def run(
        self,
        operations: Sequence[Operation],
        pick: Picker,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        visible: Callable[[Statement], bool] = _every,
    ) -> Run:
        """Run them, ``pick`` deciding. Where ``visible`` says no, no decision is asked for: such
        a statement passes with the one before it. Never raises for what the target does."""
        return self.trace(operations, pick, limits=limits, keep_rows=keep_rows, visible=visible).run

    def replay(
        self,
        operations: Sequence[Operation],
        schedule: Schedule,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        visible: Callable[[Statement], bool] = _every,
    ) -> Run:
        """Run them as the schedule says; ``Run.problem`` says where it could not be kept."""
        return self.run(operations, Following(schedule), limits=limits, keep_rows=keep_rows)

    def trace(
        self,
        operations: Sequence[Operation],
        pick: Picker,
        *,
        limits: Sequence[int | None] | None = None,
        keep_rows: bool = False,
        visible: Callable[[Statement], bool] = _every,
        transactions: Transactions | None = None,
        eager: bool = False,
    ) -> Trace:
        """As :meth:`run`, with all that a search wants to know. ``eager`` has each operation come
        to its first gate before the first decision, else it begins when it is first picked."""
        began = _clock()
        limits = limits or [None] * len(operations)
        self._reset(
            [
                Actor(place, next(_numbers), operation, limit)
                for place, (operation, limit) in enumerate(zip(operations, limits, strict=True))
            ]
        )
        self._keep_rows = keep_rows
        self._visible = visible
        self._transactions = transactions or Transactions(self.database.dialect)
        self._locks.reset()
        self._host.prepare(operations)
        self._threads = threading.active_count()
        self._slowness = patience_factor()
        problem = self._drive_to_the_end(pick, eager=eager)
        grants = self._grants
        run = Run(
            schedule=of_grants([grant.operation for grant in grants]),
            steps=self._steps,
            answers=[_answer(actor) for actor in self._everyone],
            deadlocked=any(step.sqlstate == "40P01" for step in self._steps),
            problem=problem,
            seconds=_clock() - began,
        )
        self._actors = {}
        return Trace(run, grants, stalled=self._stalled)

    # The run itself.

    def _reset(self, actors: list[Actor]) -> None:
        self._everyone = actors
        self._given_up = False
        self._stalled = False
        self._loop_was_blocked = False
        self._grants: list[Grant] = []
        self._steps: list[Step] = []
        self._landed: list[Parked] = []
        self._marked: set[Link] = set()
        self._last: int | None = None
        self._poll_at = 0.0
        self._progress_at = _clock()
        self._threads = 0
        self._slowness = 1.0
        while not self._events.empty():
            self._events.get()
        self._actors = {actor.number: actor for actor in actors}

    def _drive_to_the_end(self, pick: Picker, *, eager: bool) -> str | None:
        finished = False
        try:
            if eager:
                for actor in self._everyone:
                    self._start(actor)
                    self._settle()
            problem = self._drive(pick)
            finished = True
        except _Hang as hang:
            problem = str(hang)
        finally:
            if not finished:
                self._give_up()
        if self._loop_was_blocked and not self._host.apart:
            self._host.apart = True
        return problem

    def _drive(self, pick: Picker) -> str | None:
        problem: str | None = None
        while True:
            self._settle()
            alive = [actor for actor in self._everyone if not actor.done]
            if not alive:
                return problem
            able, held = self._able(alive)
            if not able:
                self._await_life()
                continue
            if problem is None:
                try:
                    place = pick(self._situation(able, held, alive))
                    if place not in able:
                        raise Impossible(f"operation {place} cannot go on")
                except Impossible as impossible:
                    problem = str(impossible)
            if problem is not None:
                place = able[0]
            self._move(self._everyone[place], frozenset(able), held)

    def _able(self, alive: list[Actor]) -> tuple[tuple[int, ...], frozenset[int]]:
        """Who may go on, and who must wait for a lock before its statement is tried.

        When all that are left wait for each other, each may go on: its statement fails as it
        would when its patience with the lock ran out.
        """
        able: list[int] = []
        held: list[int] = []
        for actor in alive:
            if not actor.started:
                able.append(actor.place)
            elif actor.at_gate:
                first = actor.parked[0]
                holders = self._locks.needed(first.link, first.statement)
                if holders:
                    first.waited_for |= self._places(holders) - {actor.place}
                (held if holders else able).append(actor.place)
        if not able and held:
            able = held
        return tuple(able), frozenset(held)

    def _situation(
        self, able: tuple[int, ...], held: frozenset[int], alive: list[Actor]
    ) -> Situation:
        return Situation(
            able=able,
            held=held,
            pending={a.place: a.parked[0].statement for a in alive if a.at_gate},
            last=self._last,
            grants=self._grants,
            finished=frozenset(a.place for a in self._everyone if a.done),
            stalled=frozenset(a.place for a in alive if a.stalled),
        )

    def _move(self, actor: Actor, able: frozenset[int], held: frozenset[int]) -> None:
        """Let an operation take its next visible step, with the invisible ones around it. Raises
        _Hang for an operation that does not come to an end."""
        if not actor.started:
            self._start(actor)
            self._settle()
            if not actor.at_gate or self._able([actor])[1]:
                return
        seen = False
        while actor.at_gate:
            shown = self._is_visible(actor.parked[0])
            if seen and (shown or self._able([actor])[1]):
                return
            seen = seen or shown
            self._mark(actor.parked[0], shown=shown)
            self._grant(actor, able, held)
            self._settle()

    def _is_visible(self, parked: Parked) -> bool:
        """COMMIT and ROLLBACK are when a visible statement of their transaction locked rows."""
        if parked.statement.ends_transaction and self._visible is not _every:
            return parked.link in self._marked
        return self._visible(parked.statement)

    def _mark(self, parked: Parked, *, shown: bool) -> None:
        statement = parked.statement
        if statement.ends_transaction:
            self._marked.discard(parked.link)
        elif shown and (statement.writes or statement.locks_rows or statement.opaque):
            self._marked.add(parked.link)

    def _start(self, actor: Actor) -> None:
        actor.started = True
        actor.quiet_since = self._progress_at = _clock()
        if actor.limit == 0:
            actor.answer = Answer()
            actor.returned = True
            return

        def tell(answer: Answer | BaseException) -> None:
            self._events.put((_RETURNED, actor, answer))

        actor.cancel = self._host.start(
            actor.place, actor.number, actor.operation, actor.limit, tell
        )

    def _grant(self, actor: Actor, able: frozenset[int], held: frozenset[int]) -> None:
        if actor.granted >= _STATEMENTS_MAX:
            raise _Hang(f"{actor.operation.name} sent {_STATEMENTS_MAX} statements and went on")
        self._wait_out_deadlock_timers(actor)
        parked = actor.parked.popleft()
        parked.step = Step(
            operation=actor.place,
            index=actor.granted,
            sql=parked.sql,
            parameters=parked.parameters,
            connection=actor.connection(parked.link),
            driver=parked.link.driver,
            source=parked.source,
        )
        parked.grant = Grant(actor.place, parked.step, parked.statement, able, held)
        parked.turn = len(self._grants)
        actor.granted += 1
        actor.flying = parked
        actor.blocked_by = None
        self._grants.append(parked.grant)
        self._last = actor.place
        now = _clock()
        self._progress_at = now
        self._poll_at = now + (_FIRST_POLL_S if self._may_block(parked) else _LATE_POLL_S)
        parked.release()

    def _may_block(self, parked: Parked) -> bool:
        """Whether somebody else holds locks that the statement could meet, as far as is known."""
        if not _takes_locks(parked.statement):
            return False
        return any(
            self._transactions.holds_locks(link)
            for other in self._everyone
            for link in other.links
            if link is not parked.link
        )

    def _wait_out_deadlock_timers(self, actor: Actor) -> None:
        """Have the statement that closes a circle of waits be the one that PostgreSQL ends.

        Each waiting statement looks for a circle once, ``deadlock_timeout`` (10 ms) after it
        began to wait. So one that could be part of a circle is let to look in vain first; else
        whoever looks first is ended, which depends on how fast this process is.
        """
        if not _takes_locks(actor.parked[0].statement):
            return
        for other in self._everyone:
            if other.blocked_by is not None and other.flying is not None:
                remaining = other.blocked_since + _DEADLOCK_S - _clock()
                if remaining > 0 and self._transactions.holds_locks(other.flying.link):
                    _pause(remaining)

    # Waiting for everybody to be somewhere.

    def _settle(self) -> None:
        """Wait until nobody moves; raises _Hang when nothing happens for too long."""
        while True:
            self._take_events(0.0)
            moving = [actor for actor in self._everyone if actor.moving]
            if not moving:
                break
            self._take_events(self._patience(moving))
            self._look_closer(moving)
        self._write_down()

    def _patience(self, moving: list[Actor]) -> float:
        """How long to wait for an event before a closer look, in seconds."""
        now = _clock()
        if any(actor.flying is not None for actor in moving):
            return max(0.0, self._poll_at - now)
        if any(actor.grace_until is not None for actor in moving):
            return _POLL_S
        return self.stall_s / 5

    def _look_closer(self, moving: list[Actor]) -> None:
        now = _clock()
        if now >= self._poll_at and any(a.flying is not None and a.moving for a in moving):
            self._poll_locks()
            self._poll_at = _clock() + _POLL_S
        for actor in moving:
            if actor.flying is None and actor.moving and not actor.returned:
                if self._is_stuck(actor, now):
                    actor.stalled = self._stalled = True
            elif actor.returned and not self._lingers(actor):
                actor.grace_until = None
        if now - self._progress_at > self.hang_s:
            raise _Hang(self._hang_text())

    def _lingers(self, actor: Actor) -> bool:
        """Whether threads or tasks may still run that an operation left behind."""
        return threading.active_count() > self._threads or self._host.lingers(actor.number)

    def _is_stuck(self, actor: Actor, now: float) -> bool:
        """Whether an operation waits for another one inside of the process. What may wait for
        something outside (a connect, say) is given five times as long."""
        quiet = (now - actor.quiet_since) / self._slowness
        if quiet < self.stall_s or process_is_busy():
            return False
        return quiet > 5 * self.stall_s or (
            not actor.operation.is_async and waits_for_a_lock(self._host.loop_native_ids)
        )

    def _poll_locks(self) -> None:
        """Ask the database who waits. One whose holder is itself on the way may get its lock any
        moment, so it counts as waiting only when all that it waits for have come to rest."""
        flying = {a.flying.link: a for a in self._everyone if a.flying is not None}
        waiting = self._locks.waiting({link for a in self._everyone for link in a.links})
        on_the_way = {link for link in flying if link not in waiting}
        for link, holders in waiting.items():
            actor = flying.get(link)
            if actor is None or actor.flying is None or actor.flying.ended:
                continue
            actor.flying.waited_for |= self._places(holders) - {actor.place}
            if not holders & on_the_way and actor.blocked_by is None:
                actor.blocked_by = holders
                actor.blocked_since = _clock()

    def _await_life(self) -> None:
        """Everybody left is blocked or stalled: a deadlock that the database ends, or a hang."""
        while not self._take_events(max(0.0, self._progress_at + self.hang_s - _clock())):
            if _clock() - self._progress_at >= self.hang_s:
                raise _Hang(self._hang_text())

    def _hang_text(self) -> str:
        where = []
        for actor in self._everyone:
            if actor.done or not actor.started:
                continue
            if actor.flying is not None:
                what = "in the database" if actor.blocked_by is None else "for a lock"
                where.append(f"{actor.operation.name} waits {what} in {actor.flying.sql[:80]!r}")
            elif not actor.at_gate:
                where.append(f"{actor.operation.name} waits inside of the process")
        return f"hang: nothing happened for {self.hang_s:g} s; " + "; ".join(where)

    def _take_events(self, timeout_s: float) -> bool:
        """Take in all that happened, waiting so long for the first; whether anything did."""
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s else self._events.get_nowait()
        except Empty:
            return False
        while True:
            self._progress_at = _clock()
            self._take(*event)
            try:
                event = self._events.get_nowait()
            except Empty:
                return True

    def _take(self, kind: int, what: Any, answer: Any) -> None:
        """One event: what is the statement that it is about, or the operation that returned."""
        actor: Actor = what if kind == _RETURNED else what.actor
        actor.stalled = False
        actor.quiet_since = self._progress_at
        if kind == _PARK:
            actor.parked.append(what)
        elif kind == _LEFT:
            self._land(actor, what)
        elif kind == _RETURNED:
            actor.answer = answer
            actor.returned = True
            if self._lingers(actor):
                actor.grace_until = self._progress_at + _GRACE_S
        elif what in actor.parked:
            actor.parked.remove(what)
        else:
            self._land_cancelled(actor, what)

    def _land_cancelled(self, actor: Actor, parked: Parked) -> None:
        """A task was cancelled just after it had been let go on: its statement never ran."""
        if actor.flying is parked and not parked.ended:
            parked.ended = parked.failed = True
            self._land(actor, parked)

    def _land(self, actor: Actor, parked: Parked) -> None:
        """A statement ended: what it did may have woken those that were blocked."""
        if actor.flying is parked:
            actor.flying = None
            actor.blocked_by = None
        if actor.returned and self._lingers(actor):
            actor.grace_until = self._progress_at + _GRACE_S
        self._locks.left(parked.link, parked.statement, parked.failed)
        self._landed.append(parked)
        for other in self._everyone:
            if other.blocked_by is not None:
                other.blocked_by = None
                self._poll_at = 0.0

    def _write_down(self) -> None:
        """Note what ended since the last decision: the one that was let go on first, then those
        that it woke, in the order in which they had come."""
        landed, self._landed = self._landed, []
        if not landed:
            self._note_blocked()
            return
        current = self._grants[-1]
        landed.sort(key=lambda parked: (parked.grant is not current, parked.turn))
        for parked in landed:
            assert parked.step is not None
            parked.step.waited_for = tuple(sorted(parked.waited_for))
            touch = self._transactions.left(
                parked.link, parked.statement, parked.sql, parked.parameters, failed=parked.failed
            )
            self._steps.append(parked.step)
            if parked.grant is current:
                current.touch = all_of([current.touch, touch])
            else:
                current.woke.append((parked.actor.place, touch))
        self._note_blocked()

    def _note_blocked(self) -> None:
        for actor in self._everyone:
            parked = actor.flying
            if parked is not None and parked.grant is not None and not parked.grant.waited_for:
                parked.grant.waited_for = frozenset(parked.waited_for) or frozenset({actor.place})
                parked.grant.touch = self._transactions.attempt(
                    parked.link, parked.statement, parked.sql, parked.parameters
                )

    def _places(self, links: frozenset[Link]) -> set[int]:
        return {actor.place for actor in self._everyone for link in links if link in actor.links}

    def _give_up(self) -> None:
        """End what can be ended: those at a gate unwind, tasks are cancelled."""
        self._given_up = True
        self._visible = _every
        deadline = _clock() + _UNWIND_S
        for actor in self._everyone:
            if actor.cancel is not None and not actor.returned:
                actor.cancel()
        while any(actor.started and not actor.returned for actor in self._everyone):
            for actor in self._everyone:
                parked, actor.parked = actor.parked, deque()
                for one in parked:
                    one.unwind = True
                    one.release()
            self._take_events(0.01)
            if _clock() > deadline:
                self.broken = True
                return


def _free_pass(link: Link, sql: str) -> Pass:
    return Pass(Step(operation=-1, index=-1, sql=sql), link)


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def _takes_locks(statement: Statement) -> bool:
    return bool(statement.writes or statement.locks_rows or statement.advisory or statement.opaque)


def _pause(seconds: float) -> None:
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(timeout=seconds)


def _answer(actor: Actor) -> Answer:
    if isinstance(actor.answer, Answer):
        return actor.answer
    error = actor.answer
    if error is None:
        return Answer()
    reply = Reply(actor.operation.name, error=type(error).__name__, message=str(error))
    return Answer([reply], stopped_at=0)
