"""The breaker around a call: asks for leave, runs it, tells how it ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from crowdsafe.errors import BreakerOpen, ConfigError
from crowdsafe.traffic.arguments import not_async
from crowdsafe.traffic.breaker.circuit import (
    Circuit,
    Decide,
    Outcome,
    Refusal,
    Ticket,
    after,
    ask,
    state_of,
)
from crowdsafe.traffic.breaker.settings import BreakerSettings, check_settings
from crowdsafe.traffic.keys import check_name
from crowdsafe.traffic.outage import is_outage

__all__ = ["Breaker", "BreakerState", "InProcessBreaker", "Keeper"]

log = logging.getLogger("crowdsafe.traffic")

T = TypeVar("T")

FRESH_S = 0.5
"""How old what is known of a shared breaker may be."""
_AWAY_S = 1.0
_LAST_MAX = 20


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What a breaker shows: ``state`` is "closed", "open" or "half-open", ``failures`` how many
    count at present, ``retry_after_s`` the seconds until a call may be let through (0 when closed).
    ``alone`` says that its backend is away and the process goes by what it knows itself."""

    name: str
    state: str
    failures: int
    retry_after_s: float
    alone: bool = False


class Keeper(Protocol):
    """Where a shared circuit is kept; moments are seconds of the keeper's own clock."""

    async def read(self) -> tuple[Circuit, float]:
        """The circuit as it is, and the time."""

    async def change(self, decide: Decide[T]) -> tuple[Circuit, float, T]:
        """Change the circuit as if alone; it is stored when this returns."""


