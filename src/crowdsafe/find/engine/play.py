"""One run: operations move, stop, wait and end; somebody decides who goes on.

Each operation is in one of these states: not begun; *moving* (its own code runs, or its statement
is in the database); *at the gate* with its next statement; *held* there, because the statement
would wait for a lock (SQLite); *blocked* in the database (PostgreSQL, observed); *stalled*, when
it waits inside of the process (a lock of Python's, a pool with no connection left); *done*. A
decision is taken only when nobody moves, so that the same choices give the same run.

All states change in the thread that performs the run: the gate puts events into a queue.
"""

from __future__ import annotations

import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty
from typing import TYPE_CHECKING, Any

from crowdsafe.find.engine.activity import patience_factor, process_is_busy, waits_for_a_lock
from crowdsafe.find.engine.actor import Actor, Parked
from crowdsafe.find.engine.gate import Event, Gate
from crowdsafe.find.engine.host import Host
from crowdsafe.find.engine.touch import all_of
from crowdsafe.find.engine.trace import Grant, Impossible, Picker, Situation
from crowdsafe.find.engine.transactions import Transactions
from crowdsafe.find.gates.control import Link
from crowdsafe.find.model import Answer, Statement, Step, Verb

if TYPE_CHECKING:
    from crowdsafe.find.database import Locks

__all__ = ["Limits", "Play"]

_SOON_S = 0.0005
_FIRST_POLL_S = 0.002
_LATE_POLL_S = 0.02
_POLL_S = 0.001
_GRACE_S = 0.02
_DEADLOCK_S = 0.012
_UNWIND_S = 2.0
_STATEMENTS_MAX = 5000
_clock = time.monotonic


class _Hang(Exception):
    """Nothing happened for too long, or too much."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: without anything happening until a run is given up, and until an operation that
    does nothing counts as stalled."""

    hang_s: float
    stall_s: float


