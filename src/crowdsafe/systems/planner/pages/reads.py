"""What each page shows, at first and after every event: plain functions of a session.

The words are made here, once: a page's script asks for the same view again and puts it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from crowdsafe.feed import head
from crowdsafe.identity import User
from crowdsafe.systems.planner.generation import Plan
from crowdsafe.systems.planner.money import CURRENCIES
from crowdsafe.systems.planner.operations import queries
from crowdsafe.systems.planner.pages import words
from crowdsafe.systems.planner.pages.document import document
from crowdsafe.systems.planner.request import (
    BRACKETS,
    BUDGET_MAX,
    BUSINESS_TYPE_CHARS_MAX,
    IDEA_CHARS_MAX,
    IDEA_CHARS_MIN,
    LOCATION_CHARS_MAX,
    PERSONALIZATION_CHARS_MAX,
    TIMELINES,
    bracket_label,
)
from crowdsafe.systems.planner.settings import TIERS, PlannerSettings
from crowdsafe.systems.planner.starters import STARTERS
from crowdsafe.traffic.queue import Job, get_job

if TYPE_CHECKING:
    from crowdsafe.systems.planner.service import Planner

__all__ = ["idea", "job", "plan", "plans", "profile"]

PLANS_SHOWN_MAX = 50
FAILURES = {
    "Upstream": ": the language model did not answer",
    "BreakerOpen": ": the language model is not answering just now",
    "TimeoutError": ": it took too long",
    "expired": ": its turn did not come in time",
}
_OPEN = frozenset({"waiting", "running", "retrying"})
_WRITTEN = {"state": "done", "says": "written"}
_NOT_WRITTEN = {"state": "waiting", "says": "not written"}
TIER_TITLES = {"free": "Free", "pro": "Pro", "pro_plus": "Pro Plus"}
LIMITS = {
    "idea": [IDEA_CHARS_MIN, IDEA_CHARS_MAX],
    "business_type": [1, BUSINESS_TYPE_CHARS_MAX],
    "location": [1, LOCATION_CHARS_MAX],
    "personalization": [0, PERSONALIZATION_CHARS_MAX],
    "amount": [0, BUDGET_MAX],
}
"""Characters (or whole units of money) that a field may have; the server checks the same."""


def profile(session: Session, planner: Planner, user: User) -> dict[str, Any]:
    """What is left of a user's day, with the words for it."""
    found = queries.profile_view(session, planner.queue, planner.settings, user_id=user.id)
    resets_at = datetime.fromisoformat(found["quota"]["resets_at"])
    quota = {**found["quota"], "resets_at": resets_at}
    limits, running, queued = found["limits"], found["running"], found["queued"]
    room = quota["left"] is None or quota["left"] > 0
    return {
        "tier": found["tier"],
        "said": words.quota_left(quota),
        "note": words.quota_note(quota),
        "pips": words.quota_pips(quota),
        "running": f"{running} of {limits['running_max']}",
        "queued": f"{queued} of {limits['queued_max']}",
        "resets_in_s": found["quota"]["resets_in_s"],
        "resets_at": resets_at.isoformat(),
        "may_ask": room and queued < limits["queued_max"],
        "reason": _reason(quota, queued, limits["queued_max"]),
    }


def idea(session: Session, planner: Planner, user: User, *, again: str = "") -> dict[str, Any]:
    """The form, with the limits that it checks by, and what to start from."""
    return {
        "profile": profile(session, planner, user),
        "last_event_id": head(session),
        "limits": LIMITS,
        "tiers": _tiers(planner.settings),
        "currencies": list(CURRENCIES),
        "labels": {code: {name: _bracket(name, code) for name in BRACKETS} for code in CURRENCIES},
        "budgets": [(name, _bracket(name, "USD")) for name in BRACKETS],
        "timelines": [(name, words.timeline_words(name)) for name in TIMELINES],
        "starters": [each.model_dump(mode="json") for each in STARTERS],
        "again": _asked_before(session, planner, user, again) if again else None,
    }


def job(session: Session, planner: Planner, user: User, *, job_id: str) -> dict[str, Any]:
    """One job of this user's, or one that they joined. Raises NotFound."""
    view = queries.job_view(session, planner.queue, job_id, user_id=user.id)
    found = get_job(session, planner.queue, job_id)
    shown = _job(view)
    return {
        "job": {
            **shown,
            "request": found.payload["request"],
            "mine": found.user == str(user.id),
            "error": _error(found),
        },
        "last_event_id": view["last_event_id"],
    }


def plans(
    session: Session, planner: Planner, user: User, *, cursor: int | None = None
) -> dict[str, Any]:
    """The newest plans of this user's, and the jobs that wait or run."""
    since = head(session)
    page = queries.list_plans(session, user_id=user.id, cursor=cursor, limit=PLANS_SHOWN_MAX)
    jobs = [] if cursor else queries.list_jobs(session, planner.queue, user_id=user.id)
    return {
        "jobs": [_job(each) for each in jobs],
        "plans": [
            {
                **each,
                "id": each["plan_id"],
                "title": words.first_words(each["idea"]),
                "source_says": words.SOURCES.get(each["source"], each["source"]),
            }
            for each in page["items"]
        ],
        "next_cursor": page["next_cursor"],
        "last_event_id": since,
    }


