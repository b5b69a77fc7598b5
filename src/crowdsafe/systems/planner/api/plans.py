"""Plans over HTTP: ask for one, list them, read one."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fastapi import APIRouter, Request, Response

from crowdsafe.errors import (
    InvalidInput,
    KeyReused,
    NotFound,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    TooManyQueued,
)
from crowdsafe.systems.planner import schemas
from crowdsafe.systems.planner.api.common import Cursor, Limit, PlanId, PlannerDep, answers
from crowdsafe.systems.planner.api.counted import CountedByAddress
from crowdsafe.systems.planner.api.prefer import Wait, wait_of
from crowdsafe.systems.planner.errors import GenerationFailed, JobCancelled
from crowdsafe.systems.planner.operations import queries
from crowdsafe.systems.planner.operations.finishing import plan_id_of
from crowdsafe.systems.planner.operations.submitting import Submitted
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.service import Planner
from crowdsafe.traffic.queue import Job
from crowdsafe.web.fastapi import CurrentUser, StoreDep, json_answer
from crowdsafe.web.idempotency import checked_key, fingerprint
from crowdsafe.web.problem import InvalidIdempotencyKey

__all__ = ["router"]

router = APIRouter()
_counted = APIRouter(route_class=CountedByAddress)
_ROUNDS_MAX = 3
_RETRY_AFTER_S_MAX = 60
_CANCELLING_S = 1.0


@_counted.post(
    "/plans",
    summary="Ask for a plan",
    responses={
        **answers(
            schemas.PlanBody,
            InvalidIdempotencyKey,
            JobCancelled,
            InvalidInput,
            KeyReused,
            RateLimited,
            QuotaExceeded,
            TooManyQueued,
            QueueFull,
            GenerationFailed,
        ),
        202: {"model": schemas.Queued, "description": "It is queued; come back for it."},
    },
)
async def ask(
    body: PlanRequest, request: Request, planner: PlannerDep, user: CurrentUser
) -> Response:
    """200 with the plan when it is stored or made in time, else 202 with the job that makes it.

    Looked at in this order: the address's rate, the login, an equal request in flight or stored
    (it costs nothing), the day's quota, how many of yours wait, the length of the queue. Waits a
    few seconds while the job runs or is next; `Prefer: respond-async` does not, `Prefer: wait=20`
    waits for that long, whatever the position. A 202 is durable: the job outlives a restart.
    Equal requests get equal plans. Money budgets are whole units of the currency.
    """
    key = checked_key(request.headers.get("idempotency-key"))
    asked = None
    if key is not None:
        raw = await request.body()
        asked = (key, fingerprint(request.method, request.url.path, request.url.query, raw))
    wait = wait_of(request.headers.getlist("prefer"), planner.settings)
    answer = await _answer(planner, user.id, body, asked, wait)
    if wait.applied is not None:
        answer.headers["Preference-Applied"] = wait.applied
    return answer


@router.get("/plans", summary="Your plans", responses=answers(schemas.PlanPage))
async def list_plans(
    store: StoreDep, user: CurrentUser, cursor: Cursor = None, limit: Limit = 20
) -> Response:
    """Newest first, without their sections."""
    page = await store.read(queries.list_plans, user_id=user.id, cursor=cursor, limit=limit)
    return json_answer(page)


@router.get("/plans/{plan_id}", summary="One plan", responses=answers(schemas.PlanBody, NotFound))
async def get_plan(plan_id: PlanId, store: StoreDep, user: CurrentUser) -> Response:
    """Yours, or a public one that you asked for too; else 404."""
    return json_answer(await store.read(queries.get_plan, plan_id, user_id=user.id))


router.include_router(_counted)


async def _answer(
    planner: Planner,
    user_id: int,
    body: PlanRequest,
    asked: tuple[str, Any] | None,
    wait: Wait,
) -> Response:
    """The plan, or the job that makes it. After one that is just being cancelled it asks anew."""
    end = asyncio.get_running_loop().time() + wait.s
    for _ in range(_ROUNDS_MAX):
        try:
            if asked is None:
                submitted = await planner.find(user_id, body)
            else:
                submitted = await planner.submit(user_id, body, asked)
        except JobCancelled as error:
            left_s = max(_CANCELLING_S, end - asyncio.get_running_loop().time())
            if await planner.watch.ended(str(error.data["job_id"]), left_s) is None:
                raise
            continue
        if submitted.plan_id is not None:
            return json_answer(await planner.plan(submitted.plan_id, user_id))
        left_s = end - asyncio.get_running_loop().time()
        job = await _awaited(planner, submitted, user_id, left_s, wait)
        if isinstance(job, Response):
            return job
        plan_id = plan_id_of(job)
        if plan_id is not None:
            return json_answer(await planner.plan(plan_id, user_id))
        if job.state == "failed":
            raise GenerationFailed(job_id=job.id, retry_after_s=30)
        raise JobCancelled(job_id=job.id)
    raise JobCancelled(retry_after_s=1)


async def _awaited(
    planner: Planner, submitted: Submitted, user_id: int, left_s: float, wait: Wait
) -> Job | Response:
    """The job once it has ended, or the 202 that says where it stands."""
    assert submitted.job_id is not None
    view = await planner.job(submitted.job_id, user_id)
    patient = wait.whatever_position or view["position"] in (0, None)
    if left_s > 0 and patient:
        job = await planner.watch.ended(submitted.job_id, left_s)
        if job is not None:
            return job
        view = await planner.job(submitted.job_id, user_id)
    named = schemas.Queued.model_fields
    return json_answer(
        {name: view[name] for name in named},
        202,
        {
            "Location": view["status_url"],
            "Retry-After": str(_retry_after_s(view["estimated_wait_s"])),
        },
    )


def _retry_after_s(estimated_s: float | None) -> int:
    return max(1, min(_RETRY_AFTER_S_MAX, math.ceil(estimated_s or 1)))
