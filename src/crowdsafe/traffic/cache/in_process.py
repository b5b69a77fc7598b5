"""The cache of one process: no server, no bytes copied, a hit is one look into a dictionary."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from crowdsafe.traffic.arguments import check_callable
from crowdsafe.traffic.cache.decorate import Cached, cached_by
from crowdsafe.traffic.cache.entries import Entries, Entry, rough_bytes
from crowdsafe.traffic.cache.errors import ValueTooLarge
from crowdsafe.traffic.cache.flight import Flight, Flights, Outcome, perform
from crowdsafe.traffic.cache.scope import Scope, check_address
from crowdsafe.traffic.cache.stats import CacheStats, Counts
from crowdsafe.traffic.cache.timing import Lifetime, check_limits, lifetime

__all__ = ["InProcessCache"]

P = ParamSpec("P")
T = TypeVar("T")


class InProcessCache:
    """Values of this process; nothing is shared with others.

    Holds: for one scope and key, ``make`` runs once at a time, and all who ask meanwhile get what
    it gives; a caller that is cancelled leaves the others untouched, and the execution is cancelled
    when nobody waits for it any more; errors go to those who wait and are not kept; two scopes
    never share a value, whatever the keys; at most ``items_max`` values and ``bytes_max`` bytes
    are held, whatever keys are invented, and what was used longest ago goes first; no wait is
    longer than ``timeout_s`` (and 5 s where an execution that was cancelled before has to end).
    Does not hold: anything between processes; a copy for each caller: all get the same object, so
    do not change it; room for each user: who invents many keys pushes out what others have.
    Proved by ``tests/traffic/test_cache_in_process.py``.

    Belongs to one event loop until that is closed; misses in another raise CacheMisuse.
    Sizes are rough (see ``rough_bytes``); pass ``size_of`` for types that know better.
    """

    def __init__(
        self,
        *,
        items_max: int = 10_000,
        bytes_max: int = 256_000_000,
        value_bytes_max: int = 16_000_000,
        flights_max: int = 10_000,
        refreshes_max: int = 32,
        jitter: float = 0.1,
        size_of: Callable[[Any], int] = rough_bytes,
    ) -> None:
        check_limits(
            jitter,
            items_max=items_max,
            bytes_max=bytes_max,
            value_bytes_max=value_bytes_max,
            flights_max=flights_max,
            refreshes_max=refreshes_max,
        )
        check_callable("size_of", size_of)
        self._counts = Counts()
        self._entries = Entries(items_max, bytes_max, self._evicted)
        self._by_address = self._entries.by_address
        self._touch = self._by_address.move_to_end
        self._flights = Flights(flights_max, refreshes_max)
        self._value_bytes_max = min(value_bytes_max, bytes_max)
        self._jitter = jitter
        self._size_of = size_of

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

        It is fresh for ``ttl_s`` seconds, up to a tenth less (``jitter``). For ``stale_s`` more it
        is still given, at once, while one execution in the background makes a new one; when that
        fails it is logged, and tried again after a second. ``make`` may take ``timeout_s``. It
        runs in a copy of the context of the caller that began it, and may outlive that caller: so
        it opens what it needs itself, and uses no session or client that ends with a request.
        ``key`` has 1 to 1000 characters; ``scope`` is ``PUBLIC`` or ``for_user(id)``.

        Raises what ``make`` raises, ExecutionTimedOut, ValueTooLarge, Overloaded when
        ``flights_max`` values are being made, and CacheMisuse when ``make`` asks for its own key.
        """
        address = (scope, key)
        try:
            entry = self._by_address.get(address)
        except TypeError:
            check_address(scope, key)
            raise
        if entry is not None and monotonic() < entry.fresh_until:
            try:
                self._touch(address)
            except KeyError:  # a thread with a loop of its own evicted it just now
                return entry.value  # type: ignore[no-any-return]
            self._counts.hits += 1
            return entry.value  # type: ignore[no-any-return]
        check_address(scope, key)
        times = lifetime(ttl_s, stale_s, timeout_s, self._jitter)
        self._flights.bind()
        if entry is not None and monotonic() < entry.stale_until:
            self._counts.stale += 1
            if self._flights.may_refresh(address):
                self._launch(address, make, times, detached=True)
            return entry.value  # type: ignore[no-any-return]
        self._counts.misses += 1
        flight = self._flights.find(address) or self._launch(address, make, times)
        return await flight.wait()  # type: ignore[no-any-return]

    async def forget(self, key: str, *, scope: Scope) -> None:
        """Drop a value. What is being made for it now goes to those who wait and is not stored."""
        check_address(scope, key)
        self._flights.bind()
        self._entries.drop((scope, key))
        self._flights.forget((scope, key))

    async def close(self) -> None:
        """End what runs, within about 5 s, in the background too: for a server that shuts down.
        Whoever still waits gets ExecutionEnded."""
        await self._flights.close()

    def stats(self) -> CacheStats:
        """Figures for a dashboard."""
        return self._counts.stats(
            items=len(self._by_address),
            size_bytes=self._entries.size_bytes,
            flights=len(self._flights),
        )

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

    def _launch(
        self,
        address: tuple[Scope, str],
        make: Callable[[], Awaitable[Any]],
        times: Lifetime,
        *,
        detached: bool = False,
    ) -> Flight:
        async def fly(flight: Flight) -> Outcome | None:
            return await self._fly(flight, times)

        return self._flights.launch(address, make, times.timeout_s, fly, detached=detached)

    async def _fly(self, flight: Flight, times: Lifetime) -> Outcome | None:
        if flight.stop.done():
            return None
        self._counts.executions += 1
        outcome = await perform(flight)
        if outcome is None or outcome.error is not None:
            self._counts.failures += outcome is not None
            return outcome
        size_bytes = self._size_of(outcome.value)
        if size_bytes > self._value_bytes_max:
            self._counts.failures += 1
            raise ValueTooLarge(size_bytes=size_bytes, limit_bytes=self._value_bytes_max)
        if flight.forgotten:
            self._counts.lost += 1
            return outcome
        fresh_until = monotonic() + times.fresh_s
        self._entries.put(
            flight.address,
            Entry(outcome.value, fresh_until, fresh_until + times.stale_s, size_bytes),
        )
        return outcome

    def _evicted(self) -> None:
        self._counts.evicted += 1
