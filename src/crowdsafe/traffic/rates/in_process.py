"""The limiter that lives in one process."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.traffic.keys import check_key
from crowdsafe.traffic.rates.rate import Decision, Limiter, Rate, check_is_rate, refused

__all__ = ["InProcessLimiter", "as_async"]

_RING_MIN = 4

# A ring is a plain list, since that is what Python reads and writes fastest: first the index of the
# oldest time, then the times of the last accepted requests, around from there.
_Ring = list[Any]


def _new_ring(size: int) -> _Ring:
    return [1, *[-inf] * size]


def _accept(ring: _Ring, now: float, rate: Rate) -> bool:
    """Note a request at ``now``, if fewer than the limit lie in the window before it."""
    at = ring[0]
    if now - ring[at] < rate.window_s:
        if len(ring) > rate.limit:
            return False
        at = _grow(ring, rate.limit)
    ring[at] = now
    at += 1
    ring[0] = at if at < len(ring) else 1
    return True


def _grow(ring: _Ring, limit: int) -> int:
    """Make room for twice as many, at most ``limit``; the index of the first free place."""
    at, size = ring[0], len(ring) - 1
    free = [-inf] * min(size, limit - size)
    ring[:] = [1, *free, *ring[at:], *ring[1:at]]
    return 1


def _newest(ring: _Ring) -> float:
    at = ring[0]
    return float(ring[at - 1] if at > 1 else ring[-1])


def _used(ring: _Ring, cutoff: float) -> int:
    """How many times lie after ``cutoff``."""
    at, size = ring[0] - 1, len(ring) - 1
    return size - bisect_right(range(size), cutoff, key=lambda i: ring[(at + i) % size + 1])


class _Guests:
    """Keys that came when all places were in use: they share one window, and keep a ring each, so
    that one that gets a place later does not start anew. Never more than ``rate.limit`` of them."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._log: deque[tuple[float, str]] = deque()
        self._rings: dict[str, _Ring] = {}

    def ring(self, key: str, now: float) -> _Ring | None:
        """The guest's ring, or None when the window that all guests share is full."""
        self._forget(now)
        if len(self._log) >= self._rate.limit:
            return None
        self._log.append((now, key))
        return self._rings.setdefault(key, _new_ring(1))

    def leave(self, key: str, now: float) -> _Ring | None:
        """Take out the ring of a guest that gets a place."""
        self._forget(now)
        return self._rings.pop(key, None)

    def wait_s(self, now: float) -> float:
        """Seconds until the shared window takes another request."""
        return self._log[0][0] + self._rate.window_s - now if self._log else 0.0

    def _forget(self, now: float) -> None:
        log, window_s = self._log, self._rate.window_s
        while log and now - log[0][0] >= window_s:
            key = log.popleft()[1]
            ring = self._rings.get(key)
            if ring is not None and now - _newest(ring) >= window_s:
                del self._rings[key]


class InProcessLimiter:
    """A rate limit for each key, in the memory of one process, for any number of its threads.

    Keeps the times of the last ``rate.limit`` accepted requests of a key in a ring (a sliding
    log). A key that was idle for a window is forgotten. At most ``keys_max`` keys have a window of
    their own; while all places are in use, the other keys share one window, so that whoever
    invents keys gains nothing, and known keys go on as before.

    Holds: never more than ``rate.limit`` accepted in any window of ``rate.window_s`` seconds for a
    key; no refusal of a key with a place while fewer were accepted; at most ``keys_max`` and
    ``rate.limit`` keys in memory, each with at most ``rate.limit`` times of 32 bytes.
    Does not hold: anything across processes, or after a restart (``DatabaseLimiter`` and
    ``ValkeyLimiter`` do). Proved by ``tests/traffic/test_rates.py``.

    ``clock`` gives seconds and never goes back. Raises ConfigError for ``keys_max`` below 1 and for
    a ``rate`` that is no Rate (text: ``Rate.parse``).
    """

    def __init__(
        self,
        rate: Rate,
        *,
        keys_max: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(keys_max) is not int or keys_max < 1:
            raise ConfigError(f"keys_max is {keys_max!r}; it must be a whole number from 1")
        self.rate = check_is_rate(rate)
        self.keys_max = keys_max
        self._window_s = rate.window_s
        self._clock = clock
        self._lock = threading.Lock()
        # Two generations: a key that is asked for moves to the young one. When the young one is a
        # window old it becomes the old one, and what was left in the old one is idle: dropped.
        self._young: dict[str, _Ring] = {}
        self._old: dict[str, _Ring] = {}
        self._born = clock()
        self._guests = _Guests(rate)

    def allow(self, key: str) -> bool:
        """Count a request for ``key`` if it is allowed; the fast form of ``check``.

        Raises InvalidInput for a key that is not text of 1 to 200 characters.
        """
        with self._lock:
            now = self._clock()
            try:
                ring = self._young[key]
            except (KeyError, TypeError):
                found = self._find(key, now)
                return found is not None and _accept(found, now, self.rate)
            at = ring[0]
            if now - ring[at] < self._window_s:
                return _accept(ring, now, self.rate)
            ring[at] = now
            at += 1
            ring[0] = at if at < len(ring) else 1
            return True

    def check(self, key: str) -> Decision:
        """Count a request for ``key`` if it is allowed, and tell what is left. Raises as
        ``allow``."""
        with self._lock:
            now = self._clock()
            ring = self._find(key, now)
            if ring is None:
                wait_s = self._guests.wait_s(now)
                return Decision(False, self.rate, 0, wait_s, wait_s)
            return self._told(_accept(ring, now, self.rate), ring, now)

    def require(self, key: str) -> Decision:
        """As ``check``, but raises RateLimited when the request is not allowed."""
        decision = self.check(key)
        if not decision.allowed:
            raise refused(decision)
        return decision

    def __len__(self) -> int:
        """How many keys have a window of their own."""
        return len(self._young) + len(self._old)

    def _find(self, key: str, now: float) -> _Ring | None:
        """The ring of a key, or None for a guest who is refused."""
        check_key(key)
        if (ring := self._young.get(key)) is not None:
            return ring
        if now - self._born >= self.rate.window_s:
            self._old = self._young
            self._young = {}
            self._born = now
        ring = self._old.pop(key, None)
        if ring is None:
            if len(self) >= self.keys_max:
                return self._guests.ring(key, now)
            ring = self._guests.leave(key, now) or _new_ring(min(_RING_MIN, self.rate.limit))
        self._young[key] = ring
        return ring

    def _told(self, allowed: bool, ring: _Ring, now: float) -> Decision:
        rate = self.rate
        return Decision(
            allowed,
            rate,
            rate.limit - _used(ring, now - rate.window_s),
            _newest(ring) + rate.window_s - now,
            0.0 if allowed else ring[ring[0]] + rate.window_s - now,
        )


class _Async:
    """The face that limiters shared between processes have."""

    def __init__(self, limiter: InProcessLimiter) -> None:
        self._limiter = limiter
        self.rate = limiter.rate

    async def check(self, key: str) -> Decision:
        return self._limiter.check(key)

    async def require(self, key: str) -> Decision:
        return self._limiter.require(key)


def as_async(limiter: InProcessLimiter) -> Limiter:
    """The limiter with an ``async`` face, to be used where a shared one might be. Raises
    ConfigError for what is no InProcessLimiter."""
    if not isinstance(limiter, InProcessLimiter):
        raise ConfigError(f"as_async takes an InProcessLimiter, not {limiter!r}")
    return _Async(limiter)
