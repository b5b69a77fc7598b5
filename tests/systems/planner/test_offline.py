"""The offline plan: real arithmetic that agrees with itself, for any request at all."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crowdsafe.systems.planner.generation import SECTIONS, Plan, Section, offline_plan
from crowdsafe.systems.planner.generation.arithmetic import project, split
from crowdsafe.systems.planner.generation.facts import FinancialFacts, Item, Share
from crowdsafe.systems.planner.generation.offline import offline_section
from crowdsafe.systems.planner.generation.offline.profiles import PROFILES, profile_of
from crowdsafe.systems.planner.generation.offline.write import gist
from crowdsafe.systems.planner.money import format_money
from crowdsafe.systems.planner.request import BRACKETS, TIMELINES, PlanRequest
from tests.systems.planner.asking import any_request, plan_request


def words_of(plan: Plan) -> str:
    return "\n".join(text for section in plan.sections.values() for text in section.paragraphs)


def column(plan: Plan, section: Any, table: str, label: str) -> list[Any]:
    found = plan.sections[section].table(table)
    at = [each.label for each in found.columns].index(label)
    return [row[at] for row in found.rows]


@given(any_request)
def test_tables_add_up_and_sections_agree(request: PlanRequest) -> None:
    plan = offline_plan(request)
    assert tuple(plan.sections) == SECTIONS
    for section in plan.sections.values():
        for table in section.tables:
            check_table(table)
    check_projection(plan.sections["financials"], request)
    check_market(plan)
    figures = plan.sections["financials"].figures | plan.sections["market"].figures
    summary = plan.sections["executive_summary"]
    assert summary.figures == {name: figures[name] for name in summary.figures}
    quoted = ["revenue_total", "tam", "som"]
    if figures["start_up_total"] or figures["monthly_costs"]:
        quoted += ["start_up_total", "working_capital"]
    for name in quoted:
        assert (
            format_money(figures[name] or 0, request.currency)
            in summary.paragraphs[1] + (summary.paragraphs[3])
        )
    assert " ".join(request.location.split()) in words_of(plan)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def check_table(table: Any) -> None:
    for row in table.rows:
        assert len(row) == len(table.columns)
        for cell, kind in zip(row, table.columns, strict=True):
            assert cell is None or isinstance(cell, str) == (kind.kind == "text")
            assert not isinstance(cell, int) or abs(cell) < 2**53
    if not table.total:
        return
    for at, kind in enumerate(table.columns):
        if kind.kind in {"money", "count", "percent"}:
            *parts, whole = [row[at] for row in table.rows]
            assert sum(parts) == whole
            assert min(parts) >= 0
            assert kind.kind != "percent" or whole == 100


def check_projection(financials: Section, request: PlanRequest) -> None:
    figures = financials.figures
    rows = financials.table("projection").rows
    assert len(rows) == request.months
    so_far = -(figures["start_up_total"] or 0)
    even = None
    lows = [figures["working_capital"]]
    for number, row in enumerate(rows, 1):
        month, customers, revenue, variable, fixed, profit, cumulative, cash = map(int, row)  # type: ignore[arg-type]
        assert month == number
        assert min(customers, revenue, variable, fixed) >= 0
        assert revenue == customers * (figures["price"] or 0)
        assert 0 <= variable <= revenue
        assert profit == revenue - variable - fixed
        so_far += profit
        assert (cumulative, cash) == (so_far, so_far + request.budget_amount)
        even = number if even is None and so_far >= 0 else even
        lows.append(cash)
    assert figures["break_even_month"] == even
    assert figures["cash_low"] == min(lows)
    assert figures["funding_gap"] == max(0, -min(lows))
    assert figures["budget"] == request.budget_amount
    check_estimate(figures, so_far)


def check_estimate(figures: dict[str, int | None], so_far: int) -> None:
    """If the last month went on, the estimate is the first month without a loss so far."""
    estimate, profit, months = (
        figures[name] for name in ("break_even_estimate", "profit_last_month", "months")
    )
    assert profit is not None
    assert months is not None
    if figures["break_even_month"] is not None:
        assert estimate == figures["break_even_month"]
    elif estimate is None:
        assert profit <= 0
    else:
        assert so_far + profit * (estimate - months) >= 0
        assert so_far + profit * (estimate - months - 1) < 0


def check_market(plan: Plan) -> None:
    figures = plan.sections["market"].figures
    tam, sam, som = (figures[name] or 0 for name in ("tam", "sam", "som"))
    assert tam >= sam >= som > 0
    assert tam == (figures["buyers_total"] or 0) * (figures["spend_a_year"] or 0)
    assert som >= (figures["planned_a_year"] or 0), "the plan wins no more than can be won"
    assert column(plan, "market", "market_size", "Worth a year") == [tam, sam, som]


_shares = st.lists(st.integers(0, 9), min_size=1, max_size=10)
any_financials = st.builds(
    lambda shares, amounts, **more: FinancialFacts(
        customer="guests",
        start_up=[Share(name="use", percent=share) for share in shares],
        monthly=[Item(name="cost", amount=amount) for amount in amounts],
        **more,
    ),
    _shares,
    st.lists(st.integers(0, 10**12), min_size=1, max_size=10),
    price=st.integers(1, 10**6),
    variable_percent=st.integers(0, 95),
    customers_first=st.integers(0, 10**7),
    customers_last=st.integers(0, 10**7),
    marketing_percent=st.integers(0, 10),
)


@given(any_request, any_financials)
def test_whatever_a_language_model_assumes_adds_up(
    request: PlanRequest, facts: FinancialFacts
) -> None:
    section = offline_section(request, "financials", {}, facts)
    assert section.source == "mixed"
    for table in section.tables:
        check_table(table)
    check_projection(section, request)
    assert section.paragraphs


def test_facts_too_large_to_be_counted_are_refused() -> None:
    sound: dict[str, Any] = {
        "customer": "guests", "price": 10, "variable_percent": 40, "customers_first": 1,
        "customers_last": 2, "start_up": [{"name": "oven", "percent": 60}],
        "marketing_percent": 40, "monthly": [{"name": "rent", "amount": 5}],
    }  # fmt: skip
    FinancialFacts.model_validate(sound)
    for wrong in (
        {"price": 0}, {"price": 10**9, "customers_last": 10**7}, {"marketing_percent": 41},
        {"variable_percent": 96}, {"customers_first": -1}, {"monthly": []}, {"start_up": []},
        {"price": 9.5}, {"customer": " "}, {"monthly": [{"name": "rent", "amount": -5}]},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            FinancialFacts.model_validate({**sound, **wrong})


def test_scenarios_keep_their_order() -> None:
    for timeline in TIMELINES:
        plan = offline_plan(plan_request(timeline=timeline))
        revenue = column(plan, "financials", "scenarios", "Revenue")
        gaps = column(plan, "financials", "scenarios", "Funding gap")
        assert revenue == sorted(revenue)
        assert gaps == sorted(gaps, reverse=True)
        assert revenue[1] == plan.sections["financials"].figures["revenue_total"]


def test_the_same_request_gives_the_same_plan_and_another_gives_another() -> None:
    plans = {}
    for business in ("bakery", "yoga studio", "SaaS", "plumbing", "something else"):
        for location in ("Leipzig", "Osaka"):
            for budget in BRACKETS:
                request = plan_request(business_type=business, location=location, budget=budget)
                first, again = offline_plan(request), offline_plan(request)
                assert first == again
                plans[business, location, budget] = (
                    json.dumps(first.sections["financials"].figures, sort_keys=True),
                    words_of(first),
                )
    figures = {figures for figures, _ in plans.values()}
    assert len(figures) == len(plans), "no two of these have the same numbers"


def test_what_was_asked_for_is_in_the_plan() -> None:
    plan = offline_plan(plan_request(personalization={"focus": "rye bread"}))
    words = words_of(plan)
    for said in ("Leipzig", "bakery", "delivers by bicycle", "rye bread", "€80,000"):
        assert said in words
    assert plan.title == "Bakery in Leipzig"
    assert (plan.source, plan.model, plan.calls) == ("offline", None, 0)
    assert plan.offline_sections == list(SECTIONS)
    assert "lorem" not in words.lower()
    assert not re.search(r"\bNone\b|\{|\}|  ", words)


@pytest.mark.parametrize("timeline", TIMELINES)
@pytest.mark.parametrize("budget", [0, 1, 99, 10**12])
def test_the_smallest_and_largest_budgets_make_plans(budget: int, timeline: str) -> None:
    plan = offline_plan(plan_request(budget=budget, timeline=timeline))
    assert plan.sections["financials"].figures["budget"] == budget
    assert "None" not in words_of(plan)


@given(st.integers(0, 10**12), st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_split_loses_nothing(amount: int, weights: list[int]) -> None:
    if sum(weights) == 0:
        assert split(0, weights) == [0] * len(weights)
        return
    parts = split(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - amount * weight / sum(weights)) < 1 + 1e-3
    # The naive way, each part rounded on its own, does lose some.
    assert sum(round(100 * weight / 3) for weight in (1, 1, 1)) != 100
    assert sum(split(100, (1, 1, 1))) == 100


def test_a_projection_by_hand() -> None:
    facts = FinancialFacts(
        customer="guests", price=10, variable_percent=40, customers_first=10, customers_last=40,
        start_up=[Share(name="oven", percent=30)], marketing_percent=10,
        monthly=[Item(name="rent", amount=120)],
    )  # fmt: skip
    made = project(facts, 1000, 4)
    assert [
        (m.customers, m.revenue, m.variable, m.profit, m.cumulative, m.cash) for m in made.months
    ] == [
        (10, 100, 40, -60, -460, 540),
        (20, 200, 80, 0, -460, 540),
        (30, 300, 120, 60, -400, 600),
        (40, 400, 160, 120, -280, 720),
    ]  # fmt: skip
    assert (made.start_up_total, made.reserve, made.cash_low, made.cash_low_month) == (
        400,
        600,
        540,
        1,
    )
    assert (made.break_even_month, made.break_even_estimate, made.profitable_month) == (None, 7, 2)
    assert (made.funding_gap, made.margin_percent) == (0, 60)


@pytest.mark.parametrize(
    ("business_type", "idea", "kind"),
    [
        ("Café", "whatever it may be", "food"),
        ("Online Shop", "shirts of wool", "online shop"),
        ("SaaS", "invoices", "software"),
        ("something", "we want to open a bakery", "food"),
        ("barber", "hair", "wellness"),
        ("unheard of", "of no known kind", "general"),
        ("applied rest", "no part of a word counts: snapper", "general"),
    ],
)
def test_the_kind_of_business_is_read_off_its_words(
    business_type: str, idea: str, kind: str
) -> None:
    assert profile_of(business_type, idea).name == kind


def test_profiles_are_sound() -> None:
    for profile in PROFILES:
        assert sum(share for _, share in profile.start_up) + profile.marketing_percent <= 85
        assert sum(share for _, share in profile.monthly) == 100
        assert 0 < profile.price[0] < profile.price[1]


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_the_gist_is_short_and_ends(text: str) -> None:
    said = gist(text)
    assert 1 <= len(said) <= 182
    assert said[-1] in ".!?…"
