"""What was accepted when, and whether any window held too many; and limiters that let too many in.

Of a call over a network it is known when it was made and answered: it was decided in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdsafe.traffic import Rate


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
