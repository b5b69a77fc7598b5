"""A rate, and what a limiter says about one request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol, Self

from crowdsafe.errors import ConfigError, RateLimited

__all__ = [
    "LIMIT_MAX",
    "WINDOW_S_MAX",
    "WINDOW_S_MIN",
    "Decision",
    "Limiter",
    "Rate",
    "check_is_rate",
    "refused",
]

LIMIT_MAX = 100_000
WINDOW_S_MIN = 0.001
WINDOW_S_MAX = 31 * 86_400

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_SHORT = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400} | _UNITS
_TEXT = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d{1,6})?)?\s*([a-z]{1,7})\s*")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` requests (1 to 100,000) in any window of ``window_s`` seconds (0.001 to 31
    days). Raises ConfigError.

    A limiter keeps the times of the last ``limit`` accepted requests of each key: a large limit
    costs memory (32 bytes for each time in this process, 8 in the database, about 12 in Valkey).
    """

    limit: int
    window_s: float

    def __post_init__(self) -> None:
        if type(self.limit) is not int or not 1 <= self.limit <= LIMIT_MAX:
            raise ConfigError(
                f"the limit of a rate is a whole number from 1 to {LIMIT_MAX}, not {self.limit!r}"
            )
        if not _is_number(self.window_s) or not WINDOW_S_MIN <= self.window_s <= WINDOW_S_MAX:
            raise ConfigError(
                f"the window of a rate is {WINDOW_S_MIN} to {WINDOW_S_MAX} seconds, "
                f"not {self.window_s!r}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "100/second", "1200/minute", "5/10s", "3/2 hours". Raises ConfigError."""
        found = _TEXT.fullmatch(str(text).lower())
        if found is not None:
            limit, count, unit = found.groups()
            seconds = _SHORT.get(unit) or _UNITS.get(unit.removesuffix("s"))
            if seconds is not None:
                return cls(int(limit), float(count or 1) * seconds)
        raise ConfigError(f'{text!r} is not a rate; write "100/second", "20/minute" or "5/10s"')

    def __str__(self) -> str:
        return f"{self.limit} in {self.window_s:g} s"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one request is allowed, and what is left for its key.

    ``remaining`` is how many more are allowed now (after a long pause Valkey may understate it),
    ``reset_s`` the seconds until the whole limit is free again if nothing else is accepted,
    ``retry_after_s`` the seconds until one more is allowed (0.0 when this one was). A refused one
    is false: ``if await limiter.check(key):`` asks for ``allowed``.
    """

    allowed: bool
    rate: Rate
    remaining: int
    reset_s: float
    retry_after_s: float

    def __bool__(self) -> bool:
        return self.allowed


def check_is_rate(rate: Any) -> Rate:
    """A Rate. Raises ConfigError."""
    if not isinstance(rate, Rate):
        fix = f"Rate.parse({rate!r})" if isinstance(rate, str) else "Rate(limit=5, window_s=60)"
        raise ConfigError(f"rate is {rate!r}, which is no Rate; write {fix}")
    return rate


class Limiter(Protocol):
    """What all limiters that are shared between processes have in common."""

    @property
    def rate(self) -> Rate: ...

    async def check(self, key: str) -> Decision:
        """Count a request for ``key``, if it is allowed. Raises InvalidInput for a bad key."""

    async def require(self, key: str) -> Decision:
        """As ``check``, but raises RateLimited when the request is not allowed."""


def refused(decision: Decision) -> RateLimited:
    """The error that tells a client about a refusal."""
    rate = decision.rate
    return RateLimited(
        f"The limit of {rate.limit} in {rate.window_s:g} seconds is used up; wait "
        f"{decision.retry_after_s:.3g} seconds and try again.",
        limit=rate.limit,
        window_s=rate.window_s,
        retry_after_s=decision.retry_after_s,
        remaining=0,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
