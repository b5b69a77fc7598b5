"""The facts that the offline generator assumes for a request, out of its kind of business."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import BaseModel

from crowdsafe.systems.planner.generation.arithmetic import split
from crowdsafe.systems.planner.generation.facts import (
    Channel,
    Competitor,
    CompetitorFacts,
    FinancialFacts,
    Item,
    MarketFacts,
    MarketingFacts,
    Milestone,
    Risk,
    RiskFacts,
    RoadmapFacts,
    Share,
    SummaryFacts,
)
from crowdsafe.systems.planner.generation.offline.choice import Choice
from crowdsafe.systems.planner.generation.offline.profiles import Profile, profile_of
from crowdsafe.systems.planner.generation.sections import SectionName
from crowdsafe.systems.planner.money import currency_of, format_money
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["assume"]

CUSTOMERS_MAX = 200_000

Given = Mapping[str, int | None]


def assume(request: PlanRequest, name: SectionName, figures: Given) -> BaseModel:
    """The facts of a section; ``figures`` are those of the sections before it."""
    profile = profile_of(request.business_type, request.idea)
    return _FACTS[name](request, profile, Choice(request.fingerprint()), figures)


def _financials(request: PlanRequest, profile: Profile, choice: Choice, _: Given) -> FinancialFacts:
    budget, scale = request.budget_amount, currency_of(request.currency).scale
    fixed = budget * profile.fixed_permille // 1000
    amounts = split(fixed, [weight for _, weight in profile.monthly])
    price = choice.number("price", *profile.price) * scale
    reach = choice.number("reach", *profile.reach)
    gross = fixed * reach // 10
    margin = 100 - profile.variable_percent
    price = max(price, -(-gross * 100 // (margin * CUSTOMERS_MAX)))
    last = max(4, -(-gross * 100 // (price * margin)))
    first = max(1, last * choice.number("first", 12, 35) // 100)
    return FinancialFacts(
        customer=profile.customer,
        price=price,
        variable_percent=profile.variable_percent,
        customers_first=first,
        customers_last=last,
        start_up=[Share(name=name, percent=percent) for name, percent in profile.start_up],
        marketing_percent=profile.marketing_percent,
        monthly=[
            Item(name=name, amount=amount)
            for (name, _), amount in zip(profile.monthly, amounts, strict=True)
        ],
    )


def _market(_: PlanRequest, profile: Profile, choice: Choice, figures: Given) -> MarketFacts:
    serviceable = choice.number("serviceable", 15, 45)
    obtainable = choice.number("obtainable", 3, 9)
    customers = max(figures.get("customers_last") or 0, 1)
    buyers = _round_up(-(-customers * 10_000 // (serviceable * obtainable)))
    price = figures.get("price") or 1
    return MarketFacts(
        buyers=profile.buyers,
        buyers_total=buyers,
        spend_a_year=price * 12,
        serviceable_percent=serviceable,
        obtainable_percent=obtainable,
        trends=[
            "Buyers compare offers online before they come, wherever they buy in the end",
            choice.one("trend", _TRENDS),
        ],
    )


def _round_up(count: int) -> int:
    """Up to two leading digits, and so far that no percentage rounds the customers away."""
    unit: int = 10 ** max(2, len(str(count)) - 2)
    return -(-count // unit) * unit


_TRENDS = (
    "People pay for what saves them time, and look closely at what does not",
    "Firms and households put off large purchases and keep small, regular ones",
    "Recommendations by people one knows count for more than advertisements",
    "Short supply chains and known makers are worth a little more to many buyers",
)


def _competitors(
    request: PlanRequest, profile: Profile, choice: Choice, _: Given
) -> CompetitorFacts:
    place = _place(request)
    return CompetitorFacts(
        competitors=[
            Competitor(
                kind=profile.rival[:1].upper() + profile.rival[1:],
                strength="Customers know it already",
                weakness="It cannot answer a special wish quickly",
                answer="Be plainly better at the one thing that the idea is about",
                threat=choice.number("rival", 3, 5),
            ),
            Competitor(
                kind="Large providers with a known name",
                strength="Low prices, and advertising all year",
                weakness="Nobody there knows the customer by name",
                answer=f"Answer the same day, and know {place}",
                threat=choice.number("large", 2, 4),
            ),
            Competitor(
                kind="Other newcomers",
                strength="As quick and as keen",
                weakness="Few last, and customers have noticed",
                answer="Sell on regular terms, so that customers stay",
                threat=choice.number("new", 1, 3),
            ),
            Competitor(
                kind="Going without",
                strength="It costs nothing",
                weakness="The need remains",
                answer="A first purchase that is small and without risk",
                threat=choice.number("none", 2, 4),
            ),
        ]
    )


def _risks(request: PlanRequest, profile: Profile, choice: Choice, figures: Given) -> RiskFacts:
    gap = figures.get("funding_gap") or 0
    money = format_money(gap, request.currency)
    costs = format_money(3 * (figures.get("monthly_costs") or 0), request.currency)
    return RiskFacts(
        risks=[
            Risk(
                risk="The cash runs out before the business carries itself",
                likelihood=4 if gap else 2,
                impact=5,
                mitigation=(
                    f"Agree on {money} more before the start, or start smaller"
                    if gap
                    else f"Keep three months of fixed costs, {costs}, in hand"
                ),
            ),
            Risk(
                risk=profile.danger,
                likelihood=choice.number("danger", 2, 4),
                impact=4,
                mitigation=profile.cure,
            ),
            Risk(
                risk="Customers come later than planned",
                likelihood=3,
                impact=4,
                mitigation="Sell to ten before spending on the rest; see the cautious scenario",
            ),
            Risk(
                risk="A person whom all depends on falls ill",
                likelihood=2,
                impact=choice.number("person", 3, 4),
                mitigation="Write down how the work is done; name a stand-in",
            ),
            Risk(
                risk=f"Rules or permits in {_place(request)} take longer than hoped",
                likelihood=choice.number("rules", 1, 3),
                impact=3,
                mitigation="Ask the authority before signing anything; plan a month of delay",
            ),
        ]
    )


def _marketing(request: PlanRequest, profile: Profile, choice: Choice, _: Given) -> MarketingFacts:
    names = _ONLINE_CHANNELS if profile.online else _LOCAL_CHANNELS
    weights = [choice.number(f"channel/{name}", low, high) for name, low, high, _ in names]
    shares = split(100, weights)
    return MarketingFacts(
        message=f"Say in one sentence what is better here than elsewhere in {_place(request)}, and "
        "show it",
        channels=[
            Channel(name=name, percent=percent, use=use)
            for (name, _, _, use), percent in zip(names, shares, strict=True)
        ],
    )


_ONLINE_CHANNELS = (
    ("Search advertising", 25, 40, "People who are looking for it now"),
    ("Pages that answer questions", 15, 25, "Being found without paying, from month 4 on"),
    ("Mail to those who signed up", 10, 15, "Turning interest into a first purchase"),
    ("Social media", 15, 25, "Showing how it is made and used"),
    ("Rewards for recommendations", 10, 20, "Customers who bring customers"),
)
_LOCAL_CHANNELS = (
    ("Opening weeks", 20, 35, "A reason to come once"),
    ("Map and search entries", 15, 25, "Being found by those nearby"),
    ("Signs, leaflets, local paper", 15, 25, "Being seen in the neighbourhood"),
    ("Social media", 10, 20, "Pictures of work and people"),
    ("Rewards for recommendations", 10, 20, "Customers who bring customers"),
)


def _roadmap(request: PlanRequest, profile: Profile, _: Choice, figures: Given) -> RoadmapFacts:
    months = request.months
    first, last = (figures.get(key) or 0 for key in ("customers_first", "customers_last"))
    stages = [
        Milestone(month=0, title="Ready to open", outcome="Permits, accounts and tools in place"),
        Milestone(month=1, title="First sales", outcome=f"{first:,} {profile.customer}"),
    ]
    if months >= 3:
        half = (months + 1) // 2
        wanted = first + (last - first) * (half - 1) // max(1, months - 1)
        stages.append(
            Milestone(
                month=half,
                title="Half way",
                outcome=f"{wanted:,} {profile.customer}; prices and costs checked",
            )
        )
    profitable, even = figures.get("profitable_month"), figures.get("break_even_month")
    if profitable is not None:
        stages.append(
            Milestone(
                month=profitable, title="A month pays for itself", outcome="Profit is not negative"
            )
        )
    if even is not None:
        stages.append(
            Milestone(month=even, title="Break-even", outcome="All costs so far are earned back")
        )
    if months > 1:
        stages.append(
            Milestone(
                month=months, title="End of this plan", outcome=f"{last:,} {profile.customer}"
            )
        )
    return RoadmapFacts(milestones=stages)


def _summary(request: PlanRequest, profile: Profile, _: Choice, figures: Given) -> SummaryFacts:
    margin, gap = figures.get("gross_margin_percent"), figures.get("funding_gap") or 0
    strengths = [f"A clear offer for {_place(request)}, sold {profile.where}"]
    if margin is not None:
        strengths.append(f"A gross margin of {margin}%")
    strengths.append("Fixed costs that are known from the first month")
    needs = ["Proof from ten paying customers before the larger costs are taken on"]
    if gap:
        needs.insert(0, f"{format_money(gap, request.currency)} beyond the budget")
    return SummaryFacts(strengths=strengths, needs=needs)


def _place(request: PlanRequest) -> str:
    return " ".join(request.location.split())[:100]


_FACTS: dict[SectionName, Callable[[PlanRequest, Profile, Choice, Given], BaseModel]] = {
    "financials": _financials,
    "market": _market,
    "competitors": _competitors,
    "risks": _risks,
    "marketing": _marketing,
    "roadmap": _roadmap,
    "executive_summary": _summary,
}
