"""Where statements stop: the gatekeeper that the patched drivers call, in the target's threads.

It decides nothing. It tells the run what happened, by a queue, and has the caller wait.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any

from crowdsafe.find.engine.actor import Actor, Parked, Unwound
from crowdsafe.find.gates.control import Link, Pass
from crowdsafe.find.model import Answer, Source, Statement, Step

__all__ = ["Event", "Gate"]

_PARKED_S_MAX = 600.0


class Event(Enum):
    """A statement came to the gate, ended, or left the gate without being let go on (its task
    was cancelled); an operation returned."""

    PARKED = auto()
    LEFT = auto()
    WITHDRAWN = auto()
    RETURNED = auto()


class Gate:
    """A :class:`~crowdsafe.find.gates.control.Gatekeeper`. ``loop_was_blocked`` tells that a sync
    statement stopped the event loop that all async operations share."""

    def __init__(
        self, analyse: Callable[[str], Statement], loop_threads: Callable[[], frozenset[int]]
    ) -> None:
        self.analyse = analyse
        self.events: SimpleQueue[tuple[Event, Any, Answer | BaseException | None]] = SimpleQueue()
        self.given_up = False
        self.loop_was_blocked = False
        self.keeps_rows = False
        self._loop_threads = loop_threads
        self._actors: dict[int, Actor] = {}

    def open_for(self, actors: Iterable[Actor], *, keep_rows: bool) -> None:
        """From now on these operations run, and no others."""
        while not self.events.empty():
            self.events.get()
        self.given_up = self.loop_was_blocked = False
        self.keeps_rows = keep_rows
        self._actors = {actor.number: actor for actor in actors}

    def close(self) -> None:
        """Nobody runs. Threads that outlived their operation pass freely."""
        self._actors = {}

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        gate = allocate_lock()
        gate.acquire()
        parked = self._arrive(operation, link, sql, parameters, source, gate.release)
        if parked is None:
            return _free_pass(link, sql)
        if threading.get_ident() in self._loop_threads():
            self.loop_was_blocked = True
        if not gate.acquire(timeout=_PARKED_S_MAX):
            parked.unwind = True
            self.events.put((Event.WITHDRAWN, parked, None))
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
            self.events.put((Event.WITHDRAWN, parked, None))
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
        self.events.put((Event.LEFT, parked, None))

    def keep_rows(
        self, passed: Pass, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> None:
        passed.step.columns = columns
        passed.step.rows = rows

    def sent(self, operation: int) -> int:
        actor = self._actors.get(operation)
        return 0 if actor is None else actor.granted

    @property
    def wants_rows(self) -> bool:
        return self.keeps_rows

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
        if self.given_up:
            raise Unwound("this run was given up")
        parked = Parked(actor, link, sql, parameters, source, self.analyse(sql), release)
        self.events.put((Event.PARKED, parked, None))
        return parked


def _free_pass(link: Link, sql: str) -> Pass:
    return Pass(Step(operation=-1, index=-1, sql=sql), link)


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