class Breaker:
    """What all breakers do; ``InProcessBreaker`` and the others say where the circuit is kept."""

    def __init__(
        self,
        name: str,
        settings: BreakerSettings | None,
        *,
        keeper: Keeper | None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = check_name(name, "a breaker's name")
        self.settings = check_settings(settings)
        self._keeper = keeper
        self._clock = clock
        self._rng = rng or random.Random()
        self._known = Circuit()
        self._offset_s = 0.0
        self._seen_at: float | None = None
        self._tried_at = 0.0
        self._changes = 0
        self._alone = keeper is None
        self._asking = False
        self._last: deque[tuple[float, bool]] = deque(maxlen=_LAST_MAX)
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def call(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        counts: Callable[[Exception], bool] | None = None,
        **kwargs: Any,
    ) -> T:
        """Await ``fn(*args, **kwargs)`` if the service is not left alone at present.

        What ``fn`` raises counts as a failure if ``counts(error)`` says so, every Exception without
        it; a call that does not count, or is cancelled, says nothing either way. Give ``fn`` a
        timeout of its own. Raises BreakerOpen(retry_after_s, breaker, state), what ``fn`` raises,
        and ConfigError for a ``fn`` that is not async, which does not count.
        """
        if not callable(fn):
            raise not_async(fn)
        ticket = await self._admit()
        outcome = Outcome.NEITHER
        begun = False
        try:
            work = fn(*args, **kwargs)
            if not hasattr(work, "__await__"):
                raise not_async(work)
            begun = True
            value = await work
            outcome = Outcome.SUCCESS
        except Exception as error:
            misused = not begun and isinstance(error, ConfigError | TypeError)
            if not misused and (counts is None or counts(error)):
                outcome = Outcome.FAILURE
            raise
        finally:
            if ticket.probe is None and self.settings.failing_share:
                outcome = self._weighed(outcome)
            if ticket.probe is not None or outcome is Outcome.FAILURE:
                await self._unbroken(self._report(ticket, outcome))
        return value

    async def state(self) -> BreakerState:
        """What it shows now, read from where it is kept; from memory when that is away."""
        if self._keeper is not None:
            self._seen_at = None
            await self._be_fresh()
        shown = state_of(self._known, self._now(), self.settings)
        return BreakerState(self.name, *shown, alone=self._alone and self._keeper is not None)

    def _weighed(self, outcome: Outcome) -> Outcome:
        """The outcome; but a failure among many successes says nothing."""
        if outcome is Outcome.NEITHER:
            return outcome
        now = self._clock()
        self._last.append((now, outcome is Outcome.FAILURE))
        lately = [failed for at, failed in self._last if now - at < self.settings.window_s]
        if sum(lately) < self.settings.failing_share * len(lately):
            return Outcome.NEITHER
        return outcome

    async def _admit(self) -> Ticket:
        if self._keeper is not None:
            await self._be_fresh()
        if self._known.open_until is None:
            return Ticket(self._known.epoch)
        token = uuid.uuid4().hex
        asked, answer = ask(self._known, self._now(), self.settings, token)
        if isinstance(answer, Ticket) and answer.probe is not None:
            if self._alone:
                self._known = asked
            elif self._asking:
                wait_s = min(self.settings.probe_s, self.settings.cooldown_s)
                answer = Refusal("half-open", wait_s)
            else:
                answer = await self._ask_for_probe(token)
        if isinstance(answer, Refusal):
            raise BreakerOpen(
                f"{self.name} failed repeatedly and is left alone; "
                f"try again in {answer.retry_after_s:.1f} s",
                retry_after_s=answer.retry_after_s,
                breaker=self.name,
                state=answer.state,
            )
        return answer

    async def _ask_for_probe(self, token: str) -> Ticket | Refusal:
        """Ask the keeper; one task of the process does at a time, since one would win at most."""
        self._asking = True
        asking = self._spawn(
            self._change(lambda circuit, now: ask(circuit, now, self.settings, token))
        )
        asking.add_done_callback(self._has_asked)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._spawn(self._give_back(asking))
            raise

    def _has_asked(self, _task: asyncio.Task[Any]) -> None:
        self._asking = False

    async def _give_back(self, asking: asyncio.Task[Ticket | Refusal]) -> None:
        """Return the probe of a caller who was cancelled while it was being granted."""
        answer = await asking
        if isinstance(answer, Ticket) and answer.probe is not None:
            await self._report(answer, Outcome.NEITHER)

    async def _report(self, ticket: Ticket, outcome: Outcome) -> None:
        if ticket.epoch < self._known.epoch:
            return
        await self._change(
            lambda circuit, now: (
                after(circuit, now, self.settings, ticket, outcome, self._rng),
                None,
            )
        )

    async def _change(self, decide: Decide[T]) -> T:
        """Change the shared circuit, or what the process knows itself when that is away."""
        was = self._known
        answer: T
        if self._keeper is not None and not self._alone:
            try:
                async with asyncio.timeout(self.settings.backend_s):
                    circuit, now, answer = await self._keeper.change(decide)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._lost(error)
            else:
                self._changes += 1
                self._seen(circuit, now)
                self._tell(was)
                return answer
        self._known, answer = decide(self._known, self._now())
        self._tell(was)
        return answer

    async def _be_fresh(self) -> None:
        """Know the shared circuit as it was at most ``FRESH_S`` ago, unless its keeper is away."""
        now = time.monotonic()
        if self._seen_at is not None and not self._alone and now - self._seen_at < FRESH_S:
            return
        if self._refreshing is None and not (self._alone and now - self._tried_at < _AWAY_S):
            self._refreshing = self._spawn(self._refresh())
            self._refreshing.add_done_callback(_look_at)
        if self._refreshing is not None and not self._alone:
            await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        assert self._keeper is not None
        changes = self._changes
        try:
            async with asyncio.timeout(self.settings.backend_s):
                circuit, now = await self._keeper.read()
        except Exception as error:
            if not is_outage(error):
                self._alone = False  # so that the next call waits for this, and gets the error
                raise
            self._lost(error)
        else:
            if self._alone:
                self._alone = False
                log.info("breaker %s: its backend is back", self.name)
            if changes == self._changes:
                self._seen(circuit, now)
        finally:
            self._refreshing = None

    def _seen(self, circuit: Circuit, now: float) -> None:
        self._known = circuit
        self._seen_at = time.monotonic()
        self._offset_s = now - self._clock()

    def _lost(self, error: Exception) -> None:
        self._tried_at = time.monotonic()
        if not self._alone:
            self._alone = True
            log.warning(
                "breaker %s: its backend is away; this process goes by what it knows itself",
                self.name,
                exc_info=error,
            )

    def _tell(self, was: Circuit) -> None:
        if was.epoch == self._known.epoch:
            return
        state, _, wait_s = state_of(self._known, self._now(), self.settings)
        if state == "closed":
            log.info("breaker %s is closed again", self.name)
        else:
            log.warning("breaker %s is open; a probe may go in %.1f s", self.name, wait_s)

    def _now(self) -> float:
        return self._clock() + self._offset_s

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _unbroken(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to its end what a cancelled caller must not leave undone."""
        if self._keeper is None:
            await work
        else:
            await asyncio.shield(self._spawn(work))


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled():  # whoever waits for it gets the error; without them nobody complains
        task.exception()


class InProcessBreaker(Breaker):
    """A breaker for the callers of one event loop.

    Closed, it lets every call through and opens when ``failures`` of them failed within
    ``window_s``. Open, it refuses at once for a cool-down that doubles each time, less a random
    quarter at most. After that it is half-open: one call is let through, which closes it by
    succeeding and opens it again by failing.

    Holds: however many callers are there at once, half-open exactly one is let through; one that
    is cancelled leaves its place to the next caller, one of which nothing is heard after
    ``probe_s``; the answer to a call from before it last opened or closed changes nothing.
    Does not hold: anything between processes (see ``DatabaseBreaker`` and ``ValkeyBreaker``); two
    probes at once are possible when one takes longer than ``probe_s``.
    Proved by ``tests/traffic/test_breaker.py`` and ``tests/traffic/test_properties_guards.py``.

    Example: ``await breaker.call(client.get, url, counts=lambda e: not isinstance(e, Refused))``.
    """

    def __init__(
        self,
        name: str,
        settings: BreakerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(name, settings, keeper=None, clock=clock, rng=rng)
