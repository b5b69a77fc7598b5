"""The arithmetic of a plan: facts in, tables and figures out; whole numbers only, nothing lost.

Figures are named numbers that other sections quote; money in whole units of the currency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from crowdsafe.systems.planner.generation.facts import FinancialFacts

__all__ = ["SCENARIOS", "Month", "Projection", "project", "split"]

SCENARIOS = (("Cautious", 70), ("Expected", 100), ("Ambitious", 130))
"""The scenarios: name, and paying customers as a percentage of the expected."""


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Split a whole amount by weights, by the largest remainder: the parts sum to the amount.

    Weights must not be negative; when all are 0 the parts are too (and the amount must be 0).
    """
    whole = sum(weights)
    if whole == 0:
        assert amount == 0, "nothing to split by"
        return [0] * len(weights)
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(amount * weights[i] % whole), i))
    for i in by_remainder[: amount - sum(parts)]:
        parts[i] += 1
    return parts


@dataclass(frozen=True, slots=True)
class Month:
    """One month of a projection; ``cumulative`` and ``cash`` are at its end."""

    number: int
    customers: int
    revenue: int
    variable: int
    fixed: int
    profit: int
    cumulative: int
    cash: int

    @property
    def gross(self) -> int:
        """Revenue less what the sales themselves cost."""
        return self.revenue - self.variable


@dataclass(frozen=True, slots=True)
class Projection:
    """A budget's way through the months of a timeline, before tax."""

    budget: int
    start_up: tuple[tuple[str, int], ...]
    marketing: int
    months: tuple[Month, ...]

    @property
    def start_up_total(self) -> int:
        """What is spent before month 1, launch marketing included."""
        return sum(amount for _, amount in self.start_up) + self.marketing

    @property
    def reserve(self) -> int:
        """What is left of the budget at the start: working capital."""
        return self.budget - self.start_up_total

    @property
    def revenue(self) -> int:
        """Over all months, as the four below."""
        return sum(month.revenue for month in self.months)

    @property
    def variable(self) -> int:
        return sum(month.variable for month in self.months)

    @property
    def fixed(self) -> int:
        return sum(month.fixed for month in self.months)

    @property
    def profit(self) -> int:
        return sum(month.profit for month in self.months)

    @property
    def margin_percent(self) -> int | None:
        """Gross margin in percent, to the nearest; None without revenue."""
        if self.revenue == 0:
            return None
        gross = self.revenue - self.variable
        return (gross * 200 + self.revenue) // (self.revenue * 2)

    @property
    def profitable_month(self) -> int | None:
        """The first month that covers its own costs."""
        return next((month.number for month in self.months if month.profit >= 0), None)

    @property
    def break_even_month(self) -> int | None:
        """The first month at whose end all costs so far, start-up included, are earned back."""
        return next((month.number for month in self.months if month.cumulative >= 0), None)

    @property
    def break_even_estimate(self) -> int | None:
        """The month of break-even if the last month's profit went on; None if it never comes."""
        if self.break_even_month is not None:
            return self.break_even_month
        last = self.months[-1]
        if last.profit <= 0:
            return None
        return last.number - last.cumulative // last.profit

    @property
    def cash_low(self) -> int:
        """The least cash at the start or at the end of any month; below 0: it runs out."""
        return min(self.reserve, *(month.cash for month in self.months))

    @property
    def cash_low_month(self) -> int:
        """When that is; 0 is before month 1."""
        low = self.cash_low
        return 0 if low == self.reserve else next(m.number for m in self.months if m.cash == low)

    @property
    def funding_gap(self) -> int:
        """How much more money is needed so that cash never runs out."""
        return max(0, -self.cash_low)


def project(
    facts: FinancialFacts, budget: int, months: int, customers_percent: int = 100
) -> Projection:
    """Project a budget over 1 to 36 months, with that percentage of the expected customers.

    Customers grow evenly from the first month to the last; a plan of one month has the first's.
    """
    shares = [share.percent for share in facts.start_up]
    rest = 100 - sum(shares) - facts.marketing_percent
    *parts, marketing, _ = split(budget, [*shares, facts.marketing_percent, rest])
    start_up = tuple((share.name, part) for share, part in zip(facts.start_up, parts, strict=True))
    spent = sum(parts) + marketing
    fixed = sum(item.amount for item in facts.monthly)
    customers = [
        count * customers_percent // 100
        for count in _ramp(facts.customers_first, facts.customers_last, months)
    ]
    revenues = [count * facts.price for count in customers]
    variables = [-(-revenue * facts.variable_percent // 100) for revenue in revenues]
    profits = [
        revenue - variable - fixed for revenue, variable in zip(revenues, variables, strict=True)
    ]
    cumulated = list(accumulate(profits, initial=-spent))[1:]
    rows = tuple(
        Month(i + 1, customers[i], revenues[i], variables[i], fixed, profits[i], so_far,
              budget + so_far)
        for i, so_far in enumerate(cumulated)
    )  # fmt: skip
    return Projection(budget, start_up, marketing, rows)


def _ramp(first: int, last: int, months: int) -> list[int]:
    steps = max(1, months - 1)
    return [first + (last - first) * i // steps for i in range(months)]
