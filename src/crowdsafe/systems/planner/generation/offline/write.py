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
        self.months = _months(request.months)

    def number(self, name: str) -> int:
        return self.figures.get(name) or 0

    def amount(self, amount: int) -> str:
        return format_money(amount, self.request.currency)

    def money(self, name: str) -> str:
        return self.amount(self.number(name))

    @property
    def penniless(self) -> bool:
        """Whether neither the start nor a month costs anything."""
        return self.number("start_up_total") == 0 and self.number("monthly_costs") == 0

    @property
    def budget(self) -> str:
        money = self.amount(self.request.budget_amount)
        if self.request.budget_is_exact:
            return money
        bracket = bracket_label(self.request.bracket.name, self.request.currency)
        return f"{money} (the middle of {bracket})"

    @property
    def break_even(self) -> str:
        even = self.figures.get("break_even_month")
        estimate = self.figures.get("break_even_estimate")
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
        low = self.number("cash_low_month")
        if self.number("funding_gap"):
            return (
                f"The budget does not last: cash is lowest in month {low}, and "
                f"{self.money('funding_gap')} more is needed to get through."
            )
        if self.penniless:
            return "No money is needed for as long as nobody has to be paid."
        when = "at the start" if low == 0 else f"in month {low}"
        return f"The budget lasts: cash is lowest {when}, at {self.money('cash_low')}."


def _months(count: int) -> str:
    return "one month" if count == 1 else f"{count} months"


def _customers(count: int) -> str:
    return "one customer" if count == 1 else f"{count:,} customers"


