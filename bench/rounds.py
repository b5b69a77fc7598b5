"""Trials that give several figures each: once a round, one after the other, medians in the end."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, float]
SAID_CHARS_MAX = 90


@dataclass(frozen=True, slots=True)
class Trial:
    """One contender: its label, and what does one round of it and gives the figures."""

    name: str
    run: Callable[[], Figures]


@dataclass(slots=True)
class Outcome:
    """What came of one contender's rounds, or why it did not run."""

    rounds: list[Figures] = field(default_factory=list)
    not_run: str | None = None

    def all(self, figure: str) -> list[float]:
        """The figure of each round that has it."""
        return [each[figure] for each in self.rounds if figure in each]

    def median(self, figure: str) -> float | None:
        """The median round's figure; None when no round has it."""
        values = self.all(figure)
        return statistics.median(values) if values else None


Outcomes = dict[str, Outcome]


def interleaved(trials: Sequence[Trial], rounds: int) -> Outcomes:
    """Each trial once a round, in an order that shifts from round to round.

    A trial that raises is left out from then on, with the error as the reason: what cannot run
    here takes nobody else's figures with it.
    """
    outcomes: Outcomes = {trial.name: Outcome() for trial in trials}
    for turn in range(rounds):
        shift = turn % len(trials)
        for trial in [*trials[shift:], *trials[:shift]]:
            outcome = outcomes[trial.name]
            if outcome.not_run is None:
                try:
                    outcome.rounds.append(trial.run())
                except Exception as error:
                    outcome.not_run = _said(error)
    return outcomes


def ratio(outcomes: Outcomes, ours: str, peer: str, figure: str) -> float | None:
    """Ours over the peer's: the median of the rounds' ratios; None where either has none."""
    if ours not in outcomes or peer not in outcomes:
        return None
    pairs = zip(outcomes[ours].all(figure), outcomes[peer].all(figure), strict=False)
    ratios = [a / b for a, b in pairs if b]
    return statistics.median(ratios) if ratios else None


def within(
    seconds: float, make: Callable[[], Coroutine[Any, Any, Figures]]
) -> Callable[[], Figures]:
    """A trial's function out of a coroutine function, in a loop of its own and bounded."""

    async def bounded() -> Figures:
        async with asyncio.timeout(seconds):
            return await make()

    return lambda: asyncio.run(bounded())


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:SAID_CHARS_MAX]
