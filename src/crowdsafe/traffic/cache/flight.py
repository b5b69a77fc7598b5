"""One execution and all who wait for it in this process.

The execution runs in a task of its own, in a copy of the context of the caller that began it. A
caller that is cancelled stops waiting and touches nobody else; when the last one has gone, the
execution is cancelled, and whoever comes next waits for its end (at most 5 s) and begins anew.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from crowdsafe.errors import Overloaded
from crowdsafe.traffic.arguments import not_async
from crowdsafe.traffic.cache.errors import CacheMisuse, ExecutionEnded, ExecutionTimedOut

__all__ = ["UNWIND_S_MAX", "Flight", "Flights", "JoinedLate", "Outcome", "log", "perform"]

log = logging.getLogger("crowdsafe.cache")

UNWIND_S_MAX = 5.0
QUIET_S = 1.0
QUIET_MAX = 10_000

_current: contextvars.ContextVar[Flight | None] = contextvars.ContextVar(
    "crowdsafe_cache_flight", default=None
)


class JoinedLate(Exception):
    """The answer was already on its way when this caller joined, and may be too old for it."""


@dataclass(slots=True)
class Outcome:
    """What an execution gave: a value, or an error with the traceback that it came with.

    It is for the first ``joined`` who waited, or for all.
    """

    value: Any = None
    error: BaseException | None = None
    trace: TracebackType | None = None
    joined: int | None = None

    def get(self) -> Any:
        """The value. Raises the error, the same object for everyone who waited."""
        if self.error is not None:
            raise self.error.with_traceback(self.trace)
        return self.value


class Flight:
    """An execution that runs or is about to."""

    __slots__ = (
        "address",
        "closing",
        "context",
        "detached",
        "forgotten",
        "joined",
        "make",
        "outcome",
        "previous",
        "stop",
        "task",
        "timeout_s",
        "waiters",
        "waits_for",
    )

    def __init__(
        self,
        address: Hashable,
        make: Callable[[], Awaitable[Any]],
        timeout_s: float,
        *,
        detached: bool,
        previous: asyncio.Task[None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.make = make
        self.timeout_s = timeout_s
        self.detached = detached
        self.previous = previous
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.stop: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self.closing = False
        self.forgotten = False
        self.waiters = self.joined = 0
        self.waits_for: list[Flight] = []
        self.context = contextvars.copy_context()
        self.context.run(_current.set, self)

    def settle(self, outcome: Outcome) -> None:
        """Answer everyone who waits; later answers are dropped."""
        self.closing = True
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def leads_to(self, other: Flight) -> bool:
        """Whether this flight waits, itself or through others, for ``other``."""
        seen: set[int] = set()
        todo = [self]
        while todo:
            flight = todo.pop()
            if flight is other:
                return True
            if id(flight) not in seen:
                seen.add(id(flight))
                todo.extend(flight.waits_for)
        return False

    async def wait(self) -> Any:
        """The value. Raises what the execution raised; CacheMisuse when it waits for the caller;
        JoinedLate when it has to ask again."""
        inside = _current.get()
        if inside is not None and not inside.outcome.done():
            if self.leads_to(inside):
                raise CacheMisuse(
                    "make asked the cache, itself or through others, for the value that it is "
                    "making; that would wait for itself for ever"
                )
            inside.waits_for.append(self)
        else:
            inside = None
        self.waiters += 1
        self.joined += 1
        number = self.joined
        try:
            outcome = await asyncio.shield(self.outcome)
        finally:
            self.waiters -= 1
            if inside is not None:
                inside.waits_for.remove(self)
            if not self.waiters and not self.detached and not self.outcome.done():
                self.abandon()
        if outcome.joined is not None and number > outcome.joined:
            raise JoinedLate
        return outcome.get()

    def abandon(self) -> None:
        """Let nobody join any more, and have the execution cancelled."""
        self.closing = True
        if not self.stop.done():
            self.stop.set_result(None)

    async def after_previous(self) -> None:
        """Wait, at most 5 s, until the flight that this one replaces has ended."""
        if self.previous is not None:
            await asyncio.wait(
                {self.previous, self.stop},
                timeout=UNWIND_S_MAX,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self.previous = None


async def perform(flight: Flight, lost: asyncio.Task[None] | None = None) -> Outcome | None:
    """Run the flight's ``make`` to its end, at most ``timeout_s``.

    None when it was cancelled: since nobody waits any more, or since ``lost`` was done first. At
    the timeout everyone is answered at once, and then ``make`` gets 5 s to end.
    """
    making = asyncio.get_running_loop().create_task(_call(flight.make), context=flight.context)
    until: set[asyncio.Future[Any]] = {making, flight.stop}
    if lost is not None:
        until.add(lost)
    late: Outcome | None = None
    try:
        done, _ = await asyncio.wait(
            until, timeout=flight.timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            late = Outcome(error=ExecutionTimedOut(timeout_s=flight.timeout_s))
            flight.settle(late)
    finally:
        cancelled = not making.done()
        if cancelled:
            making.cancel()
            await _unwound(making, flight)
    if late is not None:
        return late
    if not making.done():
        return None
    if making.cancelled():
        return None if cancelled else Outcome(error=ExecutionEnded(retry_after_s=1))
    error = making.exception()
    if error is None:
        return Outcome(making.result())
    return None if cancelled else Outcome(error=error, trace=error.__traceback__)


async def _call(make: Callable[[], Awaitable[Any]]) -> Any:
    making = make()
    if not inspect.isawaitable(making):
        raise CacheMisuse(not_async(making).message)
    return await making


async def _unwound(making: asyncio.Task[Any], flight: Flight) -> None:
    started = time.monotonic()
    await asyncio.wait({making}, timeout=UNWIND_S_MAX)
    if not making.done():
        log.error(
            "the execution for %r was cancelled and does not end; it is left alone after %.0f s",
            flight.address,
            time.monotonic() - started,
        )
        making.add_done_callback(_look_at)
    elif not making.cancelled() and making.exception() is not None:
        log.warning("a cancelled execution raised while it ended", exc_info=making.exception())


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("an execution that was left alone raised", exc_info=task.exception())


class Flights:
    """The flights of one cache in this process, at most one that can be joined per address."""

    def __init__(self, flights_max: int, refreshes_max: int) -> None:
        self._flights_max = flights_max
        self._refreshes_max = refreshes_max
        self._open: dict[Hashable, Flight] = {}
        self._running: dict[asyncio.Task[None], Flight] = {}
        self._refreshes = 0
        self._quiet: set[Hashable] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._running)

    def bind(self) -> bool:
        """Belong to the running event loop, until that is closed; true when it is a new one.

        Raises CacheMisuse when another loop that is still open uses this cache.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        if self._loop is not None and not self._loop.is_closed():
            raise CacheMisuse(
                "this cache belongs to another event loop, which is still open; make one cache "
                "for each loop (several of one name share their values)"
            )
        self._loop = loop
        self._open.clear()
        self._running.clear()
        self._quiet.clear()
        self._refreshes = 0
        return True

    def find(self, address: Hashable) -> Flight | None:
        """The flight that a caller may join now, or None."""
        flight = self._open.get(address)
        return None if flight is None or flight.closing else flight

    def forget(self, address: Hashable) -> None:
        """Let nobody join the flight of ``address`` any more, nor store what it makes."""
        flight = self._open.pop(address, None)
        if flight is not None:
            flight.forgotten = True

    def may_refresh(self, address: Hashable) -> bool:
        """Whether a refresh may begin: none runs for it, and fewer than ``refreshes_max`` in all.

        After one that brought nothing there is a second of rest.
        """
        return (
            address not in self._open
            and address not in self._quiet
            and self._refreshes < self._refreshes_max
            and len(self._quiet) < QUIET_MAX
            and len(self._running) < self._flights_max
        )

    def launch(
        self,
        address: Hashable,
        make: Callable[[], Awaitable[Any]],
        timeout_s: float,
        fly: Callable[[Flight], Awaitable[Outcome | None]],
        *,
        detached: bool = False,
    ) -> Flight:
        """Begin a flight that others can join. Raises Overloaded when too many run, CacheMisuse
        for a ``make`` that is no function."""
        if not callable(make):
            raise CacheMisuse(not_async(make).message)
        if len(self._running) >= self._flights_max:
            raise Overloaded(
                f"{self._flights_max} values are being made, as many as this cache allows; "
                "try again shortly",
                retry_after_s=1,
            )
        before = self._open.get(address)
        previous = before.task if before is not None else None
        flight = Flight(address, make, timeout_s, detached=detached, previous=previous)
        assert self._loop is not None
        task = self._loop.create_task(self._run(flight, fly), name="crowdsafe-cache-flight")
        flight.task = task
        self._open[address] = flight
        self._running[task] = flight
        self._refreshes += detached
        task.add_done_callback(self._landed)
        return flight

    async def close(self) -> None:
        """End every flight, within about 5 s; whoever waits gets ExecutionEnded."""
        if self._loop is not asyncio.get_running_loop():
            return
        for flight in self._running.values():
            flight.abandon()
        if self._running:
            _, stuck = await asyncio.wait(tuple(self._running), timeout=2 * UNWIND_S_MAX)
            for task in stuck:
                task.cancel()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)

    async def _run(
        self, flight: Flight, fly: Callable[[Flight], Awaitable[Outcome | None]]
    ) -> None:
        outcome: Outcome | None = None
        try:
            await flight.after_previous()
            outcome = await fly(flight)
        except Exception as error:
            outcome = Outcome(error=error, trace=error.__traceback__)
        finally:
            if flight.detached:
                self._refreshes -= 1
                self._rest(flight, outcome)
            flight.settle(outcome or Outcome(error=ExecutionEnded(retry_after_s=1)))
            if self._open.get(flight.address) is flight:
                del self._open[flight.address]

    def _rest(self, flight: Flight, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.error is None:
            return
        if outcome is not None:
            log.warning(
                "a value could not be refreshed; the old one is served on", exc_info=outcome.error
            )
        address = flight.address
        self._quiet.add(address)
        asyncio.get_running_loop().call_later(QUIET_S, self._quiet.discard, address)
