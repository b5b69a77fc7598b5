"""What one process remembers of refusals, so that a client who hammers costs the backend nothing.

A refusal says when the next request is allowed, and no process can allow one before: until then the
answer is known without asking.
"""

from __future__ import annotations

import time

from crowdsafe.traffic.rates.rate import Decision, Rate

__all__ = ["Refusals"]

KEYS_MAX = 10_000


class Refusals:
    """Refusals that still stand, of at most 10,000 keys."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._ends: dict[str, tuple[float, float]] = {}

    def standing(self, key: str, now: float) -> Decision | None:
        """The refusal that stands for ``key`` at ``now`` (``time.monotonic()``), if any."""
        ends = self._ends.get(key)
        if ends is None:
            return None
        if ends[0] <= now:
            del self._ends[key]
            return None
        return Decision(False, self._rate, 0, ends[1] - now, ends[0] - now)

    def note(self, key: str, asked_at: float, decision: Decision) -> None:
        """Remember a refusal that was asked for at ``asked_at``: it was given no earlier, so it
        stands no longer than counted from there."""
        if decision.allowed or asked_at + decision.retry_after_s <= time.monotonic():
            return
        if len(self._ends) >= KEYS_MAX:
            self._ends.clear()
        self._ends[key] = (asked_at + decision.retry_after_s, asked_at + decision.reset_s)