def plan(session: Session, _planner: Planner, user: User, *, plan_id: int) -> dict[str, Any]:
    """One plan of this user's, or a public one that they asked for too, ready to be drawn.

    Raises NotFound.
    """
    view = queries.get_plan(session, plan_id, user_id=user.id)
    body = {name: value for name, value in view.items() if name in Plan.model_fields}
    found = Plan.from_json(body)
    return {
        "plan_id": plan_id,
        "created_at": view["created_at"],
        "asked": view["request"],
        "plan": found,
        "sections": document(found),
        "written_by": _written_by(found),
        "offline_words": _offline_words(found),
    }


def _job(view: Mapping[str, Any]) -> dict[str, Any]:
    """A job as the pages show it: its state, place and sections in words."""
    state, progress = view["state"], view["progress"]
    sections = progress.get("sections") or {}
    rows = words.section_rows(sections)
    if state == "done":
        rows = [row | _WRITTEN if row["state"] in _OPEN else row for row in rows]
    elif state in ("failed", "cancelled"):
        rows = [row | _NOT_WRITTEN if row["state"] in _OPEN else row for row in rows]
    done = len(rows) if state == "done" else words.sections_done(sections)
    ahead, cancelling = view["position"], view["cancel_requested"]
    return {
        "id": view["job_id"],
        "title": words.first_words(view["idea"]),
        "state": state,
        "state_says": "Being cancelled"
        if cancelling and state == "running"
        else words.JOB_STATES.get(state, state),
        "says": _says(state, ahead, view["attempts"], cancelling),
        "ahead": ahead,
        "ahead_says": _ahead(ahead),
        "wait_says": words.about(view["estimated_wait_s"]),
        "note": _note(state, rows, view["attempts"]),
        "sections": rows,
        "done": done,
        "of": len(rows),
        "count": f"{done} of {len(rows)}",
        "plan_id": view["plan_id"],
        "created_at": view["created_at"],
        "waits": state in ("queued", "running"),
        "may_cancel": state in ("queued", "running") and not cancelling,
    }


def _says(state: str, ahead: int | None, attempts: int, cancelling: bool) -> str:
    if cancelling and state in ("queued", "running"):
        return "Being cancelled; nothing is charged"
    if state == "queued":
        return "Waiting for its turn" if ahead else "Next in line"
    if state == "running":
        return "Your plan is being written" if attempts < 2 else "Your plan is being written again"
    return {
        "done": "Your plan is ready",
        "failed": "The plan could not be made; nothing was charged",
        "cancelled": "Cancelled; nothing was charged",
    }.get(state, state)


def _note(state: str, rows: list[dict[str, str]], attempts: int) -> str:
    if state == "queued":
        return "It was interrupted and goes on where it stopped" if attempts else "Not begun yet"
    if state == "running":
        now = [row["title"] for row in rows if row["state"] == "running"]
        return f"At work on: {', '.join(now).lower()}" if now else "Beginning"
    return "Sections written"


def _ahead(ahead: int | None) -> str:
    if not ahead:
        return "nobody"
    return f"{ahead:,} {'plan' if ahead == 1 else 'plans'}"


def _error(found: Job) -> str | None:
    """Why a job failed, without a word of what the machinery said."""
    if found.state != "failed":
        return None
    said = found.error or ""
    why = next((words for name, words in FAILURES.items() if said.startswith(name)), "")
    return f"The plan could not be made{why}. Nothing was charged; ask again in a while."


def _reason(quota: Mapping[str, Any], queued: int, queued_max: int) -> str:
    """Why no plan can be asked for now; empty when one can."""
    if quota["left"] is not None and quota["left"] <= 0:
        held = quota["reserved"]
        until = f"{quota['resets_at']:%H:%M} UTC"
        if held and not quota["used"]:
            return f"Your plan for today is being made. The next one can be asked for at {until}."
        return f"No plan is left today. Renewed at {until}; what you typed is kept until then."
    if queued >= queued_max:
        return "As many of your plans wait as may; ask again when one of them is done."
    return ""


def _tiers(settings: PlannerSettings) -> list[dict[str, Any]]:
    found = []
    for tier in TIERS:
        limit = settings.per_day(tier)
        found.append(
            {
                "name": tier,
                "title": TIER_TITLES[tier],
                "says": "no limit"
                if limit is None
                else f"{limit} {'plan' if limit == 1 else 'plans'} a day",
            }
        )
    return found


def _asked_before(
    session: Session, planner: Planner, user: User, job_id: str
) -> dict[str, Any] | None:
    """What a job of this user's asked for, to ask it again. Raises NotFound."""
    found = queries.job_for(session, planner.queue, job_id, user_id=user.id)
    asked: dict[str, Any] = found.payload["request"]
    return asked


def _bracket(name: str, currency: str) -> str:
    text = bracket_label(name, currency)
    return text[:1].upper() + text[1:]


def _written_by(found: Plan) -> str:
    if found.source == "offline":
        return "Written offline"
    unnamed = found.model in (None, "", "default")
    model = "the language model" if unnamed else f"the model {found.model}"
    return f"Written by {model}" if found.source == "upstream" else f"Partly by {model}"


def _offline_words(found: Plan) -> str:
    if found.source == "offline":
        return (
            "The language model did not answer, so this plan was written offline: its figures are "
            "calculated from your budget and timeline, its text is general. Ask again later to "
            "have it written by the model."
        )
    titles = [found.sections[name].title for name in found.offline_sections]
    return (
        f"The language model did not answer for {', '.join(titles)}: written offline, "
        "in whole or in part. All figures are calculated either way."
    )
