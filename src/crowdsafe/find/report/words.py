"""Words for people: values that may hold anything, cut and made harmless; counts and names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from crowdsafe.find.judge.patterns import letter
from crowdsafe.find.model import Finding, Verdict

__all__ = [
    "as_text",
    "clean",
    "count",
    "cut",
    "duration",
    "joined",
    "legend",
    "letter",
    "one_line",
    "order_words",
    "said",
    "short_name",
    "title",
    "together",
]

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\ufffe\uffff]"
)
_OPERATION = re.compile(r"\boperation (\d{1,2})\b")
_SPACES = re.compile(r"\s+")
_TEXT_MAX = 20_000


def clean(text: str) -> str:
    """Text without control characters, surrogates and marks that turn the direction of writing:
    each is shown as ``\\x07``. Texts above 20 000 characters are cut."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], cut(text, _TEXT_MAX))


def cut(text: str, length: int) -> str:
    """At most so many characters, the last one ``…`` when something was cut off."""
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def one_line(text: str, length: int) -> str:
    """Clean text in one line, at most so long."""
    return cut(_SPACES.sub(" ", clean(text[: length * 4])).strip(), length)


def said(difference: str, length: int = 400) -> str:
    """A difference in one line, with its operations called as the diagram calls them."""
    lettered = _OPERATION.sub(lambda found: letter(int(found[1]) - 1), difference[: length * 4])
    return one_line(lettered, length)


def as_text(value: Any, length: int = 200) -> str:
    """A value for people: text as it is, else JSON, else ``repr``."""
    if isinstance(value, str):
        return one_line(value, length)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return one_line(text, length)


def count(number: int, thing: str) -> str:
    """``1 schedule``, ``12 schedules``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def joined(parts: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def order_words(order: Sequence[int]) -> str:
    return " then ".join(letter(operation) for operation in order)


def short_name(operation: str, length: int = 60) -> str:
    """The name of an operation in one line."""
    return one_line(operation, length)


def together(operations: Sequence[str], length: int = 60) -> str:
    """``POST /take × itself``, ``POST /take × GET /stock``: who runs at the same time."""
    names = [short_name(name, length) for name in operations]
    if len(set(operations)) == 1 and len(operations) > 1:
        times = "" if len(operations) == 2 else f", {len(operations)} at once"
        return f"{names[0]} × itself{times}"
    return " × ".join(names)


def legend(operations: Sequence[str], length: int = 200) -> list[tuple[str, str]]:
    """``("A", "POST /take ...")``, ``("B", "the same as A")``."""
    found: list[tuple[str, str]] = []
    for place, name in enumerate(operations):
        first = operations.index(name)
        same = f"the same as {letter(first)}"
        found.append((letter(place), short_name(name, length) if first == place else same))
    return found


def title(finding: Finding) -> str:
    """``Lost update on stock``, the table that it is about; without a race the verdict."""
    if finding.anomaly is None:
        return _VERDICTS[finding.verdict]
    name = finding.anomaly.value
    where = f" on {one_line(finding.tables[0], 80)}" if finding.tables else ""
    return f"{name[0].upper()}{name[1:]}{where}"


_VERDICTS = {
    Verdict.RACE: "Race",
    Verdict.PROVEN: "Proven at statement granularity",
    Verdict.NOT_FOUND: "Not found within the budget",
    Verdict.INCONCLUSIVE: "Inconclusive",
}
