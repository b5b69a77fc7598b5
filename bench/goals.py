"""What a comparison wants to show, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bench.measure import Results, ratio


@dataclass(frozen=True, slots=True)
class Goal:
    """``ours`` against ``peer`` at ``callers``: at least ``target`` times the rate, or a p99 that
    is no higher than ``target`` times the peer's."""

    text: str
    ours: str
    peer: str
    callers: int
    target: float
    of: Literal["rate", "p99"] = "rate"

    def judge(self, results: Results) -> Verdict | None:
        """The verdict, or None when the run left this number of callers out."""
        if (self.ours, self.callers) not in results:
            return None
        if self.of == "rate":
            value = ratio(results, self.ours, self.peer, self.callers)
            return Verdict(
                self.text, f"≥ {self.target:.3g}×", f"{value:.2f}×", value >= self.target
            )
        ours = results[self.ours, self.callers].quantile_ms(0.99)
        peer = results[self.peer, self.callers].quantile_ms(0.99)
        met = ours <= self.target * peer
        return Verdict(self.text, f"≤ {peer:.1f} ms", f"{ours:.1f} ms", met)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal, measured."""

    text: str
    target: str
    value: str
    met: bool


@dataclass(slots=True)
class Row:
    """One line of a comparison's table."""

    callers: str
    name: str
    rate: float
    spread: tuple[float, float]
    p50_ms: float
    p99_ms: float
    ours_is: float | None
    """Times the rate of this row that crowdsafe has, where the row is a peer."""
    more: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """One comparison as it came out."""

    name: str
    title: str
    about: str
    rows: list[Row]
    verdicts: list[Verdict]
    more_headers: list[str] = field(default_factory=list)
    """Headers of the columns in ``Row.more``."""
    lost: dict[str, int] = field(default_factory=dict)
    """Answered calls that the database does not hold, by contender; empty when there are none."""
    counts_lost: bool = True


def counted(errors: Mapping[str, int]) -> str:
    """Errors in a table's cell: "0", or each kind with its number."""
    return ", ".join(f"{number} {kind}" for kind, number in errors.items()) or "0"