def _said(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _lower(text: str) -> str:
    """As the middle of a sentence; SEO stays SEO."""
    shout = text[1:2].isupper()
    return (text if shout else text[:1].lower() + text[1:]).rstrip(".")


def _executive_summary(words: _Words, _: Built) -> list[str]:
    profit = words.number("profit_total")
    outcome = "profit" if profit >= 0 else "loss"
    uses = (
        "Nothing is spent before the first sale, nobody is paid and nothing is rented."
        if words.penniless
        else f"Of the budget, {words.money('start_up_total')} is spent before the first sale and "
        f"{words.money('working_capital')} stays as working capital."
    )
    return [
        f"This plan is for a business of the kind “{words.kind}” in {words.place}. {words.idea}",
        _said(
            f"It starts with {words.budget} and looks {words.months} ahead.",
            uses,
            f"Over the timeline the business takes in {words.money('revenue_total')} and makes a",
            f"{outcome} of {words.amount(abs(profit))} from running, before tax and before the",
            "costs of the start.",
        ),
        f"{words.break_even} {words.need}",
        _said(
            f"To get there it has to win a market worth {words.money('som')} a year, out of",
            f"{words.money('sam')} within reach and {words.money('tam')} in all.",
            "The assumptions behind each number stand in the sections that follow; replace them",
            "with what you know.",
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
        f"is {share}% of that."
        if share is not None
        else ""
    )
    return [
        _said(
            f"The buyers are {_lower(facts.buyers)}.",
            f"The plan assumes {facts.buyers_total:,} of them, each spending",
            f"{words.amount(facts.spend_a_year)} a year: a total market (TAM) of",
            f"{words.money('tam')}.",
        ),
        _said(
            f"From {words.place}, sold {words.profile.where}, {facts.serviceable_percent}% of",
            f"them can be served (SAM, {words.money('sam')}), and {facts.obtainable_percent}% of",
            f"those can be won within {words.months} (SOM, {words.money('som')},",
            f"{_customers(words.number('buyers_obtainable'))}).",
            fit,
        ),
        _said(
            "These are assumptions to be checked, not statistics: count the households or firms",
            f"in {words.place}, and ask twenty of them what they spend now. If there are fewer",
            f"than {words.number('buyers_serviceable'):,} within reach, the plan needs a larger",
            "area or a larger share.",
        ),
        "What moves this market: " + "; ".join(_lower(trend) for trend in facts.trends) + ".",
    ]


def _competitors(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, CompetitorFacts)
    first = max(facts.competitors, key=lambda one: one.threat)
    return [
        _said(
            f"Whoever needs this in {words.place} has a way to do it today. The table names",
            f"{len(facts.competitors)} kinds of competitors and no single company: fill in the",
            "names after a walk and an hour of searching.",
        ),
        _said(
            f"The most serious is this: {_lower(first.kind)}. {_sentence(first.strength)}",
            f"But {_lower(first.weakness)}. Our answer: {_lower(first.answer)}.",
        ),
        f"What should set this business apart is the idea itself: {words.idea}",
    ]


def _financials(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, FinancialFacts)
    margin, paying = (words.figures.get(k) for k in ("gross_margin_percent", "profitable_month"))
    first, last = words.number("customers_first"), words.number("customers_last")
    growth = (
        f"{facts.customer}: {first:,} in the one month"
        if words.request.months == 1
        else f"{facts.customer} go evenly from {first:,} in month 1 to {last:,} in month "
        f"{words.request.months}"
    )
    return [
        _said(
            f"Assumptions: a customer pays {words.amount(facts.price)} a month on average;",
            f"each sale costs {facts.variable_percent}% of its price",
            f"(a gross margin of {margin}%);" if margin is not None else "(no sales);",
            f"fixed costs are {words.money('monthly_costs')} a month; {growth}.",
            "Tax, interest and the owner's own pay beyond the wages listed are left out. They are",
            "rules of thumb: put an offer or a count of your own in the place of each.",
        ),
        _said(
            ""
            if words.penniless
            else f"Of the budget of {words.budget}, {words.money('start_up_total')} goes into the "
            f"start and {words.money('working_capital')} remains.",
            f"Revenue over {words.months} is {words.money('revenue_total')}.",
            f"Month {paying} is the first to cover its own costs."
            if paying is not None
            else "No month of the timeline covers its own costs.",
            words.break_even,
        ),
        _said(
            words.need,
            "The scenarios show the same plan with 70% and with 130% of the customers: decide on",
            "the cautious one.",
        ),
    ]


def _risks(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, RiskFacts)
    first = max(facts.risks, key=lambda risk: risk.likelihood * risk.impact)
    monthly, reserve = words.number("monthly_costs"), words.number("working_capital")
    watched = (
        "No money falls due while there are no customers, since the plan assumes no paid costs at "
        "all: what is at risk is time. Decide beforehand how many weeks it may take."
        if monthly == 0
        else f"For a business of the kind “{words.kind}” the number to watch from the first month "
        f"is the fixed cost of {words.amount(monthly)}: it falls due whether customers come or "
        f"not. The {words.amount(reserve)} in hand at the start covers it for "
        f"{_months(reserve // monthly)} without a single sale."
    )
    return [
        _said(
            f"The largest risk is this: {_lower(first.risk)} (score",
            f"{first.likelihood * first.impact} of 25).",
            f"What is done about it: {_lower(first.mitigation)}.",
        ),
        watched,
    ]


def _marketing(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, MarketingFacts)
    largest = max(facts.channels, key=lambda channel: channel.percent)
    money, cost = words.number("launch_marketing"), words.figures.get("cost_of_a_customer")
    begin = (
        f"{words.amount(money)} is set aside for the launch."
        if money
        else "There is no money for the launch, so the channels get time instead, in these shares."
    )
    each = (
        f"With {_customers(words.number('customers_last'))} at the end of the timeline that is "
        f"{words.amount(cost)} for each."
        if money and cost is not None
        else ""
    )
    return [
        f"What to say is the idea itself: {words.idea} {_sentence(facts.message)}",
        _said(
            begin,
            f"The largest part, {largest.percent}%, goes into {_lower(largest.name)}:",
            f"{_lower(largest.use)}.",
            each,
        ),
        "After three months, put more into the channel that brought the most customers for its "
        "cost, and stop the weakest."
        if words.request.months > 3
        else "Ask every customer how they heard of it: that decides where the next budget goes.",
    ]


def _roadmap(words: _Words, built: Built) -> list[str]:
    facts = built.facts
    assert isinstance(facts, RoadmapFacts)
    before = (
        ""
        if words.penniless
        else f"Before it, {words.money('start_up_total')} has to be spent well: on what is needed "
        f"to open in {words.place}, and nothing more."
    )
    return [
        _said(f"The timeline is {words.months} from the first sale.", before),
        _said(
            "The table holds what must be reached by when.",
            words.break_even,
            "If a milestone is missed by a month, go back to the assumptions of the financial",
            "section before spending more.",
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
