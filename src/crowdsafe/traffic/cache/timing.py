"""How long a value lives, and how long may be waited for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from crowdsafe.errors import ConfigError

__all__ = ["Lifetime", "check_limits", "lifetime"]

LIFE_S_MAX = 366 * 86_400.0
TIMEOUT_S_MAX = 86_400.0


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
    if not 0 < ttl_s <= LIFE_S_MAX or not 0 <= stale_s <= LIFE_S_MAX:
        raise ConfigError(f"ttl_s is above 0, stale_s at least 0, not {ttl_s!r} and {stale_s!r}")
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise ConfigError(f"timeout_s is above 0 and at most {TIMEOUT_S_MAX}, not {timeout_s!r}")
    return Lifetime(ttl_s * (1 - jitter * chance()), stale_s, timeout_s)


def check_limits(jitter: float, **limits: float) -> None:
    """Raise ConfigError unless every limit is above zero and the jitter is from 0 to 0.9."""
    if not 0 <= jitter <= 0.9:
        raise ConfigError(f"jitter is from 0 to 0.9, not {jitter!r}")
    for name, value in limits.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value!r}; it must be above zero")
