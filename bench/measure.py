"""Closed-loop callers, contenders interleaved in rounds, and what is counted of them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.figures import quantile

CALLERS = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often: seconds a cell, rounds, warm-up seconds a contender."""

    cell_s: float
    rounds: int
    warm_s: float
    callers: Sequence[int] = CALLERS
    quick: bool = False


FULL = Plan(cell_s=1.3, rounds=3, warm_s=0.4)
QUICK = Plan(cell_s=0.3, rounds=3, warm_s=0.15, quick=True)


class Contender(Protocol):
    """One way to do the work. ``peer_of`` names the contender of ours that it is compared with."""

    name: str
    peer_of: str | None

    async def open(self) -> None: ...

    async def call(self, caller: int) -> None:
        """One request of one caller; returns after it is durable, raises when it failed."""

    async def stored(self) -> int:
        """How many calls the database holds: what was answered and is not there was lost."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class Cell:
    """What one contender did at one number of callers, over all rounds."""

    rates: list[float] = field(default_factory=list)
    """Answered calls per second, one value a round."""
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """The median round."""
        return statistics.median(self.rates)

    def quantile_ms(self, share: float) -> float:
        """Latency below which ``share`` of all calls stayed, all rounds together."""
        return 1000 * quantile(self.latencies_s, share)


Results = dict[tuple[str, int], Cell]


def ratio(results: Results, ours: str, peer: str, callers: int) -> float:
    """Ours over the peer's: the median of the rounds' ratios, since a round's two ran together."""
    pairs = zip(results[ours, callers].rates, results[peer, callers].rates, strict=True)
    return statistics.median(a / b if b else float("inf") for a, b in pairs)


async def measure(contender: Contender, callers: int, seconds: float, cell: Cell) -> int:
    """Let ``callers`` tasks call as fast as they are answered; how many calls were answered."""
    until = time.perf_counter() + seconds

    async def caller(number: int) -> int:
        done = 0
        while (began := time.perf_counter()) < until:
            try:
                await contender.call(number)
            except Exception as error:
                cell.errors[type(error).__name__] += 1
            else:
                cell.latencies_s.append(time.perf_counter() - began)
                done += 1
        return done

    start = time.perf_counter()
    answered = sum(await asyncio.gather(*(caller(number) for number in range(callers))))
    cell.rates.append(answered / (time.perf_counter() - start))
    return answered


async def run(contenders: Sequence[Contender], plan: Plan) -> tuple[Results, dict[str, int]]:
    """All contenders at all numbers of callers, and how many answered calls each has lost."""
    results: Results = {}
    answered: Counter[str] = Counter()
    opened: list[Contender] = []
    try:
        for contender in contenders:
            opened.append(contender)
            await contender.open()
            warm = await measure(contender, max(plan.callers), plan.warm_s, Cell())
            answered[contender.name] += warm
        for callers in plan.callers:
            for turn in range(plan.rounds):
                shift = turn % len(contenders)
                for contender in [*contenders[shift:], *contenders[:shift]]:
                    cell = results.setdefault((contender.name, callers), Cell())
                    done = await measure(contender, callers, plan.cell_s, cell)
                    answered[contender.name] += done
        lost = {each.name: answered[each.name] - await each.stored() for each in contenders}
    finally:
        for contender in opened:
            await contender.close()
    return results, lost
