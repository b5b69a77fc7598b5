"""What a person may ask a plan for: one model with a limit on everything."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
)

from crowdsafe.systems.planner.money import CurrencyCode, currency_of, format_money

__all__ = [
    "BRACKETS",
    "BUDGET_MAX",
    "TIMELINES",
    "Bracket",
    "BudgetBracket",
    "PlanRequest",
    "Timeline",
    "bracket_label",
]

IDEA_CHARS_MIN = 10
IDEA_CHARS_MAX = 4000
LOCATION_CHARS_MAX = 200
BUSINESS_TYPE_CHARS_MAX = 100
PERSONALIZATION_CHARS_MAX = 1000
PERSONALIZATION_ITEMS_MAX = 20
BUDGET_MAX = 10**12
"""The largest budget that may be given as a number, in whole units of the currency."""

BudgetBracket = Literal[
    "under-5k", "5k-10k", "10k-25k", "25k-50k", "50k-100k", "100k-250k", "250k-plus"
]
Timeline = Literal["1-month", "3-months", "6-months", "1-year", "2-years", "3-years"]
Audience = Literal["private", "public"]

TIMELINES: dict[str, int] = {
    "1-month": 1,
    "3-months": 3,
    "6-months": 6,
    "1-year": 12,
    "2-years": 24,
    "3-years": 36,
}
"""The timelines, and how many months each has."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """A budget bracket: from ``low`` to below ``high`` (None: no end), counted as ``middle``."""

    name: str
    low: int
    high: int | None
    middle: int


_ALL = (
    Bracket("under-5k", 0, 5_000, 2_500),
    Bracket("5k-10k", 5_000, 10_000, 7_500),
    Bracket("10k-25k", 10_000, 25_000, 17_500),
    Bracket("25k-50k", 25_000, 50_000, 37_500),
    Bracket("50k-100k", 50_000, 100_000, 75_000),
    Bracket("100k-250k", 100_000, 250_000, 175_000),
    Bracket("250k-plus", 250_000, None, 375_000),
)
BRACKETS: dict[str, Bracket] = {bracket.name: bracket for bracket in _ALL}
"""The budget brackets by name; amounts are to be multiplied by the currency's ``scale``."""

assert tuple(BRACKETS) == get_args(BudgetBracket)
assert tuple(TIMELINES) == get_args(Timeline)


def _clean(text: str) -> str:
    """Refuse what is no text: control characters (line ends and tabs aside)."""
    for c in text:
        if c not in "\n\t\r" and unicodedata.category(c) == "Cc":
            raise ValueError("must not hold control characters")
    return text


def _worded(text: str) -> str:
    if not any(c.isalnum() for c in text):
        raise ValueError("must hold words")
    return text


def _budget(value: Any) -> str | int:
    """A bracket's name, or a number as whole units of the currency (rounded)."""
    if isinstance(value, str):
        name = value.strip().lower()
        name = "250k-plus" if name == "250k+" else name
        if name not in BRACKETS:
            raise ValueError(f"must be a number or one of {', '.join(BRACKETS)}")
        return name
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number:
        raise ValueError(f"must be a number or one of {', '.join(BRACKETS)}")
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite:
        raise ValueError("must be a finite number")
    if value < 0:
        raise ValueError("must not be negative")
    if value > BUDGET_MAX:
        raise ValueError(f"must be at most {BUDGET_MAX}")
    return int(value + 0.5) if isinstance(value, float) else int(value)


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) and len(value) <= 10 else value


Budget = Annotated[
    str | int,
    BeforeValidator(_budget),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(BRACKETS)},
                {"type": "number", "minimum": 0, "maximum": BUDGET_MAX},
            ]
        }
    ),
]
_Named = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=40),
    AfterValidator(_clean),
]
_Short = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, max_length=200),
    AfterValidator(_clean),
]
_Prose = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, max_length=PERSONALIZATION_CHARS_MAX),
    AfterValidator(_clean),
]


