"""A plan without a language model: real arithmetic on assumptions that the plan states."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from crowdsafe.systems.planner.generation.build import build
from crowdsafe.systems.planner.generation.facts import FACTS
from crowdsafe.systems.planner.generation.offline.assume import assume
from crowdsafe.systems.planner.generation.offline.write import headline, write
from crowdsafe.systems.planner.generation.sections import (
    SECTIONS,
    TITLES,
    Plan,
    Section,
    SectionName,
)
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["assume", "headline", "offline_plan", "offline_section", "write"]


def offline_plan(request: PlanRequest) -> Plan:
    """A whole plan, from the request alone.

    Holds: the same request (`PlanRequest.fingerprint`) always has the same figures; tables add
    up, shares sum to 100%, the break-even month is the first at whose end profit so far covers
    all costs, the summary quotes the other sections. Does not hold: knowledge of the place or of
    the market; the assumptions are rules of thumb for a kind of business, and the plan says so.
    Proved by ``tests/systems/planner/test_offline.py``.
    """
    figures: dict[str, int | None] = {}
    sections: dict[SectionName, Section] = {}
    for name in FACTS:
        sections[name] = offline_section(request, name, figures)
        figures |= sections[name].figures
    head = headline(request)
    return Plan(
        title=head.title,
        pitch=head.pitch,
        currency=request.currency,
        sections={name: sections[name] for name in SECTIONS},
        source="offline",
        model=None,
        calls=0,
    )


def offline_section(
    request: PlanRequest,
    name: SectionName,
    figures: Mapping[str, int | None],
    facts: BaseModel | None = None,
) -> Section:
    """One section; with ``facts`` of the language model, only its text is ours."""
    built = build(request, name, facts or assume(request, name, figures), figures)
    return Section(
        name=name,
        title=TITLES[name],
        paragraphs=write(request, name, built, figures),
        tables=built.tables,
        figures=built.figures,
        source="offline" if facts is None else "mixed",
    )
