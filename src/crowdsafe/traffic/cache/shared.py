"""A cache that processes share, on whichever backend: the steps are the same."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, ParamSpec, TypeVar

from crowdsafe.errors import ConfigError, Overloaded
from crowdsafe.traffic.cache.backend import Backend, Claim, Found
from crowdsafe.traffic.cache.codec import (
    error_from_text,
    error_to_text,
    value_from_text,
    value_to_text,
)
from crowdsafe.traffic.cache.decorate import Cached, cached_by
from crowdsafe.traffic.cache.errors import CacheUnavailable, ExecutionTimedOut
from crowdsafe.traffic.cache.flight import Flight, Flights, JoinedLate, Outcome, log, perform
from crowdsafe.traffic.cache.reads import Reads, in_time
from crowdsafe.traffic.cache.scope import Scope, address_of
from crowdsafe.traffic.cache.stats import CacheStats, Counts
from crowdsafe.traffic.cache.timing import Lifetime, check_limits, lifetime
from crowdsafe.traffic.outage import is_outage

__all__ = ["OnOutage", "SharedCache"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
OnOutage = Literal["raise", "run"]

POLL_FIRST_S = 0.01
POLL_S_MAX = 0.25
AWAY_S = 1.0
EXECUTIONS_MAX = 5
ASKS_MAX = 10
STEPS_MAX = 8
SWEEP_EVERY = 100


class SharedCache:
    """What ``DatabaseCache`` and ``ValkeyCache`` have in common."""

    def __init__(
        self,
        backend: Backend,
        *,
        lease_s: float,
        wait_s: float,
        value_bytes_max: int,
        flights_max: int,
        refreshes_max: int,
        jitter: float,
        on_outage: OnOutage,
    ) -> None:
        check_limits(
            jitter,
            lease_s=lease_s,
            wait_s=wait_s,
            value_bytes_max=value_bytes_max,
            flights_max=flights_max,
            refreshes_max=refreshes_max,
        )
        if on_outage not in ("raise", "run"):
            raise ConfigError(f"on_outage is 'raise' or 'run', not {on_outage!r}")
        self._backend = backend
        self._reads = Reads(backend.look, wait_s)
        self._flights = Flights(flights_max, refreshes_max)
        self._counts = Counts()
        self._lease_s = lease_s
        self._lease_ms = max(1, int(lease_s * 1000))
        self._wait_s = wait_s
        self._value_bytes_max = value_bytes_max
        self._jitter = jitter
        self._on_outage = on_outage
        self._gate = asyncio.Semaphore(STEPS_MAX)
        self._away_until = 0.0
        self._published = 0
        self._sweep: asyncio.Task[None] | None = None

    async def get_or_run(
        self,
        key: str,
        make: Callable[[], Awaitable[T]],
        *,
        scope: Scope,
        ttl_s: float,
        stale_s: float = 0.0,
        timeout_s: float = 60.0,
    ) -> T:
        """The value of ``key`` in ``scope``; ``await make()`` gives it when there is none.

        As ``InProcessCache.get_or_run``, over all processes; ``make`` may outlive its caller here
        too. The value is what JSON gives back, and new for each caller. An execution in another
        process is waited for at most ``timeout_s`` and ``lease_s``; when it is lost, one here may
        take ``timeout_s`` from then on.

        Raises what ``make`` raises, of whichever process (errors that are not crowdsafe's come from
        another process as ExecutionFailed); ExecutionTimedOut, ValueTooLarge, NotJsonable,
        Overloaded, CacheMisuse, and CacheUnavailable when the server or the database is away; a
        mistake (a missing table: ConfigError) comes out as it is.
        """
        address = address_of(scope, key)
        self._bind()
        for _ in range(ASKS_MAX):
            flight = self._flights.find(address)
            if flight is None or flight.detached:
                found = await self._look(address)
                if found is not None and found.fresh:
                    self._counts.hits += 1
                    return value_from_text(found.text)  # type: ignore[no-any-return]
                times = lifetime(ttl_s, stale_s, timeout_s, self._jitter)
                if found is not None:
                    self._counts.stale += 1
                    if self._flights.may_refresh(address):
                        self._launch(address, make, times, detached=True)
                    return value_from_text(found.text)  # type: ignore[no-any-return]
                flight = self._flights.find(address) or self._launch(address, make, times)
            self._counts.misses += 1
            try:
                return value_from_text(await flight.wait())  # type: ignore[no-any-return]
            except JoinedLate:
                log.debug("an answer was under way before it was asked for; asking again")
        raise Overloaded("the value came and went too often; try again shortly", retry_after_s=1)

    async def forget(self, key: str, *, scope: Scope) -> None:
        """Drop a value, in all processes. What is being made for it now is not stored, and a call
        that begins after this returned never gets it. Raises CacheUnavailable."""
        address = address_of(scope, key)
        self._bind()
        await self._ask(lambda: self._backend.forget(address), always=True)

    async def close(self) -> None:
        """End what runs here, within about 5 s, and free its leases; whoever still waits gets
        ExecutionEnded. Call it before the client or the store is closed."""
        await self._flights.close()
        if self._sweep is not None and not self._sweep.done():
            await asyncio.wait({self._sweep}, timeout=self._wait_s)
            self._sweep.cancel()

    def stats(self) -> CacheStats:
        """Figures for a dashboard, of this process: no values are held in its memory."""
        return self._counts.stats(flights=len(self._flights))

    def cached(
        self,
        *,
        ttl_s: float,
        key: Callable[P, str] | str,
        scope: Callable[P, Scope] | Scope,
        stale_s: float = 0.0,
        timeout_s: float = 60.0,
    ) -> Callable[[Callable[P, Awaitable[T]]], Cached[P, T]]:
        """Keep the answers of an async function: ``key`` and ``scope`` are made of its arguments.

        Example: ``@cache.cached(ttl_s=60, key=lambda user, page: str(page), scope=lambda user,
        page: for_user(user))``. The function's name becomes a part of the key.
        """
        times = {"ttl_s": ttl_s, "stale_s": stale_s, "timeout_s": timeout_s}
        lifetime(ttl_s, stale_s, timeout_s, self._jitter)
        return cached_by(self, key, scope, times)

    def _bind(self) -> None:
        if self._flights.bind():
            self._gate = asyncio.Semaphore(STEPS_MAX)

    async def _look(self, address: str) -> Found | None:
        """What is stored; None too while the server is away, if that does not matter."""
        try:
            return await self._answered(lambda: self._reads.get(address))
        except CacheUnavailable:
            if self._on_outage == "raise":
                raise
            return None

    def _launch(
        self,
        address: str,
        make: Callable[[], Awaitable[Any]],
        times: Lifetime,
        *,
        detached: bool = False,
    ) -> Flight:
        async def fly(flight: Flight) -> Outcome | None:
            return await self._fly(flight, address, times)

        return self._flights.launch(address, make, times.timeout_s, fly, detached=detached)

    async def _fly(self, flight: Flight, address: str, times: Lifetime) -> Outcome | None:
        try:
            return await self._fly_together(flight, address, times)
        except CacheUnavailable:
            if self._on_outage == "raise" or flight.detached:
                raise
        return await self._make(flight, None)

    async def _fly_together(self, flight: Flight, address: str, times: Lifetime) -> Outcome | None:
        """Get the value as text: from whoever makes it, or by making it under the lease."""
        give_up_at = time.monotonic() + times.timeout_s + self._lease_s
        waiting = executions = 0
        poll_s = POLL_FIRST_S
        while not flight.stop.done():
            joined = flight.joined
            claim = await self._claim(address, waiting)
            outcome = _answer(claim, joined)
            if claim.token:
                outcome = await self._lead(flight, address, claim.token, times)
                executions += 1
            if outcome is not None:
                return outcome
            if executions >= EXECUTIONS_MAX:
                raise Overloaded(
                    f"the value was forgotten, or its lease lost, {executions} times while it was "
                    "made; try again shortly",
                    retry_after_s=1,
                )
            if claim.token:
                continue
            if flight.detached and not flight.waiters:
                return None
            if time.monotonic() > give_up_at:
                raise ExecutionTimedOut(timeout_s=times.timeout_s)
            waiting = waiting or claim.busy
            await asyncio.wait({flight.stop}, timeout=poll_s * random.uniform(0.5, 1))
            poll_s = min(POLL_S_MAX, poll_s * 1.5)
        return None

    async def _claim(self, address: str, waiting: int) -> Claim:
        return await self._ask(lambda: self._backend.claim(address, self._lease_ms, waiting))

    async def _lead(
        self, flight: Flight, address: str, token: int, times: Lifetime
    ) -> Outcome | None:
        """Make and publish the value under a lease; None when it was cancelled, or came too late
        and was not stored."""
        try:
            if flight.stop.done():
                outcome = None
            else:
                keeper = asyncio.create_task(self._keep(address, token))
                try:
                    outcome = await self._make(flight, keeper)
                finally:
                    keeper.cancel()
        except BaseException:
            await self._tell(lambda: self._backend.release(address, token))
            raise
        # From here on nobody joins: who comes after a `forget` must not get what was made before.
        flight.closing = True
        if outcome is None:
            await self._tell(lambda: self._backend.release(address, token))
            return None
        if outcome.error is not None:
            text = error_to_text(outcome.error)
            await self._tell(lambda: self._backend.fail(address, token, text))
            return outcome
        return await self._publish(address, token, outcome, times)

    async def _publish(
        self, address: str, token: int, outcome: Outcome, times: Lifetime
    ) -> Outcome | None:
        fresh_ms = max(1, int(times.fresh_s * 1000))
        stale_ms = fresh_ms + int(times.stale_s * 1000)

        async def publish() -> bool:
            return await self._backend.publish(address, token, outcome.value, fresh_ms, stale_ms)

        try:
            stored = await self._ask(publish, always=True)
        except CacheUnavailable as error:
            log.warning("a value was made and could not be stored", exc_info=error)
            return outcome
        if not stored:
            self._counts.lost += 1
            log.info("a value came too late: it was forgotten, or a newer lease was given")
            return None
        self._sweep_now_and_then()
        return outcome

    async def _make(self, flight: Flight, keeper: asyncio.Task[None] | None) -> Outcome | None:
        self._counts.executions += 1
        outcome = await perform(flight, keeper)
        if outcome is not None and outcome.error is None:
            try:
                outcome = Outcome(value_to_text(outcome.value, self._value_bytes_max))
            except Exception as error:
                outcome = Outcome(error=error, trace=error.__traceback__)
        self._counts.failures += outcome is not None and outcome.error is not None
        return outcome

    async def _keep(self, address: str, token: int) -> None:
        """Renew the lease; ends when it is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3 * random.uniform(0.8, 1))
            try:
                kept = await self._ask(
                    lambda: self._backend.renew(address, token, self._lease_ms), always=True
                )
            except Exception as error:
                log.warning("a lease could not be renewed; trying on", exc_info=error)
                continue
            if not kept:
                return

    async def _ask(self, step: Callable[[], Awaitable[R]], *, always: bool = False) -> R:
        """The backend's answer to a step, within ``wait_s``; at most 8 are under way at once.

        Raises CacheUnavailable when there is none, and, unless ``always``, for a second afterwards
        without asking; what is no outage as it is.
        """
        async with self._gate:
            return await self._answered(lambda: in_time(step, self._wait_s), always)

    async def _answered(self, step: Callable[[], Awaitable[R]], always: bool = False) -> R:
        if not always and time.monotonic() < self._away_until:
            raise CacheUnavailable(retry_after_s=AWAY_S)
        try:
            return await step()
        except Exception as error:
            if not is_outage(error):
                raise
            self._counts.outages += 1
            if time.monotonic() >= self._away_until:
                log.warning("what is behind the cache does not answer: %r", error)
            self._away_until = time.monotonic() + AWAY_S
            raise CacheUnavailable(retry_after_s=AWAY_S) from error

    async def _tell(self, step: Callable[[], Awaitable[None]]) -> None:
        """A step that may be lost: then the lease runs out by itself."""
        try:
            await self._ask(step, always=True)
        except Exception as error:
            log.warning("a lease could not be freed and runs out", exc_info=error)

    def _sweep_now_and_then(self) -> None:
        self._published += 1
        if self._published % SWEEP_EVERY == 0 and (self._sweep is None or self._sweep.done()):
            self._sweep = asyncio.create_task(self._tidy(), name="crowdsafe-cache-sweep")

    async def _tidy(self) -> None:
        try:
            await self._backend.sweep()
        except Exception as error:
            log.warning("old values could not be removed, trying again later", exc_info=error)


def _answer(claim: Claim, joined: int) -> Outcome | None:
    """The value or the error that an execution elsewhere gave, for those who had joined by then."""
    if claim.text is not None:
        return Outcome(claim.text, joined=joined)
    if claim.error is not None:
        return Outcome(error=error_from_text(claim.error), joined=joined)
    return None
