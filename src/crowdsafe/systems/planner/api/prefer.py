"""How long a client wants to wait for its plan: the Prefer header (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from crowdsafe.systems.planner.settings import PlannerSettings

__all__ = ["Wait", "wait_of"]

WAIT_S_MAX = 60
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds to wait; ``applied`` is what Preference-Applied says, if a preference was met."""

    s: float
    whatever_position: bool = False
    applied: str | None = None


def wait_of(prefer: Iterable[str], settings: PlannerSettings) -> Wait:
    """What the headers ask for; ``respond-async`` wins over ``wait``, the rest is ignored.

    Never longer than ``answer_within_max_s``, since a request has a deadline of its own; what was
    made of a wish for more is said in ``applied``.

    >>> from crowdsafe.systems.planner.settings import PlannerSettings
    >>> wait_of(["wait=20"], PlannerSettings()).s
    20
    """
    wishes = [wish.strip() for header in prefer for wish in header.split(",")]
    if any(wish.lower() == "respond-async" for wish in wishes):
        return Wait(0, applied="respond-async")
    for wish in wishes:
        found = _WAIT.fullmatch(wish)
        if found is not None:
            wait_s = min(int(found[1]), WAIT_S_MAX, int(settings.answer_within_max_s))
            return Wait(wait_s, whatever_position=True, applied=f"wait={wait_s}")
    return Wait(min(settings.answer_within_s, settings.answer_within_max_s))
