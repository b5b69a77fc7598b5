"""Demo data: tiers for the demo's logins, and plans that some of them had made before."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.identity.demo import DEMO_USERS
from crowdsafe.identity.tables import UserRow
from crowdsafe.store import Store
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.generation import offline_plan
from crowdsafe.systems.planner.models import Plan, Profile
from crowdsafe.systems.planner.operations.profiles import quota_key
from crowdsafe.systems.planner.operations.submitting import flight_of
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.starters import STARTERS
from crowdsafe.traffic.quota import charge, day, reserve
from crowdsafe.writes import get_or_create

__all__ = ["seed"]

_TIERS = {"admin": "pro_plus", "sales": "pro"}
_MADE_BEFORE: tuple[tuple[str, int, PlanRequest], ...] = (
    ("sales", 3, STARTERS[0]),
    ("admin", 2, STARTERS[2]),
    (
        "sales",
        1,
        PlanRequest(
            idea="A mobile workshop that services electric bicycles at people's workplaces",
            location="Utrecht, Netherlands",
            budget="25k-50k",
            timeline="1-year",
            business_type="Bicycle repair",
            currency="EUR",
        ),
    ),
    (
        "mara",
        1,
        PlanRequest(
            idea="Workshops for families who want to bake sourdough bread on Saturday mornings",
            location="Gothenburg, Sweden",
            budget="5k-10k",
            timeline="6-months",
            business_type="Baking school",
            currency="EUR",
        ),
    ),
)


def seed(store: Store) -> bool:
    """Add what is missing of the demo's profiles and plans; whether anything was.

    May run again, and in two processes at once: each row is added by whoever comes first. The
    demo's logins must be there.
    """
    bodies = [offline_plan(request).to_json() for _, _, request in _MADE_BEFORE]
    return store.write(fill, bodies, deadline_s=60)


@write(isolation="read committed")
def fill(session: Session, bodies: list[dict[str, object]], now: datetime | None = None) -> bool:
    """As ``seed``, on a session; all dates are counted back from ``now``."""
    moment = now or utcnow()
    names = [user.username for user in DEMO_USERS]
    found = session.execute(select(UserRow.username, UserRow.id).where(UserRow.username.in_(names)))
    ids = {row.username: row.id for row in found}
    added = False
    for name, user_id in sorted(ids.items()):
        tier = _TIERS.get(name, "free")
        added |= get_or_create(session, Profile, {"tier": tier}, user_id=user_id)[1]
    for index, (name, days, request) in enumerate(_MADE_BEFORE):
        if name in ids:
            at = moment - timedelta(days=days, minutes=37 * index)
            added |= _add(session, f"demo-{index}", ids[name], request, bodies[index], at)
    return added


def _add(
    session: Session,
    job_id: str,
    user_id: int,
    request: PlanRequest,
    body: dict[str, object],
    at: datetime,
) -> bool:
    """One plan with the unit that it cost, on the day on which it was made."""
    values = {
        "user_id": user_id,
        "flight": flight_of(request, user_id),
        "audience": request.audience,
        "business_type": request.business_type,
        "idea": request.idea,
        "source": body["source"],
        "calls": body["calls"],
        "request": request.model_dump(mode="json"),
        "body": body,
        "created_at": at,
    }
    if not get_or_create(session, Plan, values, job_id=job_id)[1]:
        return False
    period = day(at)
    key = quota_key(user_id)
    reserve(session, key, limit=None, period=period, expires_s=3600, id=job_id, now=at)
    return charge(session, job_id, now=at)
