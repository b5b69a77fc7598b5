"""Ready-made requests for the usual kinds of business: to start from, and to make ahead of time."""

from __future__ import annotations

from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["STARTERS"]

_USUAL = (
    (
        "Coffee shop",
        "A neighbourhood coffee shop that roasts on site and sells beans by subscription",
        "Portland, Oregon",
        "50k-100k",
        "1-year",
    ),
    (
        "Online shop",
        "An online shop for repairable household goods, with spare parts and repair guides",
        "Austin, Texas",
        "10k-25k",
        "6-months",
    ),
    (
        "Food truck",
        "A food truck with a short menu of Lebanese street food near offices at noon",
        "Denver, Colorado",
        "25k-50k",
        "6-months",
    ),
    (
        "Cleaning service",
        "A cleaning service for small offices that pays by the hour and uses safe products",
        "Columbus, Ohio",
        "5k-10k",
        "3-months",
    ),
    (
        "Tutoring",
        "Tutoring in mathematics for secondary school pupils, in small groups and online",
        "Raleigh, North Carolina",
        "under-5k",
        "3-months",
    ),
    (
        "Fitness studio",
        "A small fitness studio for people over fifty, with classes in the morning",
        "Tampa, Florida",
        "100k-250k",
        "1-year",
    ),
)
STARTERS: tuple[PlanRequest, ...] = tuple(
    PlanRequest.model_validate(
        {
            "business_type": kind,
            "idea": idea,
            "location": location,
            "budget": budget,
            "timeline": timeline,
            "currency": "USD",
            "audience": "public",
        }
    )
    for kind, idea, location, budget, timeline in _USUAL
)
"""One public request for each kind: whoever sends it as it is shares the plan."""
