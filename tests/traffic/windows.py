"""What was accepted when, and whether any window held too many; and limiters that let too many in.

Of a call over a network it is known when it was made and answered: it was decided in between.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from crowdsafe.traffic import Decision, Rate


@dataclass(frozen=True)
class Asked:
    """One call of a limiter: moments of `time.monotonic()`, the same in all processes."""

    start: float
    end: float
    allowed: bool


def worst_window(asked: Sequence[Asked], window_s: float) -> int:
    """The most accepted calls that were surely all decided within one window."""
    accepted = [call for call in asked if call.allowed]
    return max(
        (
            sum(
                first.start <= call.start and call.end - first.start < window_s for call in accepted
            )
            for first in accepted
        ),
        default=0,
    )


def refused_too_early(asked: Sequence[Asked], rate: Rate, slack_s: float = 0.003) -> list[Asked]:
    """Refusals before which surely fewer than the limit lay in the window."""
    accepted = [call for call in asked if call.allowed]
    return [
        call
        for call in asked
        if not call.allowed
        and sum(
            other.end > call.start - rate.window_s - slack_s and other.start < call.end
            for other in accepted
        )
        < rate.limit
    ]


class FixedWindow:
    """Counts in windows that begin at multiples of the window: twice the limit around a border."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.counts: dict[tuple[str, int], int] = {}

    def allow(self, key: str, now: float) -> bool:
        window = (key, int(now // self.rate.window_s))
        self.counts[window] = self.counts.get(window, 0) + 1
        return self.counts[window] <= self.rate.limit


class Gcra:
    """The generic cell rate algorithm: a burst of the limit, and a refill all the while."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.due: dict[str, float] = {}

    def allow(self, key: str, now: float) -> bool:
        due = max(now, self.due.get(key, 0.0)) + self.rate.window_s / self.rate.limit
        if due - now > self.rate.window_s + 1e-9:
            return False
        self.due[key] = due
        return True


class Model:
    """The rule itself, without a thought for memory."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.accepted: dict[str, list[float]] = {}

    def check(self, key: str, now: float) -> Decision:
        times = [t for t in self.accepted.get(key, []) if now - t < self.rate.window_s]
        allowed = len(times) < self.rate.limit
        if allowed:
            times.append(now)
        self.accepted[key] = times
        wait_s = 0.0 if allowed else times[0] + self.rate.window_s - now
        reset_s = times[-1] + self.rate.window_s - now
        return Decision(allowed, self.rate, self.rate.limit - len(times), reset_s, wait_s)


def bursts(rng: random.Random, rate: Rate, count: int) -> list[float]:
    """Moments with bursts and pauses of every size, many at window borders."""
    now, window_s = 1000.0, rate.window_s
    moments: list[float] = []
    gaps = [0.0, 0.0, 0.0, 0.001, *(window_s / rate.limit * by for by in (0.1, 0.3, 1.0))]
    for _ in range(count):
        now += rng.choice(gaps) if rng.random() < 0.97 else rng.choice([window_s, 2 * window_s])
        if rng.random() < 0.02:
            now = math.ceil(now / window_s) * window_s + rng.choice([-0.001, 0.0])
        now = max(now, moments[-1] if moments else now)
        moments.append(now)
    return moments
