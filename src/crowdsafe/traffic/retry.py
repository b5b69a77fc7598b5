"""Retries of calls to the outside: with backoff, a limit on everything, and what the server asks.

stamina runs the loop; this decides which errors, how long to wait, and when to give up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from crowdsafe.errors import ConfigError
from crowdsafe.store.types import utcnow
from crowdsafe.traffic.arguments import check_callable, check_number

__all__ = ["retry_after_header", "retry_after_of", "retrying"]

log = logging.getLogger("crowdsafe.traffic")

P = ParamSpec("P")
T = TypeVar("T")
Which = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

_ATTEMPTS_MAX = 100
_DOUBLINGS_MAX = 32
_WAIT_S_MAX = 366 * 86_400.0
_HEADER_LENGTH_MAX = 64


def retrying(
    *,
    on: Which,
    attempts: int = 4,
    timeout_s: float = 30.0,
    wait_s: float = 0.2,
    wait_max_s: float = 5.0,
    retry_after_max_s: float = 30.0,
    retry_after: Callable[[Exception], float | None] | None = None,
    rng: random.Random | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function, ``async def`` or not, to be called again after the errors in ``on``.

    ``on`` is an exception class, several, or a function that says yes or no. It is called at most
    ``attempts`` times. Before the second there is a random wait of ``wait_s`` / 2 to ``wait_s``
    seconds, twice as long each time, up to ``wait_max_s``. If the error says when to come back
    (``retry_after``, without it ``retry_after_of``), the wait is that, but ``retry_after_max_s`` at
    most, and a little more, so that not all come back at once.

    Holds: what is not in ``on``, a cancellation and a key press among it, comes out at once and as
    it is; no wait begins that would end after ``timeout_s``, the last error comes out instead; an
    async function is cut off at ``timeout_s`` with TimeoutError. Each retry and each giving up is
    logged. Does not hold: a function that is not async is not cut off; nothing is known about
    whether an attempt that failed had an effect, so retry what may happen twice, or carries an
    idempotency key. Proved by ``tests/traffic/test_retry.py``.

    Needs stamina (``crowdsafe[retry]``), whose hooks and test mode apply. Raises ConfigError when
    an argument makes no sense; what the function raises last.

    Example: ``await retrying(on=ConnectionError, attempts=3)(fetch)(url)``.
    """
    plan = _Plan(
        _checked_on(on),
        attempts,
        timeout_s,
        wait_s,
        wait_max_s,
        retry_after_max_s,
        retry_after_of if retry_after is None else retry_after,
        random.Random() if rng is None else rng,
    )
    plan.check()

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004
        ):
            return cast("Callable[P, T]", _around_async(plan, fn))
        return cast("Callable[P, T]", _around_sync(plan, fn))

    return decorate


def retry_after_of(error: Exception) -> float | None:
    """Seconds until a repeat may work, as far as the error says: its ``retry_after_s``, or the
    Retry-After header of its ``response`` (seconds or a date, RFC 9110); else None."""
    said = getattr(error, "retry_after_s", None)
    if said is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        header_of = getattr(headers, "get", None)
        said = retry_after_header(header_of("retry-after")) if callable(header_of) else None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return max(0.0, float(said)) if math.isfinite(said) else None


def retry_after_header(header: Any) -> float | None:
    """The seconds that a Retry-After header says, which may be below zero for a date that is past;
    None for what is no such header."""
    if not isinstance(header, str) or len(header) > _HEADER_LENGTH_MAX:
        return None
    try:
        return float(header)
    except ValueError:
        pass
    try:
        moment: datetime = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - utcnow()).total_seconds()


