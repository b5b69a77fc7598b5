"""A comparison whose tables have columns of their own, and what a goal makes of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.goals import Verdict
from bench.rounds import Outcomes, ratio


@dataclass(slots=True)
class Table:
    """Cells as they are printed, under headers."""

    headers: list[str]
    rows: list[list[str]]
    title: str = ""


@dataclass(slots=True)
class Findings:
    """One comparison as it came out."""

    name: str
    title: str
    about: str
    tables: list[Table]
    verdicts: list[Verdict] = field(default_factory=list)


def cells(
    outcomes: Outcomes,
    columns: Sequence[tuple[str, str]],
    ours: Mapping[str, str] | None = None,
    figure: str = "",
) -> list[list[str]]:
    """A line for each contender: the medians of the figures, each with its format.

    With ``ours``, which names the contender of ours that a peer is compared with, the last cell
    says how many times the peer's ``figure`` ours has.
    """
    rows = []
    for name, outcome in outcomes.items():
        row = [name, *(_shown(outcome.median(key), style) for key, style in columns)]
        if ours is not None:
            times = ratio(outcomes, ours[name], name, figure) if name in ours else None
            row.append("" if times is None else f"{times:.3g}×")
        how = "failed once it ran" if outcome.rounds else "not run"
        row.append(f"{how}: {outcome.not_run}" if outcome.not_run else "")
        rows.append(row)
    return rows


def _shown(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def at_least_times(
    text: str, outcomes: Outcomes, ours: str, peer: str, figure: str, times: float
) -> Verdict:
    """Whether ``ours`` has at least ``times`` the peer's figure; missed when either was not run."""
    value = ratio(outcomes, ours, peer, figure)
    shown = "not run" if value is None else f"{value:.2f}×"
    return Verdict(text, f"≥ {times:.3g}×", shown, value is not None and value >= times)


def at_least(text: str, outcomes: Outcomes, ours: str, figure: str, least: float) -> Verdict:
    """Whether the median figure is at least so much."""
    value = outcomes[ours].median(figure) if ours in outcomes else None
    shown = "not run" if value is None else f"{value:,.4g}" if value < 100 else f"{value:,.0f}"
    return Verdict(text, f"≥ {least:,.4g}", shown, value is not None and value >= least)


def always(
    text: str, outcomes: Outcomes, ours: Sequence[str], figure: str, wanted: float
) -> Verdict:
    """Whether every round of all of these gave exactly this figure: what may never fail has no
    median."""
    values, silent = [], []
    for name in ours:
        found = outcomes[name].all(figure) if name in outcomes else []
        values += found
        silent += [] if found else [name]
    off = sorted({value for value in values if value != wanted})
    shown = ", ".join(f"{value:g}" for value in off or [wanted])
    if silent:
        shown = f"not run: {len(silent)} of {len(ours)}"
    return Verdict(text, f"{wanted:g}, always", shown, not off and not silent)
