"""How the planner's values read: durations, states, budgets, quotas. One place for every page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crowdsafe.systems.planner.generation.sections import SECTIONS, TITLES
from crowdsafe.systems.planner.money import format_money
from crowdsafe.systems.planner.request import bracket_label

__all__ = [
    "JOB_STATES",
    "SOURCES",
    "TIMELINE_WORDS",
    "about",
    "budget_words",
    "first_words",
    "lasted",
    "money",
    "quota_left",
    "quota_note",
    "quota_pips",
    "section_rows",
    "sections_done",
    "source_words",
    "timeline_words",
]

MINUS = "\N{MINUS SIGN}"
PIPS_MAX = 12
TITLE_CHARS_MAX = 90

TIMELINE_WORDS = {
    "1-month": "1 month",
    "3-months": "3 months",
    "6-months": "6 months",
    "1-year": "1 year",
    "2-years": "2 years",
    "3-years": "3 years",
}
JOB_STATES = {
    "queued": "Waiting",
    "running": "Being written",
    "done": "Done",
    "failed": "Not made",
    "cancelled": "Cancelled",
}
SOURCES = {
    "upstream": "Language model",
    "mixed": "Partly offline",
    "offline": "Offline",
}
SECTION_STATES = {
    "waiting": "waiting",
    "running": "being written…",
    "retrying": "the model is busy, trying again…",
    "done": "written",
    "saved": "written before",
    "mixed": "written, partly offline",
    "offline": "written offline",
    "failed": "failed",
}
_SHOWN_AS = {"queued": "waiting", "pending": "waiting", "started": "running", "saved": "done"}
_ENDED = frozenset({"done", "saved", "offline", "mixed"})


def money(amount: int | None, currency: str) -> str:
    """A whole amount in its currency, with a true minus sign; a dash for None."""
    if amount is None:
        return "–"
    return format_money(amount, currency).replace("-", MINUS, 1)


def timeline_words(name: str) -> str:
    """ "6-months" as "6 months"."""
    return TIMELINE_WORDS.get(name, name.replace("-", " "))


def budget_words(request: Mapping[str, Any]) -> str:
    """The budget of a request: its bracket in words, or the exact amount."""
    budget, currency = request["budget"], request["currency"]
    if isinstance(budget, str):
        words = bracket_label(budget, currency)
        return words[:1].upper() + words[1:]
    return money(budget, currency)


def source_words(source: str) -> str:
    """Who wrote a section, within a sentence."""
    return SOURCES.get(source, source).lower()


def first_words(text: str) -> str:
    """The start of an idea, as a title: its first line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARS_MAX:
        return line
    return f"{line[:TITLE_CHARS_MAX].rsplit(' ', 1)[0].rstrip(' ,.;:-–—')}…"


def about(seconds: float | None) -> str:
    """An estimate, no more exact than it is: "about 40 s", "about 3 min"."""
    if seconds is None:
        return "not known yet"
    if seconds < 5:
        return "a few seconds"
    if seconds < 90:
        return f"about {max(1, round(seconds / 5)) * 5} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {round(seconds / 3600)} h"


def lasted(seconds: float | None) -> str:
    """A time that passed: "0.4 s", "42 s", "3 min 05 s"."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02} min"


def quota_left(quota: Mapping[str, Any]) -> str:
    """ "1 of 1 plan left today", or that there is no limit."""
    limit, left = quota["limit"], quota["left"]
    if limit is None:
        return "As many as you like"
    return f"{left} of {limit} {'plan' if limit == 1 else 'plans'} left today"


def quota_note(quota: Mapping[str, Any]) -> str:
    """What was used, what is held by plans under way, and when the day ends."""
    used, held = quota["used"], quota["reserved"]
    said = f"{used} made"
    if held:
        said += f", {held} being made"
    if quota["limit"] is None:
        return f"{said} today."
    return f"{said} today; renewed at {_clock(quota['resets_at'])}."


def quota_pips(quota: Mapping[str, Any]) -> list[str]:
    """A mark for each unit of a small quota: what is left, held, used; none for a large one."""
    limit = quota["limit"]
    if limit is None or limit > PIPS_MAX:
        return []
    left, held = max(0, quota["left"]), quota["reserved"]
    return (["left"] * left + ["held"] * held + ["used"] * limit)[:limit]


def section_rows(sections: Mapping[str, Any]) -> list[dict[str, str]]:
    """All sections in their order, with the state that each has reached."""
    rows = []
    for name in SECTIONS:
        state = str(sections.get(name) or "waiting")
        says = SECTION_STATES.get(state, state.replace("_", " "))
        shown = _SHOWN_AS.get(state, state)
        rows.append({"id": name, "title": TITLES[name], "state": shown, "says": says})
    return rows


def sections_done(sections: Mapping[str, Any]) -> int:
    """How many sections are written."""
    return sum(sections.get(name) in _ENDED for name in SECTIONS)


def _clock(at: datetime) -> str:
    return f"{at:%H:%M} UTC"
