"""The curve of cash and revenue as plain numbers for an inline SVG, and the same in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crowdsafe.systems.planner.generation.sections import Section
from crowdsafe.systems.planner.money import currency_of
from crowdsafe.systems.planner.pages.words import MINUS, money

__all__ = ["cash_chart", "compact_money", "nice_ticks"]

INTERVALS_MAX = 5
_SIZES = (("k", 10**3), ("M", 10**6), ("B", 10**9), ("T", 10**12))


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a drawing, in SVG units, and how much of it is margin."""

    name: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: int
    lines: int
    """Of how many lines a direct label is."""


FRAMES = (
    Frame("large", 760, 290, 62, 620, 24, 250, 6, 1),
    Frame("small", 340, 250, 50, 262, 24, 212, 3, 2),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """From months and money to a frame's coordinates."""

    frame: Frame
    months: int
    low: float
    high: float

    def x(self, month: int) -> float:
        """Where a month is."""
        return self.frame.left + (self.frame.right - self.frame.left) * month / self.months

    def y(self, amount: float) -> float:
        """Where an amount is."""
        height = self.frame.bottom - self.frame.top
        return self.frame.bottom - height * (amount - self.low) / (self.high - self.low)


def cash_chart(section: Section, currency: str) -> dict[str, Any] | None:
    """The chart of a financial section, or None when it has no monthly projection.

    Two drawings of the same curves, for wide and for narrow screens: text in an SVG shrinks with
    it, so that one drawing would be unreadable on the other.
    """
    table = next((each for each in section.tables if each.name == "projection"), None)
    if table is None or not table.rows:
        return None
    at = {column.label: i for i, column in enumerate(table.columns)}
    if not {"Month", "Revenue", "Cash"} <= set(at):
        return None
    start = section.figures.get("working_capital") or 0
    cash = [start, *(_whole(row[at["Cash"]]) for row in table.rows)]
    revenue = [0, *(_whole(row[at["Revenue"]]) for row in table.rows)]
    even = section.figures.get("break_even_month")
    unit = f", in {currency}" if _long(currency) else ""
    return {
        "id": "cash-chart",
        "title": f"Cash at the end of each month, and the month's revenue{unit}",
        "words": _in_words(cash, revenue, even, currency),
        "drawings": [_drawing(frame, cash, revenue, even, currency) for frame in FRAMES],
    }


def compact_money(amount: float, currency: str) -> str:
    """An amount for an axis: "$12.5k", "−¥1.2M"; a longer sign than these is left out."""
    sign = MINUS if amount < 0 else ""
    size, suffix, unit = abs(amount), "", 1
    for name, value in _SIZES:
        if size >= value:
            suffix, unit = name, value
    scaled = size / unit
    digits = f"{scaled:.1f}".removesuffix(".0") if unit > 1 and scaled < 100 else f"{scaled:.0f}"
    prefix = "" if _long(currency) else currency_of(currency).prefix
    return f"{sign}{prefix}{digits}{suffix}"


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers that span low to high, at most six of them and at least two."""
    span = max(high - low, 1.0)
    size = 10.0 ** math.floor(math.log10(span / INTERVALS_MAX))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = size * factor
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= INTERVALS_MAX:
            return [step * i for i in range(first, max(last, first + 1) + 1)]
    raise AssertionError("a step of ten times the span over five always fits")


def _drawing(
    frame: Frame, cash: Sequence[int], revenue: Sequence[int], even: int | None, currency: str
) -> dict[str, Any]:
    ticks = nice_ticks(min(0, *cash, *revenue), max(1, *cash, *revenue))
    scale = Scale(frame, len(cash) - 1, ticks[0], ticks[-1])
    return {
        "name": frame.name,
        "width": frame.width,
        "height": frame.height,
        "left": frame.left,
        "right": frame.right,
        "top": frame.top,
        "bottom": frame.bottom,
        "grid": [
            {
                "y": round(scale.y(tick), 1),
                "zero": tick == 0,
                "label": compact_money(tick, currency),
            }
            for tick in ticks
        ],
        "ticks": _months(scale),
        "even": _even_mark(scale, even),
        "series": _direct(scale, currency, [("Cash", cash), ("Revenue", revenue)]),
    }


def _months(scale: Scale) -> list[dict[str, Any]]:
    step = max(1, math.ceil(scale.months / scale.frame.ticks))
    shown = [*range(0, scale.months, step), scale.months]
    if len(shown) > 2 and shown[-1] - shown[-2] < step / 2:
        del shown[-2]
    return [
        {
            "x": round(scale.x(month), 1),
            "label": "start" if month == 0 else f"month {month}" if i == len(shown) - 1 else month,
            "anchor": "middle",
        }
        for i, month in enumerate(shown)
    ]


def _even_mark(scale: Scale, even: int | None) -> dict[str, Any] | None:
    if even is None or not 0 < even <= scale.months:
        return None
    left_half = even <= scale.months / 2
    return {
        "x": round(scale.x(even), 1),
        "text_x": round(scale.x(even) + (6 if left_half else -6), 1),
        "anchor": "start" if left_half else "end",
        "label": f"costs earned back, month {even}",
    }


def _direct(
    scale: Scale, currency: str, named: Sequence[tuple[str, Sequence[int]]]
) -> list[dict[str, Any]]:
    """Each curve with its label at its end, the labels pushed apart where they would meet."""
    apart = 15 * scale.frame.lines + 2
    series: list[dict[str, Any]] = []
    for name, amounts in named:
        points = " ".join(
            f"{scale.x(i):.1f},{scale.y(amount):.1f}" for i, amount in enumerate(amounts)
        )
        series.append(
            {
                "points": points,
                "end_x": round(scale.x(scale.months), 1),
                "end_y": round(scale.y(amounts[-1]), 1),
                "x": scale.frame.right + 10,
                "y": scale.y(amounts[-1]) + 4,
                "name": name,
                "value": compact_money(amounts[-1], currency),
                "lines": scale.frame.lines,
            }
        )
    upper, lower = sorted(series, key=lambda each: each["y"])
    push = apart - (lower["y"] - upper["y"])
    if push > 0:
        upper["y"] -= push / 2
        lower["y"] += push / 2
    lowest = scale.frame.bottom - 15 * (scale.frame.lines - 1)
    over = lower["y"] - max(lowest, scale.frame.top)
    if over > 0:
        lower["y"] -= over
        upper["y"] = min(upper["y"], lower["y"] - apart)
    for each in series:
        each["y"] = round(each["y"], 1)
    return series


def _in_words(cash: Sequence[int], revenue: Sequence[int], even: int | None, currency: str) -> str:
    months, low = len(cash) - 1, min(cash)
    lowest_at = cash.index(low)
    when = "at the start" if lowest_at == 0 else f"at the end of month {lowest_at}"
    ends = (
        "" if months == lowest_at else f" and is {money(cash[-1], currency)} after month {months}"
    )
    span = "month" if months == 1 else "months"
    earned = (
        f"All costs are earned back in month {even}."
        if even is not None
        else f"The costs are not earned back within {months} {span}."
    )
    grows = f"Revenue is {money(revenue[1], currency)} in month 1" + (
        f" and {money(revenue[-1], currency)} in month {months}. " if months > 1 else ". "
    )
    return (
        f"Cash starts at {money(cash[0], currency)}, is lowest {when} "
        f"({money(low, currency)}){ends}. {grows}{earned}"
    )


def _long(currency: str) -> bool:
    return len(currency_of(currency).prefix) > 1


def _whole(cell: Any) -> int:
    return cell if isinstance(cell, int) else 0