@dataclass(frozen=True, slots=True)
class _Plan:
    """The arguments of ``retrying``."""

    on: Callable[[Exception], bool]
    attempts: int
    timeout_s: float
    wait_s: float
    wait_max_s: float
    retry_after_max_s: float
    retry_after: Callable[[Exception], float | None]
    rng: random.Random

    def check(self) -> None:
        if type(self.attempts) is not int or not 1 <= self.attempts <= _ATTEMPTS_MAX:
            raise ConfigError(f"attempts is {self.attempts!r}; it is 1 to {_ATTEMPTS_MAX}")
        for name in ("timeout_s", "wait_s", "wait_max_s", "retry_after_max_s"):
            check_number(name, getattr(self, name), 0, _WAIT_S_MAX, above=True)
        check_callable("retry_after", self.retry_after)
        if not isinstance(self.rng, random.Random):
            raise ConfigError(f"rng is {self.rng!r}; it must be a random.Random")

    def wait_before(self, attempt: int, error: Exception) -> float:
        """Seconds to wait after the failure of this attempt (from 1)."""
        longest_s = min(self.wait_max_s, self.wait_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        backoff_s = longest_s * self.rng.uniform(0.5, 1.0)
        asked_s = self.retry_after(error)
        if asked_s is None:
            return backoff_s
        return max(backoff_s, min(asked_s, self.retry_after_max_s) + backoff_s / 4)


class _Call:
    """One call with its attempts: stamina's backoff hook, told which attempt it is."""

    def __init__(self, plan: _Plan, fn: Callable[..., Any]) -> None:
        self._plan = plan
        self._name = getattr(fn, "__qualname__", None) or repr(fn)
        self._attempt = 0
        self.deadline = time.monotonic() + plan.timeout_s

    def context(self) -> Any:
        """stamina's iterator of attempts."""
        try:
            import stamina
        except ImportError as error:
            raise ConfigError(
                f"retrying needs stamina ({error}); install crowdsafe[retry]"
            ) from error
        return stamina.retry_context(
            on=self._backoff, attempts=self._plan.attempts, timeout=self._plan.timeout_s
        )

    def _backoff(self, error: BaseException) -> float | bool:
        self._attempt += 1
        if not isinstance(error, Exception) or not self._plan.on(error):
            return False
        if self._attempt >= self._plan.attempts:
            return self._give_up(error, "it was the last attempt")
        wait_s = self._plan.wait_before(self._attempt, error)
        left_s = self.deadline - time.monotonic()
        if wait_s >= left_s:
            return self._give_up(error, f"the next is in {wait_s:.2f} s, {left_s:.2f} s are left")
        log.warning(
            "%s failed with %r; attempt %d of %d in %.2f s",
            self._name, error, self._attempt + 1, self._plan.attempts, wait_s,
        )  # fmt: skip
        return wait_s

    def _give_up(self, error: Exception, why: str) -> bool:
        log.warning("%s failed with %r and is given up: %s", self._name, error, why)
        return False


def _around_async(plan: _Plan, fn: Callable[..., Any]) -> Any:
    @wraps(fn)
    async def run(*args: Any, **kwargs: Any) -> Any:
        call = _Call(plan, fn)
        async with asyncio.timeout(plan.timeout_s):
            async for attempt in call.context():
                with attempt:
                    return await fn(*args, **kwargs)
        raise AssertionError("stamina ends with a value or an error")

    return run


def _around_sync(plan: _Plan, fn: Callable[..., Any]) -> Any:
    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        call = _Call(plan, fn)
        for attempt in call.context():
            with attempt:
                value = fn(*args, **kwargs)
                if inspect.iscoroutine(value):
                    value.close()
                    raise ConfigError(
                        f"{fn!r} gives a coroutine but is no `async def`; make it one"
                    )
                return value
        raise AssertionError("stamina ends with a value or an error")

    return run


def _checked_on(on: Any) -> Callable[[Exception], bool]:
    kinds = on if isinstance(on, tuple) else (on,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return lambda error: isinstance(error, kinds)
    if callable(on) and not isinstance(on, type):
        asked: Callable[[Exception], bool] = on
        return asked
    raise ConfigError(
        "on is an Exception class, several in a tuple, or a function that gets the error"
    )
