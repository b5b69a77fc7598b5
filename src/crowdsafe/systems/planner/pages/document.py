"""A plan as its page draws it: cells as text, the figures that matter with their labels, charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crowdsafe.systems.planner.generation.sections import SECTIONS, Plan, Section, Table
from crowdsafe.systems.planner.pages.chart import cash_chart
from crowdsafe.systems.planner.pages.words import MINUS, money

__all__ = ["document"]

FIGURES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "executive_summary": (
        ("budget", "Budget", "money"),
        ("revenue_total", "Revenue over the timeline", "money"),
        ("profit_total", "Profit over the timeline", "money"),
        ("break_even_month", "Costs earned back", "even"),
    ),
    "market": (
        ("tam", "Total market, a year", "money"),
        ("sam", "Within reach, a year", "money"),
        ("som", "To be won, a year", "money"),
        ("planned_percent_of_som", "Planned part of that", "percent"),
    ),
    "financials": (
        ("working_capital", "Working capital at the start", "money"),
        ("monthly_costs", "Fixed costs a month", "money"),
        ("cash_low", "Lowest cash", "money"),
        ("funding_gap", "Still to be funded", "money"),
    ),
    "marketing": (
        ("launch_marketing", "Launch marketing", "money"),
        ("cost_of_a_customer", "Cost of a customer", "money"),
    ),
}
"""The figures that a section shows large; the others are in its tables."""

TALL_ROWS = 15
POINT_TITLES = {"strength": "What speaks for it", "need": "What it needs"}
_NUMBERS = frozenset({"money", "count", "percent", "month"})


def document(plan: Plan) -> list[dict[str, Any]]:
    """The sections of a plan in their order, ready to be drawn."""
    return [_section(plan.sections[name], plan) for name in SECTIONS if name in plan.sections]


def cell_text(value: str | int | None, kind: str, currency: str) -> str:
    """A cell as text."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if kind == "money":
        return money(value, currency)
    sign = MINUS if value < 0 else ""
    if kind == "percent":
        return f"{sign}{abs(value):,}%"
    if kind == "month":
        return "start" if value == 0 else str(value)
    return f"{sign}{abs(value):,}"


def _section(section: Section, plan: Plan) -> dict[str, Any]:
    chart = cash_chart(section, plan.currency) if section.name == "financials" else None
    return {
        "name": section.name,
        "title": section.title,
        "source": section.source,
        "paragraphs": section.paragraphs,
        "figures": [
            (label, _figure(section.figures[name], kind, plan))
            for name, label, kind in FIGURES.get(section.name, ())
            if name in section.figures
        ],
        "charts": [chart] if chart else [],
        "points": [points for table in section.tables for points in _points(table)],
        "tables": [_table(each, plan.currency) for each in section.tables if not _points(each)],
    }


def _figure(value: int | None, kind: str, plan: Plan) -> str:
    if kind != "even":
        return cell_text(value, kind, plan.currency)
    if value is not None:
        return f"month {value}"
    expected = plan.sections["financials"].figures.get("break_even_estimate")
    return "not in sight" if expected is None else f"about month {expected}"


def _points(table: Table) -> list[dict[str, Any]]:
    """The lists in a table of (text, kind) rows; none for any other table."""
    if [column.label for column in table.columns] != ["Point", "Kind"]:
        return []
    kinds = dict.fromkeys(str(row[1]) for row in table.rows)
    return [
        {
            "title": POINT_TITLES.get(kind, kind.capitalize()),
            "items": [row[0] for row in table.rows if row[1] == kind],
        }
        for kind in kinds
    ]


def _table(table: Table, currency: str) -> dict[str, Any]:
    kinds = [column.kind for column in table.columns]
    return {
        "name": table.name,
        "title": table.title,
        "total": table.total,
        "tall": len(table.rows) > TALL_ROWS,
        "prose": kinds.count("text") > 1,
        "columns": [
            {"label": column.label, "number": column.kind in _NUMBERS} for column in table.columns
        ],
        "rows": [
            [
                {
                    "text": cell_text(value, kind, currency),
                    "number": kind in _NUMBERS,
                    "minus": isinstance(value, int) and value < 0,
                }
                for value, kind in zip(row, kinds, strict=True)
            ]
            for row in table.rows
        ],
    }
