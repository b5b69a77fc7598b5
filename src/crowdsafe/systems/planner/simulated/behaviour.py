"""How the simulated service behaves, and what it has counted."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Behaviour", "Dice", "Fate", "Stats"]

Fate = Literal["answer", "limited", "busy", "failing", "hang", "trickle", "wrong"]
_Rate = Annotated[float, Field(ge=0, le=1)]


class Behaviour(BaseModel):
    """The knobs; the default is a quick service without faults. Times in seconds.

    Latency is lognormal: half of the answers take less than ``latency_s``, and ``latency_sigma``
    says how far the slow ones are off (0: all take the same). ``requests_per_s`` is the service's
    own limit: at most that many are let through in any window of a second. The rates are parts
    of the requests, from 0 to 1, drawn in this order: 429, 5xx, hang, trickle, wrong JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_s: Annotated[float, Field(ge=0, le=600)] = 0.3
    latency_sigma: Annotated[float, Field(ge=0, le=3)] = 0.5
    latency_s_max: Annotated[float, Field(ge=0, le=600)] = 30.0
    requests_per_s: Annotated[int, Field(ge=1, le=100_000)] | None = None
    retry_after_s: Annotated[int, Field(ge=0, le=3600)] = 1
    rate_429: _Rate = 0.0
    rate_5xx: _Rate = 0.0
    hang_rate: _Rate = 0.0
    trickle_rate: _Rate = 0.0
    trickle_bytes_per_s: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    wrong_json_rate: _Rate = 0.0
    outage: bool = False
    """Every request is answered with 503 at once."""
    api_key: Annotated[str, Field(max_length=200)] | None = None
    """The one key that is let in; None: any."""
    seed: int = 0


class Dice:
    """Decides the fate of each request, the same for the same seed and order of requests."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._chance = random.Random(behaviour.seed)
        self._recent: deque[float] = deque()

    def fate(self) -> Fate:
        """What happens to the next request."""
        behaviour = self._behaviour
        if behaviour.outage:
            return "failing"
        if self._over_limit():
            return "limited"
        throws: tuple[tuple[Fate, float], ...] = (
            ("busy", behaviour.rate_429),
            ("failing", behaviour.rate_5xx),
            ("hang", behaviour.hang_rate),
            ("trickle", behaviour.trickle_rate),
            ("wrong", behaviour.wrong_json_rate),
        )
        return next((fate for fate, rate in throws if self._chance.random() < rate), "answer")

    def latency_s(self) -> float:
        """How long the next answer takes."""
        behaviour = self._behaviour
        if behaviour.latency_s == 0:
            return 0.0
        drawn = self._chance.lognormvariate(math.log(behaviour.latency_s), behaviour.latency_sigma)
        return min(drawn, behaviour.latency_s_max)

    def _over_limit(self) -> bool:
        limit, recent, now = self._behaviour.requests_per_s, self._recent, time.monotonic()
        if limit is None:
            return False
        while recent and recent[0] <= now - 1.0:
            recent.popleft()
        if len(recent) >= limit:
            return True
        recent.append(now)
        return False


class Stats:
    """What was counted since the start, or since it was set back."""

    def __init__(self) -> None:
        self.running = 0
        self.reset()

    def reset(self) -> None:
        """Count from zero again; calls that are running still are."""
        self.calls = 0
        self.running_max = self.running
        self.disconnected = 0
        self.by_status: Counter[str] = Counter()
        self.by_step: Counter[str] = Counter()

    def begin(self) -> None:
        """A call has come."""
        self.calls += 1
        self.running += 1
        self.running_max = max(self.running_max, self.running)

    def end(self) -> None:
        """It is over, whichever way."""
        self.running -= 1

    def as_json(self) -> dict[str, object]:
        """All counts; ``by_step`` counts good answers by section and step."""
        return {
            "calls": self.calls,
            "running": self.running,
            "running_max": self.running_max,
            "disconnected": self.disconnected,
            "by_status": dict(self.by_status),
            "by_step": dict(self.by_step),
        }