Personalization = Annotated[
    Annotated[dict[_Named, _Short], Field(max_length=PERSONALIZATION_ITEMS_MAX), Tag("wishes")]
    | Annotated[_Prose, Tag("text")],
    Discriminator(
        lambda value: {dict: "wishes", str: "text"}.get(type(value)),
        custom_error_type="personalization",
        custom_error_message="must be a text, or an object of short texts",
    ),
]


class PlanRequest(BaseModel):
    """A request for a business plan; unknown fields are refused. Money is in whole units.

    ``budget`` is a bracket (`250k+` is read as `250k-plus`) or a number from 0 to 10**12 in
    ``currency``, rounded to whole units. ``audience`` says who may be given the same plan: this
    user alone, or everyone who asks for the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    idea: Annotated[
        str,
        StringConstraints(
            strict=True,
            strip_whitespace=True,
            min_length=IDEA_CHARS_MIN,
            max_length=IDEA_CHARS_MAX,
        ),
        AfterValidator(_clean),
        AfterValidator(_worded),
    ]
    location: Annotated[
        str,
        StringConstraints(
            strict=True, strip_whitespace=True, min_length=1, max_length=LOCATION_CHARS_MAX
        ),
        AfterValidator(_clean),
        AfterValidator(_worded),
    ]
    budget: Budget
    timeline: Timeline
    business_type: Annotated[
        str,
        StringConstraints(
            strict=True, strip_whitespace=True, min_length=1, max_length=BUSINESS_TYPE_CHARS_MAX
        ),
        AfterValidator(_clean),
        AfterValidator(_worded),
    ]
    currency: Annotated[CurrencyCode, BeforeValidator(_upper)] = "USD"
    personalization: Personalization = ""
    audience: Audience = "private"

    @property
    def bracket(self) -> Bracket:
        """The bracket that the budget is in."""
        if isinstance(self.budget, str):
            return BRACKETS[self.budget]
        units = self.budget / currency_of(self.currency).scale
        return next(b for b in _ALL if b.high is None or units < b.high)

    @property
    def budget_amount(self) -> int:
        """The budget to reckon with, in whole units: the number, or the bracket's middle."""
        if isinstance(self.budget, int):
            return self.budget
        return BRACKETS[self.budget].middle * currency_of(self.currency).scale

    @property
    def budget_is_exact(self) -> bool:
        """Whether the budget was given as a number."""
        return isinstance(self.budget, int)

    @property
    def months(self) -> int:
        """How many months the timeline has."""
        return TIMELINES[self.timeline]

    @property
    def wishes(self) -> list[tuple[str, str]]:
        """The personalization as (name, text) pairs, empty ones left out."""
        if isinstance(self.personalization, str):
            return [("", self.personalization)] if self.personalization else []
        return [(name, text) for name, text in self.personalization.items() if text]

    def fingerprint(self) -> str:
        """SHA-256, in hex, of what is asked for: equal for requests that mean the same.

        Unicode is brought to NFC and white space collapsed; the case of idea, location and
        business type does not count, nor does ``audience`` (it is the scope of an answer, not
        its content), nor the time.
        """
        content = {
            "idea": _same(self.idea).casefold(),
            "location": _same(self.location).casefold(),
            "business_type": _same(self.business_type).casefold(),
            "budget": self.budget,
            "timeline": self.timeline,
            "currency": self.currency,
            "personalization": sorted([_same(name), _same(text)] for name, text in self.wishes),
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _same(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def bracket_label(name: str, currency: str) -> str:
    """A bracket in words, in one of the currencies: "¥1,000,000 to ¥2,500,000"."""
    bracket, scale = BRACKETS[name], currency_of(currency).scale
    if bracket.high is None:
        return f"{format_money(bracket.low * scale, currency)} or more"
    if bracket.low == 0:
        return f"under {format_money(bracket.high * scale, currency)}"
    low, high = (format_money(end * scale, currency) for end in (bracket.low, bracket.high))
    return f"{low} to {high}"
