"""The facts of each section, as the language model or the offline generator states them.

Facts are assumptions; all arithmetic on them is ours (`arithmetic`), so that tables add up
whoever stated the facts. Money in whole units of the currency, percentages as integers.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from crowdsafe.systems.planner.generation.sections import SectionName

__all__ = [
    "FACTS",
    "Channel",
    "Competitor",
    "CompetitorFacts",
    "FinancialFacts",
    "Headline",
    "Item",
    "MarketFacts",
    "MarketingFacts",
    "Milestone",
    "Paragraphs",
    "Risk",
    "RiskFacts",
    "RoadmapFacts",
    "Share",
    "SummaryFacts",
]

AMOUNT_MAX = 10**12
NUMBER_MAX = 2**53 - 1
"""No figure may pass this: JavaScript could not read it exactly."""


def _printable(text: str) -> str:
    """Without the characters that no database stores as text, or that no page shows."""
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    if not kept.strip():
        raise ValueError("must hold words")
    return kept


_Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=120),
    AfterValidator(_printable),
]
_Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=400),
    AfterValidator(_printable),
]
_Paragraph = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    AfterValidator(_printable),
]
_Percent = Annotated[int, Field(ge=0, le=100)]
_Amount = Annotated[int, Field(ge=0, le=AMOUNT_MAX)]
_Score = Annotated[int, Field(ge=1, le=5)]


class _Facts(BaseModel):
    """Unknown members are ignored: a language model may add some."""

    model_config = ConfigDict(frozen=True)


class Share(_Facts):
    """A named share of the budget."""

    name: _Name
    percent: _Percent


class Item(_Facts):
    """A named amount a month."""

    name: _Name
    amount: _Amount


class FinancialFacts(_Facts):
    """Assumptions of the projections.

    ``price`` is what a customer pays in a month on average, ``variable_percent`` the part of it
    that each sale costs; paying customers grow evenly from ``customers_first`` in month 1 to
    ``customers_last``. ``start_up`` and ``marketing_percent`` are shares of the budget, at most
    100% together; what is left is working capital.
    """

    customer: _Name
    price: Annotated[int, Field(ge=1, le=10**9)]
    variable_percent: Annotated[int, Field(ge=0, le=95)]
    customers_first: Annotated[int, Field(ge=0, le=10**7)]
    customers_last: Annotated[int, Field(ge=0, le=10**7)]
    start_up: Annotated[list[Share], Field(min_length=1, max_length=10)]
    marketing_percent: _Percent
    monthly: Annotated[list[Item], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if sum(share.percent for share in self.start_up) + self.marketing_percent > 100:
            raise ValueError("start-up shares and marketing are more than 100% of the budget")
        if self.price * max(self.customers_first, self.customers_last) * 2 * 36 > NUMBER_MAX:
            raise ValueError("price × customers is too large")
        return self


class MarketFacts(_Facts):
    """Who could buy: all buyers, what one spends a year, and the parts that can be served and won.

    ``serviceable_percent`` of all buyers can be reached from the location;
    ``obtainable_percent`` of those can be won within the timeline.
    """

    buyers: _Line
    buyers_total: Annotated[int, Field(ge=1, le=10**10)]
    spend_a_year: Annotated[int, Field(ge=1, le=10**11)]
    serviceable_percent: Annotated[int, Field(ge=1, le=100)]
    obtainable_percent: Annotated[int, Field(ge=1, le=100)]
    trends: Annotated[list[_Line], Field(min_length=1, max_length=6)]

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.buyers_total * self.spend_a_year > NUMBER_MAX:
            raise ValueError("buyers × spend is too large")
        return self


class Competitor(_Facts):
    """A kind of competitor; ``threat`` from 1 (low) to 5."""

    kind: _Name
    strength: _Line
    weakness: _Line
    answer: _Line
    threat: _Score


class CompetitorFacts(_Facts):
    """Who else serves the need, as kinds of competitors."""

    competitors: Annotated[list[Competitor], Field(min_length=2, max_length=8)]


class Risk(_Facts):
    """A risk; likelihood and impact from 1 (low) to 5."""

    risk: _Name
    likelihood: _Score
    impact: _Score
    mitigation: _Line


class RiskFacts(_Facts):
    """What may go wrong."""

    risks: Annotated[list[Risk], Field(min_length=3, max_length=10)]


class Channel(_Facts):
    """A way to reach customers, with its share of the launch marketing."""

    name: _Name
    percent: _Percent
    use: _Line


class MarketingFacts(_Facts):
    """What to say and where; the channels' shares sum to 100."""

    message: _Line
    channels: Annotated[list[Channel], Field(min_length=2, max_length=8)]

    @model_validator(mode="after")
    def _all_of_it(self) -> Self:
        if sum(channel.percent for channel in self.channels) != 100:
            raise ValueError("the shares of the channels must sum to 100")
        return self


class Milestone(_Facts):
    """What is reached by the end of a month; month 0 is before the start."""

    month: Annotated[int, Field(ge=0, le=36)]
    title: _Name
    outcome: _Line


class RoadmapFacts(_Facts):
    """What is reached by when."""

    milestones: Annotated[list[Milestone], Field(min_length=2, max_length=12)]


class SummaryFacts(_Facts):
    """What speaks for the plan, and what it needs."""

    strengths: Annotated[list[_Line], Field(min_length=2, max_length=5)]
    needs: Annotated[list[_Line], Field(min_length=1, max_length=5)]


class Paragraphs(_Facts):
    """The text of a section."""

    paragraphs: Annotated[list[_Paragraph], Field(min_length=1, max_length=8)]


class Headline(_Facts):
    """The plan's name and its one-sentence pitch."""

    title: _Name
    pitch: _Line


FACTS: dict[SectionName, type[BaseModel]] = {
    "financials": FinancialFacts,
    "market": MarketFacts,
    "competitors": CompetitorFacts,
    "risks": RiskFacts,
    "marketing": MarketingFacts,
    "roadmap": RoadmapFacts,
    "executive_summary": SummaryFacts,
}
"""The facts of each section, in the order in which they are asked for."""
