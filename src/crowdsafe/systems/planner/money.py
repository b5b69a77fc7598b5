"""Money of the twelve currencies: whole units, written the way each currency is written.

All amounts are integers in whole units of the currency (dollars, yen): a plan is no bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["CURRENCIES", "Currency", "CurrencyCode", "currency_of", "format_money"]

CurrencyCode = Literal[
    "USD", "EUR", "GBP", "CAD", "AUD", "NZD", "CHF", "JPY", "CNY", "INR", "BRL", "ZAR"
]
_NO_BREAK_SPACE = "\u00a0"


@dataclass(frozen=True, slots=True)
class Currency:
    """One currency: how it is written, and ``scale``, the units that a budget bracket counts.

    The brackets are sized for a unit of about a dollar; one of them is worth ``scale`` units (the
    order of magnitude only: this is no exchange rate). So 10k-25k is ¥1,000,000 to ¥2,500,000.
    """

    code: str
    prefix: str
    scale: int = 1
    separator: str = ","


_ALL = (
    Currency("USD", "$"),
    Currency("EUR", "€"),
    Currency("GBP", "£"),
    Currency("CAD", "CA$"),
    Currency("AUD", "A$"),
    Currency("NZD", "NZ$"),
    Currency("CHF", f"CHF{_NO_BREAK_SPACE}", separator="’"),
    Currency("JPY", "¥", scale=100),
    Currency("CNY", "CN¥", scale=10),
    Currency("INR", "₹", scale=100),
    Currency("BRL", f"R${_NO_BREAK_SPACE}", scale=10, separator="."),
    Currency("ZAR", f"R{_NO_BREAK_SPACE}", scale=10, separator=_NO_BREAK_SPACE),
)
CURRENCIES: dict[str, Currency] = {currency.code: currency for currency in _ALL}
"""The currencies that a plan can be in, by ISO 4217 code."""

assert tuple(CURRENCIES) == get_args(CurrencyCode)


def currency_of(code: str) -> Currency:
    """The currency with this code; KeyError for any other than the twelve."""
    return CURRENCIES[code]


def format_money(amount: int, code: str) -> str:
    """A whole amount as text: ``format_money(1250000, "INR")`` is ``₹12,50,000``."""
    currency = currency_of(code)
    digits = str(abs(amount))
    grouped = _lakhs(digits) if code == "INR" else f"{abs(amount):,}"
    sign = "-" if amount < 0 else ""
    return f"{sign}{currency.prefix}{grouped.replace(',', currency.separator)}"


def _lakhs(digits: str) -> str:
    """Indian grouping: the last three digits, then pairs."""
    head, tail = digits[:-3], digits[-3:]
    pairs: list[str] = []
    while head:
        pairs.insert(0, head[-2:])
        head = head[:-2]
    return ",".join([*pairs, tail])
