"""Facts of a section in, its tables and figures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from crowdsafe.systems.planner.generation.arithmetic import SCENARIOS, Projection, project, split
from crowdsafe.systems.planner.generation.facts import (
    CompetitorFacts,
    FinancialFacts,
    MarketFacts,
    MarketingFacts,
    RiskFacts,
    RoadmapFacts,
    SummaryFacts,
)
from crowdsafe.systems.planner.generation.sections import Column, SectionName, Table
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["Built", "Figures", "build", "projection_of"]

Figures = dict[str, int | None]


@dataclass(frozen=True, slots=True)
class Built:
    """A section without its text."""

    facts: BaseModel
    tables: list[Table]
    figures: Figures


def build(
    request: PlanRequest, name: SectionName, facts: BaseModel, figures: Mapping[str, int | None]
) -> Built:
    """The tables and figures of a section; ``figures`` are those of the sections before it."""
    tables, own = _BUILDERS[name](request, facts, figures)
    return Built(facts, tables, own)


def projection_of(request: PlanRequest, facts: FinancialFacts, percent: int = 100) -> Projection:
    """The projection of a request's budget over its timeline."""
    return project(facts, request.budget_amount, request.months, percent)


def _financials(
    request: PlanRequest, facts: FinancialFacts, _: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    expected = projection_of(request, facts)
    last = expected.months[-1]
    figures: Figures = {
        "budget": expected.budget,
        "months": request.months,
        "start_up_total": expected.start_up_total,
        "launch_marketing": expected.marketing,
        "working_capital": expected.reserve,
        "monthly_costs": last.fixed,
        "price": facts.price,
        "variable_percent": facts.variable_percent,
        "customers_first": expected.months[0].customers,
        "customers_last": last.customers,
        "revenue_total": expected.revenue,
        "profit_total": expected.profit,
        "revenue_last_month": last.revenue,
        "profit_last_month": last.profit,
        "gross_margin_percent": expected.margin_percent,
        "profitable_month": expected.profitable_month,
        "break_even_month": expected.break_even_month,
        "break_even_estimate": expected.break_even_estimate,
        "cash_low": expected.cash_low,
        "cash_low_month": expected.cash_low_month,
        "funding_gap": expected.funding_gap,
    }
    tables = [
        _start_up_table(expected),
        _monthly_costs_table(facts),
        _projection_table(expected),
        _scenario_table(request, facts),
    ]
    return tables, figures


def _start_up_table(expected: Projection) -> Table:
    rows: list[list[Any]] = [[name, amount] for name, amount in expected.start_up]
    rows += [
        ["Launch marketing", expected.marketing],
        ["Working capital", expected.reserve],
        ["Budget", expected.budget],
    ]
    return Table(
        name="start_up",
        title="How the budget is used",
        columns=[Column(label="Use"), Column(label="Amount", kind="money")],
        rows=rows,
        total=True,
    )


def _monthly_costs_table(facts: FinancialFacts) -> Table:
    rows: list[list[Any]] = [[item.name, item.amount] for item in facts.monthly]
    rows.append(["Each month", sum(item.amount for item in facts.monthly)])
    return Table(
        name="monthly_costs",
        title="Fixed costs a month",
        columns=[Column(label="Cost"), Column(label="Amount", kind="money")],
        rows=rows,
        total=True,
    )


def _projection_table(expected: Projection) -> Table:
    money = ("Revenue", "Cost of sales", "Fixed costs", "Profit", "Profit so far", "Cash")
    rows: list[list[Any]] = [
        [
            *(month.number, month.customers, month.revenue, month.variable, month.fixed),
            *(month.profit, month.cumulative, month.cash),
        ]
        for month in expected.months
    ]
    return Table(
        name="projection",
        title="Month by month",
        columns=[
            Column(label="Month", kind="month"),
            Column(label="Customers", kind="count"),
            *(Column(label=label, kind="money") for label in money),
        ],
        rows=rows,
    )


def _scenario_table(request: PlanRequest, facts: FinancialFacts) -> Table:
    rows: list[list[Any]] = []
    for name, percent in SCENARIOS:
        case = projection_of(request, facts, percent)
        rows.append(
            [
                *(name, percent, case.revenue, case.profit, case.break_even_month),
                *(case.cash_low, case.funding_gap),
            ]
        )
    return Table(
        name="scenarios",
        title="Three scenarios",
        columns=[
            Column(label="Scenario"),
            Column(label="Customers", kind="percent"),
            Column(label="Revenue", kind="money"),
            Column(label="Profit", kind="money"),
            Column(label="Break-even month", kind="month"),
            Column(label="Lowest cash", kind="money"),
            Column(label="Funding gap", kind="money"),
        ],
        rows=rows,
    )


def _market(
    _: PlanRequest, facts: MarketFacts, figures: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    buyers = facts.buyers_total
    serviceable = buyers * facts.serviceable_percent // 100
    obtainable = serviceable * facts.obtainable_percent // 100
    tam, sam, som = (count * facts.spend_a_year for count in (buyers, serviceable, obtainable))
    wanted = (figures.get("revenue_last_month") or 0) * 12
    rows: list[list[Any]] = [
        ["TAM: all buyers", buyers, facts.spend_a_year, tam, None],
        ["SAM: within reach", serviceable, facts.spend_a_year, sam, facts.serviceable_percent],
        ["SOM: to be won", obtainable, facts.spend_a_year, som, facts.obtainable_percent],
    ]
    table = Table(
        name="market_size",
        title="Market size: buyers × what one spends in a year",
        columns=[
            Column(label="Market"),
            Column(label="Buyers", kind="count"),
            Column(label="Spend of one in a year", kind="money"),
            Column(label="Worth a year", kind="money"),
            Column(label="Part of the line above", kind="percent"),
        ],
        rows=rows,
    )
    figures_now: Figures = {
        "tam": tam,
        "sam": sam,
        "som": som,
        "buyers_total": buyers,
        "buyers_serviceable": serviceable,
        "buyers_obtainable": obtainable,
        "spend_a_year": facts.spend_a_year,
        "planned_a_year": wanted,
        "planned_percent_of_som": wanted * 100 // som if som else None,
    }
    return [table], figures_now


def _competitors(
    _: PlanRequest, facts: CompetitorFacts, __: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    ranked = sorted(facts.competitors, key=lambda one: -one.threat)
    table = Table(
        name="competitors",
        title="Kinds of competitors, the most serious first",
        columns=[
            *(Column(label=label) for label in ("Competitor", "Strength", "Weakness")),
            Column(label="Our answer"),
            Column(label="Threat, of 5", kind="count"),
        ],
        rows=[[c.kind, c.strength, c.weakness, c.answer, c.threat] for c in ranked],
    )
    return [table], {"competitors": len(ranked), "threat_max": ranked[0].threat}


def _risks(
    _: PlanRequest, facts: RiskFacts, __: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    ranked = sorted(facts.risks, key=lambda risk: -risk.likelihood * risk.impact)
    table = Table(
        name="risks",
        title="Risks, the largest first (likelihood × impact)",
        columns=[
            Column(label="Risk"),
            Column(label="Likelihood, of 5", kind="count"),
            Column(label="Impact, of 5", kind="count"),
            Column(label="Score", kind="count"),
            Column(label="What is done about it"),
        ],
        rows=[
            [r.risk, r.likelihood, r.impact, r.likelihood * r.impact, r.mitigation] for r in ranked
        ],
    )
    largest = ranked[0]
    return [table], {"risks": len(ranked), "risk_score_max": largest.likelihood * largest.impact}


def _marketing(
    _: PlanRequest, facts: MarketingFacts, figures: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    money = figures.get("launch_marketing") or 0
    parts = split(money, [channel.percent for channel in facts.channels])
    rows: list[list[Any]] = [
        [channel.name, channel.percent, part, channel.use]
        for channel, part in zip(facts.channels, parts, strict=True)
    ]
    rows.append(["Launch marketing", 100, money, ""])
    table = Table(
        name="channels",
        title="Where the launch marketing goes",
        columns=[
            Column(label="Channel"),
            Column(label="Share", kind="percent"),
            Column(label="Amount", kind="money"),
            Column(label="For"),
        ],
        rows=rows,
        total=True,
    )
    gained = (figures.get("customers_last") or 0) or None
    cost = money // gained if gained else None
    return [table], {"launch_marketing": money, "cost_of_a_customer": cost}


def _roadmap(
    request: PlanRequest, facts: RoadmapFacts, _: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    within = [m for m in facts.milestones if m.month <= request.months]
    ordered = sorted(within, key=lambda milestone: milestone.month)
    table = Table(
        name="milestones",
        title="Milestones, by the end of their month",
        columns=[
            Column(label="Month", kind="month"),
            Column(label="Milestone"),
            Column(label="Reached when"),
        ],
        rows=[[m.month, m.title, m.outcome] for m in ordered],
    )
    return [table], {"milestones": len(ordered)}


_KEY_FIGURES = (
    ("budget", "Budget"),
    ("start_up_total", "Spent before the start"),
    ("revenue_total", "Revenue over the timeline"),
    ("profit_total", "Profit over the timeline"),
    ("funding_gap", "Funding gap"),
    ("tam", "Total market (TAM) a year"),
    ("sam", "Market within reach (SAM) a year"),
    ("som", "Market to be won (SOM) a year"),
)


_QUOTED = (
    *("budget", "revenue_total", "profit_total", "break_even_month", "funding_gap"),
    *("tam", "sam", "som"),
)


def _executive_summary(
    _: PlanRequest, facts: SummaryFacts, figures: Mapping[str, int | None]
) -> tuple[list[Table], Figures]:
    numbers = Table(
        name="key_figures",
        title="Key figures",
        columns=[Column(label="Figure"), Column(label="Amount", kind="money")],
        rows=[[label, figures[name]] for name, label in _KEY_FIGURES if name in figures],
    )
    points: list[list[Any]] = [[text, "strength"] for text in facts.strengths]
    points += [[text, "need"] for text in facts.needs]
    reasons = Table(
        name="points",
        title="What speaks for it, and what it needs",
        columns=[Column(label="Point"), Column(label="Kind")],
        rows=points,
    )
    return [numbers, reasons], {name: figures[name] for name in _QUOTED if name in figures}


_BUILDERS: dict[SectionName, Callable[[PlanRequest, Any, Mapping[str, int | None]], Any]] = {
    "financials": _financials,
    "market": _market,
    "competitors": _competitors,
    "risks": _risks,
    "marketing": _marketing,
    "roadmap": _roadmap,
    "executive_summary": _executive_summary,
}