class Play:
    """Performs one run. ``grants`` are the statements in the order in which they were let go on,
    ``steps`` in the order in which they took effect; ``stalled`` tells that an operation waited
    inside of the process, ``broken`` that one could not be ended."""

    def __init__(
        self,
        actors: Sequence[Actor],
        gate: Gate,
        host: Host,
        locks: Locks,
        transactions: Transactions,
        *,
        limits: Limits,
    ) -> None:
        self.grants: list[Grant] = []
        self.steps: list[Step] = []
        self.stalled = False
        self.broken = False
        self.progress_at = _clock()
        self._everyone = actors
        self._gate = gate
        self._host = host
        self._locks = locks
        self._transactions = transactions
        self._limits = limits
        self._landed: list[Parked] = []
        self._last: int | None = None
        self._poll_at = 0.0
        self._threads = threading.active_count()
        self._slowness = patience_factor()

    def perform(self, pick: Picker, *, eager: bool) -> str | None:
        """To the end, ``pick`` deciding; returns why the run is worth nothing, if it is."""
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
            grants=self.grants,
            finished=frozenset(a.place for a in self._everyone if a.done),
            stalled=frozenset(a.place for a in alive if a.stalled),
        )

    def _move(self, actor: Actor, able: frozenset[int], held: frozenset[int]) -> None:
        """Let an operation take its next step."""
        if not actor.started:
            self._start(actor)
            self._settle()
            if not actor.at_gate or self._able([actor])[1]:
                return
        if actor.at_gate:
            self._grant(actor, able, held)
            self._settle()

    def _start(self, actor: Actor) -> None:
        actor.started = True
        actor.quiet_since = self.progress_at = _clock()
        if actor.limit == 0:
            actor.answer = Answer()
            actor.returned = True
            return

        def tell(answer: Answer | BaseException) -> None:
            self._gate.events.put((Event.RETURNED, actor, answer))

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
        parked.turn = len(self.grants)
        actor.granted += 1
        actor.flying = parked
        actor.blocked_by = None
        self.grants.append(parked.grant)
        self._last = actor.place
        now = _clock()
        self.progress_at = now
        self._poll_at = now + self._first_poll_s(parked)
        parked.release()

    def _first_poll_s(self, parked: Parked) -> float:
        """When to look for the first time whether a statement waits: soon where it may."""
        if not _takes_locks(parked.statement):
            return _LATE_POLL_S
        links = {link for actor in self._everyone for link in actor.links} - {parked.link}
        if not any(self._transactions.holds_locks(link) for link in links):
            return _LATE_POLL_S
        likely = self._transactions.meets_locks(
            parked.link, parked.statement, parked.sql, parked.parameters
        )
        return _SOON_S if likely else _FIRST_POLL_S

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
                remaining = other.blocked_since + _DEADLOCK_S * self._slowness - _clock()
                if remaining > 0 and self._transactions.holds_locks(other.flying.link):
                    _pause(remaining)

    # Waiting for everybody to be somewhere.

    def _settle(self) -> None:
        """Wait until nobody moves; raises _Hang when nothing happens for too long."""
        while True:
            self._take_events(0.0)
            moving = [actor for actor in self._everyone if self._is_moving(actor)]
            if not moving:
                break
            self._take_events(self._patience(moving))
            self._look_closer(moving)
        self._write_down()

    def _is_moving(self, actor: Actor) -> bool:
        """Whether it will soon be somewhere else: one that waited for another inside of the
        process may have been woken by what that one did."""
        if actor.stalled and actor.inside and not self._host.waits_inside(actor.number):
            actor.stalled = actor.inside = False
            actor.quiet_since = _clock()
        return actor.moving

    def _patience(self, moving: list[Actor]) -> float:
        """How long to wait for an event before a closer look, in seconds."""
        now = _clock()
        if any(actor.flying is not None for actor in moving):
            return max(0.0, self._poll_at - now)
        if any(actor.grace_until is not None for actor in moving):
            return _POLL_S
        return self._limits.stall_s / 5

    def _look_closer(self, moving: list[Actor]) -> None:
        now = _clock()
        if now >= self._poll_at and any(a.flying is not None and a.moving for a in moving):
            self._poll_locks()
            self._poll_at = _clock() + _POLL_S
        for actor in moving:
            if actor.flying is None and actor.moving and not actor.returned:
                if self._is_stuck(actor, now):
                    actor.stalled = self.stalled = True
            elif actor.returned and not self._lingers(actor):
                actor.grace_until = None
        if now - self.progress_at > self._limits.hang_s:
            raise _Hang(self._hang_text())

    def _lingers(self, actor: Actor) -> bool:
        """Whether threads or tasks may still run that an operation left behind."""
        return threading.active_count() > self._threads or self._host.lingers(actor.number)

    def _is_stuck(self, actor: Actor, now: float) -> bool:
        """Whether an operation waits for another one inside of the process. What may wait for
        something outside (a connect, say) is given five times as long, one that is seen to wait for
        another task a fifth."""
        waited = now - actor.quiet_since
        if waited >= self._limits.stall_s / 5 and self._waits_for_a_task(actor):
            actor.inside = True
            return True
        quiet = waited / min(self._slowness, self._limits.hang_s / (10 * self._limits.stall_s))
        if quiet < self._limits.stall_s or process_is_busy():
            return False
        return quiet > 5 * self._limits.stall_s or (
            not actor.operation.is_async and waits_for_a_lock(self._host.loop_native_ids)
        )

    def _waits_for_a_task(self, actor: Actor) -> bool:
        return (
            actor.operation.is_async
            and self._host.waits_inside(actor.number)
            and not process_is_busy()
            and waits_for_a_lock(self._host.loop_native_ids)
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
        while not self._take_events(max(0.0, self.progress_at + self._limits.hang_s - _clock())):
            if _clock() - self.progress_at >= self._limits.hang_s:
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
        return f"hang: nothing happened for {self._limits.hang_s:g} s; " + "; ".join(where)

    def _take_events(self, timeout_s: float) -> bool:
        """Take in all that happened, waiting so long for the first; whether anything did."""
        try:
            event = (
                self._gate.events.get(timeout=timeout_s)
                if timeout_s
                else self._gate.events.get_nowait()
            )
        except Empty:
            return False
        while True:
            self.progress_at = _clock()
            self._take(*event)
            try:
                event = self._gate.events.get_nowait()
            except Empty:
                return True

    def _take(self, kind: Event, what: Any, answer: Any) -> None:
        """One event: what is the statement that it is about, or the operation that returned."""
        actor: Actor = what if kind is Event.RETURNED else what.actor
        actor.stalled = actor.inside = False
        actor.quiet_since = self.progress_at
        if kind is Event.PARKED:
            actor.parked.append(what)
        elif kind is Event.LEFT:
            self._land(actor, what)
        elif kind is Event.RETURNED:
            actor.answer = answer
            actor.returned = True
            if self._lingers(actor):
                actor.grace_until = self.progress_at + _GRACE_S
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
            actor.grace_until = self.progress_at + _GRACE_S
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
        current = self.grants[-1]
        landed.sort(key=lambda parked: (parked.grant is not current, parked.turn))
        for parked in landed:
            assert parked.step is not None
            parked.step.waited_for = tuple(sorted(parked.waited_for))
            touch = self._transactions.left(
                parked.link, parked.statement, parked.sql, parked.parameters, failed=parked.failed
            )
            self.steps.append(parked.step)
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
        self._gate.given_up = True
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


def _takes_locks(statement: Statement) -> bool:
    return bool(
        statement.writes
        or statement.locks_rows
        or statement.advisory
        or statement.opaque
        or statement.verb is Verb.LOCK
    )


def _pause(seconds: float) -> None:
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(timeout=seconds)
