"""What may be asked for, what is refused, and which requests are the same."""

from __future__ import annotations

import json
import math
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from crowdsafe.systems.planner.money import CURRENCIES, format_money
from crowdsafe.systems.planner.request import BRACKETS, BUDGET_MAX, PlanRequest, bracket_label
from tests.systems.planner.asking import BAKERY, any_request, plan_request


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        plan_request(**changes)
    return str(refused.value)


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (-1, "must not be negative"),
        (-0.01, "must not be negative"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (-math.inf, "finite"),
        (10**15, "at most"),
        (10**400, "at most"),
        (BUDGET_MAX + 1, "at most"),
        (True, "a number or one of"),
        (None, "a number or one of"),
        ("1000", "a number or one of"),
        ("plenty", "a number or one of"),
        ([5000], "a number or one of"),
        ({}, "a number or one of"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_budget_that_is_none_is_refused_in_words(budget: object, why: str) -> None:
    assert why in refusal(budget=budget)


@pytest.mark.parametrize(
    "changes",
    [
        {"idea": "too short"},
        {"idea": "   padded      "},
        {"idea": "x" * 4001},
        {"idea": "-" * 20},
        {"idea": "a bakery\x00 with bread"},
        {"idea": "a bakery\x1b[31m with bread"},
        {"idea": "a bakery\x9b with bread"},
        {"idea": "a bakery \ud800 with bread"},
        {"idea": 12345678901},
        {"idea": None},
        {"location": ""},
        {"location": "x" * 201},
        {"location": "\x07"},
        {"business_type": "  "},
        {"business_type": "x" * 101},
        {"currency": "XXX"},
        {"currency": "x" * 10_000},
        {"currency": 840},
        {"timeline": "1-week"},
        {"timeline": 12},
        {"audience": "all"},
        {"personalization": "x" * 1001},
        {"personalization": {f"wish {i}": "yes" for i in range(21)}},
        {"personalization": {"wish": "x" * 201}},
        {"personalization": {"x" * 41: "yes"}},
        {"personalization": {"wish": {"deep": "er"}}},
        {"personalization": ["wish"]},
        {"personalization": "bell \x07"},
        {"user_id": 7},
    ],
)
def test_what_has_no_place_is_refused(changes: dict[str, Any]) -> None:
    refusal(**changes)


def test_a_personalization_is_refused_in_its_own_words() -> None:
    assert "an object of short texts" in refusal(personalization=["wish"])
    assert "an object of short texts" in refusal(personalization=None)
    said = refusal(personalization="x" * 1001)
    assert "at most 1000 characters" in said
    assert "1 validation error" in said, "not one for each form that it could have had"


def test_an_idea_of_a_megabyte_is_refused_by_its_length() -> None:
    said = refusal(idea="A bakery. " * 100_000)
    assert "at most 4000 characters" in said
    assert len(said) < 2000, "the refusal does not carry the idea"


def test_what_is_kept_is_trimmed_and_whole() -> None:
    request = plan_request(idea="  A bakery\n\twith bread  ", currency=" eur ", budget=1999.6)
    assert (request.idea, request.currency) == ("A bakery\n\twith bread", "EUR")
    assert (request.budget, request.budget_amount) == (2000, 2000)
    assert PlanRequest.model_validate_json(request.model_dump_json()) == request
    assert len(plan_request(idea=f" {'x' * 4000} ").idea) == 4000


def test_brackets_and_numbers_meet() -> None:
    assert plan_request(budget="250k+") == plan_request(budget=" 250K-Plus ")
    for bracket in BRACKETS.values():
        named = plan_request(budget=bracket.name)
        assert named.bracket is bracket
        assert not named.budget_is_exact
        assert plan_request(budget=named.budget_amount).bracket is bracket
        assert plan_request(budget=bracket.low).bracket is bracket
        if bracket.high is not None:
            assert plan_request(budget=bracket.high - 1).bracket is bracket
    assert plan_request(budget="10k-25k", currency="JPY").budget_amount == 1_750_000
    assert plan_request(budget=1_750_000, currency="JPY").bracket.name == "10k-25k"
    assert plan_request(budget=0).budget_amount == 0


@pytest.mark.parametrize(
    ("code", "text", "label"),
    [
        ("USD", "$1,234,567", "under $5,000"),
        ("EUR", "€1,234,567", "under €5,000"),
        ("GBP", "£1,234,567", "under £5,000"),
        ("CAD", "CA$1,234,567", "under CA$5,000"),
        ("AUD", "A$1,234,567", "under A$5,000"),
        ("NZD", "NZ$1,234,567", "under NZ$5,000"),
        ("CHF", "CHF\u00a01’234’567", "under CHF\u00a05’000"),
        ("JPY", "¥1,234,567", "under ¥500,000"),
        ("CNY", "CN¥1,234,567", "under CN¥50,000"),
        ("INR", "₹12,34,567", "under ₹5,00,000"),
        ("BRL", "R$\u00a01.234.567", "under R$\u00a050.000"),
        ("ZAR", "R\u00a01\u00a0234\u00a0567", "under R\u00a050\u00a0000"),
    ],
)
def test_money_of_twelve_currencies(code: str, text: str, label: str) -> None:
    assert format_money(1_234_567, code) == text
    assert format_money(-1_234_567, code) == f"-{text}"
    assert bracket_label("under-5k", code) == label
    assert format_money(0, code).endswith("0")


def test_twelve_currencies_in_all() -> None:
    assert len(CURRENCIES) == 12
    assert bracket_label("5k-10k", "USD") == "$5,000 to $10,000"
    assert bracket_label("250k-plus", "USD") == "$250,000 or more"


def naive_fingerprint(fields: dict[str, Any], now: datetime) -> str:
    """The usual key of such a cache: the request as it came, and the hour."""
    return json.dumps({**fields, "timestamp": now.strftime("%Y-%m-%dT%H")})


def test_requests_that_mean_the_same_have_one_fingerprint() -> None:
    written = {**BAKERY, "idea": "A café  for\nBread, by bicycle", "location": "LEIPZIG "}
    typed = {
        **BAKERY,
        "idea": unicodedata.normalize("NFD", " a CAFÉ for bread, by Bicycle "),
        "location": "leipzig",
        "business_type": "Bakery",
        "currency": "eur",
        "audience": "public",
    }
    assert (
        PlanRequest.model_validate(written).fingerprint()
        == PlanRequest.model_validate(typed).fingerprint()
    )
    # The naive key splits them, and splits the same request at the turn of an hour.
    before, after = (datetime(2026, 1, 1, 9, *end, tzinfo=UTC) for end in ((59, 59), (0, 0)))
    assert naive_fingerprint(written, before) != naive_fingerprint(typed, before)
    assert naive_fingerprint(written, before) != naive_fingerprint(written, after.replace(hour=10))


@pytest.mark.parametrize(
    "changes",
    [
        {"idea": "A bakery for rye bread that delivers by bicycle before seven."},
        {"location": "Halle"},
        {"budget": 80_001},
        {"budget": "50k-100k"},
        {"timeline": "2-years"},
        {"business_type": "café"},
        {"currency": "USD"},
        {"personalization": {"experience": "none"}},
        {"personalization": "ten years as a baker"},
    ],
)
def test_requests_that_differ_have_different_fingerprints(changes: dict[str, Any]) -> None:
    assert plan_request(**changes).fingerprint() != plan_request().fingerprint()


def test_a_fingerprint_knows_where_its_parts_end() -> None:
    first = plan_request(personalization={"a": "b c", "d": "e"})
    again = plan_request(personalization={"d": "e", "a": "b   c"})
    other = plan_request(personalization={"a": "b", "c d": "e"})
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert len(first.fingerprint()) == 64


@given(any_request)
def test_any_request_survives_json_and_has_a_bracket(request: PlanRequest) -> None:
    again = PlanRequest.model_validate_json(request.model_dump_json())
    assert again == request
    assert again.fingerprint() == request.fingerprint()
    assert 0 <= request.budget_amount <= BUDGET_MAX
    assert bracket_label(request.bracket.name, request.currency)
