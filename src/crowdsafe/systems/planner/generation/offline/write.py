"""The sentences of a plan that no language model wrote: each says something of this request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crowdsafe.systems.planner.generation.build import Built
from crowdsafe.systems.planner.generation.facts import (
    CompetitorFacts,
    FinancialFacts,
    Headline,
    MarketFacts,
    MarketingFacts,
    RiskFacts,
    RoadmapFacts,
)
from crowdsafe.systems.planner.generation.offline.profiles import profile_of
from crowdsafe.systems.planner.generation.sections import SectionName
from crowdsafe.systems.planner.money import format_money
from crowdsafe.systems.planner.request import PlanRequest, bracket_label

__all__ = ["gist", "headline", "write"]

GIST_CHARS_MAX = 180

Given = Mapping[str, int | None]


def write(request: PlanRequest, name: SectionName, built: Built, figures: Given) -> list[str]:
    """The paragraphs of a section that is built; ``figures`` are those of all sections so far."""
    known = {**figures, **built.figures}
    return [text for text in _WRITERS[name](_Words(request, known), built) if text]


def headline(request: PlanRequest) -> Headline:
    """The plan's title and its pitch."""
    words = _Words(request, {})
    kind = words.kind[:1].upper() + words.kind[1:]
    return Headline(title=f"{kind} in {words.place}"[:120], pitch=gist(request.idea))


def gist(idea: str) -> str:
    """The first sentence of an idea, at most 180 characters of it, ended by a full stop."""
    plain = " ".join(idea.split())
    for end in (". ", "! ", "? "):
        head, found, _ = plain.partition(end)
        if found and len(head) >= 10:
            plain = head
    if len(plain) > GIST_CHARS_MAX:
        plain = plain[:GIST_CHARS_MAX].rsplit(" ", 1)[0] + "…"
    return plain if plain[-1] in ".!?…" else f"{plain}."


class _Words:
    """A request and its figures, as words."""

    def __init__(self, request: PlanRequest, figures: Given) -> None:
        self.request = request
        self.figures = figures
        self.profile = profile_of(request.business_type, request.idea)
        self.place = " ".join(request.location.split())
        self.kind = " ".join(request.business_type.split())
        self.idea = gist(request.idea)

    def number(self, name: str) -> int:
        return self.figures.get(name) or 0

    def money(self, name: str) -> str:
        return format_money(self.number(name), self.request.currency)

    def count(self, name: str) -> str:
        return f"{self.number(name):,}"

    @property
    def months(self) -> str:
        return _months(self.request.months)

    @property
    def budget(self) -> str:
        money = format_money(self.request.budget_amount, self.request.currency)
        if self.request.budget_is_exact:
            return money
        bracket = bracket_label(self.request.bracket.name, self.request.currency)
        return f"{money} (the middle of {bracket})"

    @property
    def break_even(self) -> str:
        even, estimate = (
            self.figures.get("break_even_month"),
            self.figures.get("break_even_estimate"),
        )
        if even is not None:
            return f"All costs, those of the start included, are earned back in month {even}."
        if estimate is not None:
            return (
                f"Break-even is not reached within {self.months}; at the last month's profit it "
                f"would be in month {estimate}."
            )
        return (
            f"Break-even is not reached within {self.months}, and the last month still makes no "
            "profit: prices, costs or the number of customers have to change first."
        )

    @property
    def need(self) -> str:
        gap, low = self.number("funding_gap"), self.number("cash_low_month")
        if gap:
            return (
                f"The budget does not last: cash is lowest in month {low}, and "
                f"{self.money('funding_gap')} "
                "more is needed to get through."
            )
        when = "at the start" if low == 0 else f"in month {low}"
        return f"The budget lasts: cash is lowest {when}, at {self.money('cash_low')}."


def _months(count: int) -> str:
    return "one month" if count == 1 else f"{count} months"


def _executive_summary(words: _Words, _: Built) -> list[str]:
    profit = words.number("profit_total")
    outcome = "profit" if profit >= 0 else "loss"
    amount = format_money(abs(profit), words.request.currency)
    return [
        f"This plan is for a business of the kind “{words.kind}” in {words.place}. {words.idea}",
        (
            f"It starts with {words.budget} and looks {words.months} ahead. Of the budget, "
            f"{words.money('start_up_total')} are spent before the first sale and "
            f"{words.money('working_capital')} stay as working capital. Over the timeline the "
            f"business "
            f"takes in {words.money('revenue_total')} and makes a {outcome} of {amount} from "
            f"running, "
            "before tax and before the costs of the start."
        ),
        f"{words.break_even} {words.need}",
        (
            f"To get there it has to win a market worth {words.money('som')} a year, out of "
            f"{words.money('sam')} within reach and {words.money('tam')} in all. The assumptions "
            f"behind "
            "each number stand in the sections that follow; replace them with what you know."
        ),
        _wishes(words),
    ]


def _wishes(words: _Words) -> str:
    wishes = words.request.wishes
    if not wishes:
        return ""
    said = "; ".join(f"{name}: {text}" if name else text for name, text in wishes)
    plain = " ".join(said.split())
    return f"You asked for this to be kept in mind: {plain}{'' if plain[-1] in '.!?' else '.'}"


