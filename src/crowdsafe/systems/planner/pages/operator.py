"""The operator's view in words: the queue by user, and how the language model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from crowdsafe.systems.planner.models import SYSTEM_USER_ID
from crowdsafe.systems.planner.operations.queries import queue_by_user
from crowdsafe.systems.planner.pages.words import lasted
from crowdsafe.traffic.queue import QueueView, UserView

if TYPE_CHECKING:
    from crowdsafe.systems.planner.service import Planner

__all__ = ["fairness", "queue_now"]

AHEAD_OF_TIME = "made ahead of time"
UPSTREAMS = {
    "configured": "the service that was configured",
    "simulated": "a simulated one, for the demo",
    "none": "none: plans are written offline",
}
BREAKER_WORDS = {
    "closed": ("Answering", "Calls go through."),
    "half-open": (
        "Being tried",
        "One call finds out whether it is back; until then the others do without it.",
    ),
    "open": (
        "Left alone",
        (
            "It failed too often, so nobody calls it for a while. Plans are written offline and "
            "marked as such; it is tried again by itself."
        ),
    ),
}


async def queue_now(planner: Planner) -> dict[str, Any]:
    """What the page shows, and asks for again every two seconds."""
    view, names = await planner.store.read(_read, planner)
    return {
        "tiles": _tiles(view, planner),
        "users": [_user(each, names, view) for each in view.users],
        "breaker": _breaker(await planner.breaker_state(), planner.upstream_kind),
    }


def fairness(shares: Sequence[int]) -> float | None:
    """Jain's index of what each got: 1 when all got the same, 1/n when one got it all.

    R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness" (1984). None for fewer than
    two users, or when nobody got anything.
    """
    whole = sum(shares)
    if len(shares) < 2 or whole == 0:
        return None
    return whole * whole / (len(shares) * sum(each * each for each in shares))


def _read(session: Session, planner: Planner) -> tuple[QueueView, dict[str, str]]:
    view, logins = queue_by_user(session, planner.queue)
    names = {user: login.name for user, login in logins.items()}
    return view, {str(SYSTEM_USER_ID): AHEAD_OF_TIME} | names


def _tiles(view: QueueView, planner: Planner) -> list[dict[str, str]]:
    waiting = [each for each in view.users if each.queued]
    even = fairness([each.running + each.done_last_hour for each in waiting])
    people = "nobody" if not waiting else "1 user" if len(waiting) == 1 else f"{len(waiting)} users"
    shown = (
        ("running", "Being written", f"{view.running:,}", f"of {view.running_max} at once"),
        ("queued", "Waiting", f"{view.queued:,}", f"of {planner.settings.queued_max:,}"),
        ("people", "Who waits", people, f"at most {planner.settings.per_user} at once each"),
        ("oldest", "Longest wait", lasted(view.oldest_wait_s) if view.queued else "–", "so far"),
        ("mean", "One plan takes", lasted(view.mean_run_s), "on average"),
        (
            "fairness",
            "Fairness",
            "–" if even is None else f"{even:.2f}",
            "of who waits; 1.00 is even",
        ),
    )
    return [
        {"id": name, "label": label, "value": value, "note": note}
        for name, label, value, note in shown
    ]


def _user(each: UserView, names: dict[str, str], view: QueueView) -> dict[str, Any]:
    whole = view.queued + view.running
    share = round(100 * (each.queued + each.running) / whole) if whole else 0
    return {
        "id": each.user,
        "user": names.get(each.user, each.user),
        "running": each.running,
        "queued": each.queued,
        "share": share,
        "share_says": f"{share}%",
        "done": each.done_last_hour,
        "failed": each.failed_last_hour,
    }


def _breaker(state: dict[str, Any], upstream: str) -> dict[str, Any]:
    name = state["state"]
    title, says = BREAKER_WORDS.get(name, (name, ""))
    facts = [("Which", UPSTREAMS.get(upstream, upstream)), ("Breaker", name)]
    if state.get("failures"):
        facts.append(("Failures lately", str(state["failures"])))
    if name == "open" and state.get("retry_after_s"):
        facts.append(("Tried again in", lasted(state["retry_after_s"])))
    return {
        "state": name,
        "title": title,
        "says": says,
        "facts": [{"label": label, "value": value} for label, value in facts],
    }
