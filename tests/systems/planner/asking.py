"""Requests for plans: one to start from, and any at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from crowdsafe.systems.planner.money import CURRENCIES
from crowdsafe.systems.planner.request import BRACKETS, BUDGET_MAX, TIMELINES, PlanRequest

BAKERY: dict[str, Any] = {
    "idea": "A bakery for sourdough bread that delivers by bicycle before seven.",
    "location": "Leipzig",
    "budget": 80_000,
    "timeline": "1-year",
    "business_type": "bakery",
    "currency": "EUR",
    "personalization": {"experience": "ten years as a baker"},
}


def plan_request(**changes: Any) -> PlanRequest:
    return PlanRequest.model_validate({**BAKERY, **changes})


_WORDS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=60
).filter(lambda text: any(c.isalnum() for c in text.strip()))
_TYPES = st.sampled_from(["bakery", "SaaS", "online shop", "Café", "yoga", "plumbing", "x y z"])

any_request = st.builds(
    plan_request,
    idea=_WORDS.map(lambda text: f"An idea about {text}"),
    location=_WORDS,
    business_type=st.one_of(_TYPES, _WORDS),
    budget=st.one_of(st.sampled_from(list(BRACKETS)), st.integers(0, BUDGET_MAX)),
    timeline=st.sampled_from(list(TIMELINES)),
    currency=st.sampled_from(list(CURRENCIES)),
    personalization=st.one_of(
        st.just(""), st.dictionaries(st.sampled_from(["tone", "focus"]), _WORDS, max_size=2)
    ),
)
