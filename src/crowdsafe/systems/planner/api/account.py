"""What a user may do, what everyone may do, and what the operator sees."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from crowdsafe.errors import Forbidden
from crowdsafe.identity import User
from crowdsafe.systems.planner import schemas
from crowdsafe.systems.planner.api.common import PlannerDep, answers
from crowdsafe.systems.planner.operations import queries
from crowdsafe.systems.planner.operations.profiles import ensure_profile, has_profile
from crowdsafe.systems.planner.starters import STARTERS
from crowdsafe.web.fastapi import CurrentUser, StoreDep, json_answer, require

__all__ = ["router"]

router = APIRouter()


@router.get("/profile", summary="Your tier and quota", responses=answers(schemas.ProfileBody))
async def profile(planner: PlannerDep, store: StoreDep, user: CurrentUser) -> Response:
    """What is used, reserved and left today (UTC), and when that is renewed."""
    if not await store.read(has_profile, user.id):
        await store.write(ensure_profile, user.id)
    view = await store.read(queries.profile_view, planner.queue, planner.settings, user_id=user.id)
    return json_answer(view)


@router.get("/limits", summary="Every limit", responses=answers(schemas.LimitsBody))
async def limits(planner: PlannerDep, _user: CurrentUser) -> Response:
    """In the order in which a request for a plan meets them."""
    settings = planner.settings
    return json_answer(
        {
            "ip_rate": settings.ip_rate,
            "per_day": {tier: settings.per_day(tier) for tier in ("free", "pro", "pro_plus")},
            "running_per_user": settings.per_user,
            "queued_per_user": settings.queued_per_user_max,
            "running": settings.running_max,
            "queued": settings.queued_max,
            "answer_within_s": settings.answer_within_s,
            "plan_fresh_s": settings.plan_fresh_s,
            "upstream": planner.upstream_kind,
        }
    )


@router.get("/starters", summary="Requests to start from", responses=answers(list[schemas.Starter]))
async def starters(_user: CurrentUser) -> Response:
    """Sent as they are they share one public plan each, which may be there already."""
    return json_answer(list(STARTERS))


@router.get("/queue", summary="The queue by user", responses=answers(schemas.QueueBody, Forbidden))
async def queue(
    planner: PlannerDep, store: StoreDep, _admin: Annotated[User, Depends(require("admin"))]
) -> Response:
    """For administrators: who waits, who runs, how long it takes, and how the upstream is."""
    view = await store.read(queries.operator_view, planner.queue)
    return json_answer({**view, "breaker": await planner.breaker_state()})