def _market(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, MarketFacts)
    share = words.figures.get("planned_percent_of_som")
    fit = (
        f"The financial section ends with sales of {words.money('planned_a_year')} a year, which "
        f"is "
        f"{share}% of that."
        if share is not None
        else ""
    )
    return [
        (
            f"The buyers are {facts.buyers}. The plan assumes {facts.buyers_total:,} of them, each "
            f"spending {format_money(facts.spend_a_year, words.request.currency)} a year: a total "
            f"market (TAM) of {words.money('tam')}."
        ),
        (
            f"From {words.place}, sold {words.profile.where}, {facts.serviceable_percent}% of "
            f"them can "
            f"be served (SAM, {words.money('sam')}), and {facts.obtainable_percent}% of those can "
            f"be "
            f"won within {words.months} (SOM, {words.money('som')}, "
            f"{words.count('buyers_obtainable')} "
            f"customers). {fit}"
        ),
        (
            "These are assumptions to be checked, not statistics: count the households or firms in "
            f"{words.place}, and ask twenty of them what they spend now. If there are fewer than "
            f"{words.count('buyers_serviceable')} within reach, the plan needs a larger area or a "
            "larger share."
        ),
        "What moves this market: " + "; ".join(_lower(trend) for trend in facts.trends) + ".",
    ]


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _competitors(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, CompetitorFacts)
    first = max(facts.competitors, key=lambda one: one.threat)
    return [
        (
            f"Whoever needs this in {words.place} has a way to do it today. The table names "
            f"{len(facts.competitors)} kinds of competitors and no single company: fill in the "
            f"names "
            "after a walk and an hour of searching."
        ),
        (
            f"The most serious is this: {_lower(first.kind)}. {_sentence(first.strength)} But "
            f"{_lower(first.weakness)}. Our answer: {_lower(first.answer)}."
        ),
        f"What should set this business apart is the idea itself: {words.idea}",
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _financials(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, FinancialFacts)
    margin = words.figures.get("gross_margin_percent")
    paying = words.figures.get("profitable_month")
    covers = (
        f"Month {paying} is the first to cover its own costs."
        if paying is not None
        else "No month of the timeline covers its own costs."
    )
    kept = f", a gross margin of {margin}%" if margin is not None else ""
    return [
        (
            f"Assumptions: a customer pays {format_money(facts.price, words.request.currency)} a "
            f"month "
            f"on average; each sale costs {facts.variable_percent}% of its price{kept}; fixed "
            f"costs are "
            f"{words.money('monthly_costs')} a month; {facts.customer} grow evenly from "
            f"{words.count('customers_first')} in month 1 to {words.count('customers_last')} in "
            f"month "
            f"{words.request.months}. Tax, interest and the owner's own pay beyond the wages "
            f"listed are "
            "left out."
        ),
        (
            f"Of the budget of {words.budget}, {words.money('start_up_total')} go into the start "
            f"and "
            f"{words.money('working_capital')} remain. Revenue over {words.months} is "
            f"{words.money('revenue_total')}. {covers} {words.break_even}"
        ),
        (
            f"{words.need} The scenarios show the same plan with 70% and with 130% of the "
            f"customers: "
            "decide on the cautious one."
        ),
    ]


def _risks(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, RiskFacts)
    first = max(facts.risks, key=lambda risk: risk.likelihood * risk.impact)
    return [
        (
            f"The largest risk is this: {_lower(first.risk)} (score "
            f"{first.likelihood * first.impact} "
            f"of 25). What is done about it: {_lower(first.mitigation)}."
        ),
        (
            f"For a business of the kind “{words.kind}” the number to watch from the first month "
            f"is the "
            f"fixed cost of {words.money('monthly_costs')}: it falls due whether customers come "
            f"or not. "
            f"With {words.money('working_capital')} in hand at the start, "
            f"{_lasting(words.number('working_capital'), words.number('monthly_costs'))}"
        ),
    ]


def _lasting(reserve: int, monthly: int) -> str:
    if monthly == 0:
        return "nothing falls due, since the plan assumes no paid costs at all."
    return f"it is covered for {_months(reserve // monthly)} without a single sale."


def _marketing(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, MarketingFacts)
    largest = max(facts.channels, key=lambda channel: channel.percent)
    cost = words.figures.get("cost_of_a_customer")
    each = (
        f"With {words.count('customers_last')} customers at the end of the timeline that is "
        f"{format_money(cost, words.request.currency)} for each."
        if cost is not None
        else ""
    )
    return [
        f"The message: {_lower(facts.message)}. In one sentence: {words.idea}",
        (
            f"{words.money('launch_marketing')} are set aside for the launch. The largest part, "
            f"{largest.percent}%, goes into {_lower(largest.name)}: {_lower(largest.use)}. {each}"
        ),
        (
            "After three months, move the money to the channel that brought the most customers "
            "for its "
            "cost, and stop the weakest."
        ),
    ]


def _roadmap(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, RoadmapFacts)
    return [
        (
            f"The timeline is {words.months} from the first sale. Before it, "
            f"{words.money('start_up_total')} "
            f"have to be spent well: on what is needed to open in {words.place}, and nothing more."
        ),
        (
            f"The table holds what must be reached by when. {words.break_even} If a milestone is "
            f"missed "
            "by a month, go back to the assumptions of the financial section before spending more."
        ),
    ]


_WRITERS: dict[SectionName, Callable[[_Words, Built], list[str]]] = {
    "executive_summary": _executive_summary,
    "market": _market,
    "competitors": _competitors,
    "financials": _financials,
    "risks": _risks,
    "marketing": _marketing,
    "roadmap": _roadmap,
}
