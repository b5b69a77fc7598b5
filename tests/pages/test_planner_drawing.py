"""What the planner's pages draw and say, without a browser: charts, cells, words, fairness."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdsafe.systems.planner.generation import SECTIONS, offline_plan
from crowdsafe.systems.planner.money import CURRENCIES
from crowdsafe.systems.planner.pages import words
from crowdsafe.systems.planner.pages.chart import compact_money, nice_ticks
from crowdsafe.systems.planner.pages.document import document
from crowdsafe.systems.planner.pages.operator import fairness
from crowdsafe.systems.planner.request import BRACKETS, TIMELINES, PlanRequest

AMOUNTS = st.integers(-(10**13), 10**13)
REQUESTS = st.builds(
    PlanRequest,
    idea=st.just("A workshop that repairs old radios"),
    location=st.just("Porto"),
    budget=st.sampled_from(list(BRACKETS)) | st.integers(0, 10**12),
    timeline=st.sampled_from(list(TIMELINES)),
    business_type=st.sampled_from(["Repair shop", "Restaurant", "Software"]),
    currency=st.sampled_from(list(CURRENCIES)),
)


@given(AMOUNTS, AMOUNTS)
def test_ticks_span_what_is_drawn_and_are_few(one: int, other: int) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 6
    assert all(a < b for a, b in pairwise(ticks))


@given(REQUESTS)
def test_every_plan_can_be_drawn(request: PlanRequest) -> None:
    sections = document(offline_plan(request))
    assert [each["name"] for each in sections] == list(SECTIONS)
    chart = next(each for each in sections if each["name"] == "financials")["charts"][0]
    assert chart["words"].startswith("Cash starts at ")
    for drawing in chart["drawings"]:
        labels = [each["y"] for each in drawing["series"]]
        assert abs(labels[0] - labels[1]) >= 15, "direct labels lie on each other"
        assert all(0 < y < drawing["height"] for y in labels)
        for each in drawing["series"]:
            for point in each["points"].split():
                x, y = map(float, point.split(","))
                assert drawing["left"] <= x <= drawing["right"]
                assert drawing["top"] - 0.1 <= y <= drawing["bottom"] + 0.1
        ticks = [each["x"] for each in drawing["ticks"]]
        assert all(b - a > 20 for a, b in pairwise(ticks))
    for section in sections:
        for table in section["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"])


@pytest.mark.parametrize(
    ("amount", "currency", "said"),
    [
        (12_500, "USD", "$12.5k"),
        (-1_200_000, "JPY", "−¥1.2M"),
        (250_000, "EUR", "€250k"),
        (950, "GBP", "£950"),
        (3_000_000_000, "CHF", "3B"),
        (0, "INR", "₹0"),
    ],
)
def test_an_axis_says_amounts_shortly(amount: int, currency: str, said: str) -> None:
    assert compact_money(amount, currency) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "not known yet"),
        (0, "a few seconds"),
        (41, "about 40 s"),
        (100, "about 2 min"),
        (7000, "about 2 h"),
    ],
)
def test_an_estimate_is_no_more_exact_than_it_is(seconds: float | None, said: str) -> None:
    assert words.about(seconds) == said


def test_fairness_is_jains_index() -> None:
    assert fairness([5, 5, 5]) == 1.0
    assert fairness([9, 0, 0]) == pytest.approx(1 / 3)
    assert fairness([9]) is None
    assert fairness([0, 0]) is None


@given(st.text(min_size=1, max_size=4000))
def test_a_title_is_one_short_line(idea: str) -> None:
    title = words.first_words(idea)
    assert len(title) <= words.TITLE_CHARS_MAX + 1
    assert not re.search(r"[\n\t\r]", title)


def test_a_quota_is_said_in_words_and_marks() -> None:
    quota = {"limit": 5, "used": 1, "reserved": 1, "left": 3, "resets_at": None}
    assert words.quota_left(quota) == "3 of 5 plans left today"
    assert words.quota_pips(quota) == ["left"] * 3 + ["held", "used"]
    free = {**quota, "limit": None, "left": None}
    assert words.quota_left(free) == "As many as you like"
    assert words.quota_pips(free) == []
    assert words.quota_note(free) == "1 made, 1 being made today."
