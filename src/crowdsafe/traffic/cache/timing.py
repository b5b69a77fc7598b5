"""How long a value lives, and how long may be waited for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crowdsafe.traffic.arguments import check_number, check_whole

__all__ = ["COUNT_MAX", "Lifetime", "check_limits", "lifetime"]

LIFE_S_MAX = 366 * 86_400.0
TIMEOUT_S_MAX = 86_400.0
COUNT_MAX = 2**53


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds that a value is fresh, and those that it may be served while a new one is made."""

    fresh_s: float
    stale_s: float
    timeout_s: float


def lifetime(
    ttl_s: float,
    stale_s: float,
    timeout_s: float,
    jitter: float,
    chance: Callable[[], float] = random.random,
) -> Lifetime:
    """The lifetime of one value: ``ttl_s``, less a random part of at most ``jitter``.

    So values that were made together do not all end together. Raises ConfigError when a time is
    not above zero, or is longer than a year (``timeout_s``: a day).
    """
    check_number("ttl_s", ttl_s, 0, LIFE_S_MAX, above=True)
    check_number("stale_s", stale_s, 0, LIFE_S_MAX)
    check_number("timeout_s", timeout_s, 0, TIMEOUT_S_MAX, above=True)
    return Lifetime(ttl_s * (1 - jitter * chance()), stale_s, timeout_s)


def check_limits(jitter: float, **limits: Any) -> None:
    """Raise ConfigError unless every limit is above zero (those that are no times are whole) and
    the jitter is from 0 to 0.9."""
    check_number("jitter", jitter, 0, 0.9)
    for name, value in limits.items():
        if name.endswith("_s"):
            check_number(name, value, 0, TIMEOUT_S_MAX, above=True)
        else:
            check_whole(name, value, 1, COUNT_MAX)
