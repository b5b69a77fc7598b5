"""The planner's pages over HTTP: real data at first paint, and the same views for their scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from crowdsafe.identity import User
from crowdsafe.systems.planner.api.common import JobId, PlanId, planner_of
from crowdsafe.systems.planner.operations.finishing import user_topic
from crowdsafe.systems.planner.pages import operator, reads, words
from crowdsafe.systems.planner.schemas import ID_MAX
from crowdsafe.web.auth import check_roles
from crowdsafe.web.fastapi import CurrentUser, FeedDep, json_answer, store_of
from crowdsafe.web.pages import NavItem, Pages, Section
from crowdsafe.web.sse import event_stream

__all__ = ["SECTION", "page_router"]

API = "/planner/api"
ADMIN = frozenset({"admin"})
NEWS = "/planner/now/events"

SECTION = Section(
    name="planner",
    title="PlanSpark",
    folder=Path(__file__).parent,
    nav=(
        NavItem("/planner/new", "New plan"),
        NavItem("/planner/plans", "Plans"),
        NavItem("/planner/queue", "Queue", ADMIN),
    ),
    summary="Business plans that cost fifteen slow calls to a language model that is limited and "
    "fails. A hundred people ask at once: each gets a turn, nobody pays twice, and a plan that "
    "was promised is written even after a crash.",
)

OptionalJobId = Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")]
Cursor = Annotated[int | None, Query(ge=1, le=ID_MAX)]
Show = Callable[..., Awaitable[Response]]


def page_router(pages: Pages) -> APIRouter:
    """All pages under ``/planner``, and under ``/planner/now`` what their scripts ask for."""
    pages.filters.update(
        plan_timeline=words.timeline_words,
        plan_budget=words.budget_words,
        plan_source=words.source_words,
    )

    async def show(
        request: Request,
        user: User,
        template: str,
        read: Callable[..., Any],
        events: str = "",
        **kwargs: Any,
    ) -> Response:
        planner = planner_of(request)
        found = await store_of(request).read(read, planner, user, **kwargs)
        frame = {"user": user, "section": SECTION.name, "events": events}
        return pages.render(request, f"planner/{template}", frame | found)

    router = pages.router()

    @router.get("/planner")
    async def start() -> Response:
        return RedirectResponse("/planner/new", status_code=303)

    _own_pages(router, show)
    _operator_page(router, pages)
    outer = APIRouter(include_in_schema=False)
    outer.include_router(router)
    outer.include_router(_views())
    return outer


def _own_pages(router: APIRouter, show: Show) -> None:
    @router.get("/planner/new")
    async def idea(request: Request, user: CurrentUser, again: OptionalJobId = "") -> Response:
        return await show(request, user, "idea.html", reads.idea, NEWS, again=again)

    @router.get("/planner/jobs/{job_id}")
    async def job(request: Request, user: CurrentUser, job_id: JobId) -> Response:
        events = f"{API}/jobs/{job_id}/events"
        return await show(request, user, "job.html", reads.job, events, job_id=job_id)

    @router.get("/planner/plans")
    async def plans(request: Request, user: CurrentUser, before: Cursor = None) -> Response:
        return await show(request, user, "plans.html", reads.plans, NEWS, cursor=before)

    @router.get("/planner/plans/{plan_id}")
    async def plan(request: Request, user: CurrentUser, plan_id: PlanId) -> Response:
        return await show(request, user, "plan.html", reads.plan, plan_id=plan_id)


def _operator_page(router: APIRouter, pages: Pages) -> None:
    @router.get("/planner/queue")
    async def queue(request: Request, user: CurrentUser) -> Response:
        check_roles(user, ADMIN)
        found = await operator.queue_now(planner_of(request))
        frame = {"user": user, "section": SECTION.name, "queue": found}
        return pages.render(request, "planner/queue.html", frame)


def _views() -> APIRouter:
    """What the scripts ask for after an event: the same views as at first paint, as JSON."""
    router = APIRouter(prefix="/planner/now", include_in_schema=False)

    @router.get("/events")
    async def events(request: Request, hub: FeedDep, user: CurrentUser) -> Response:
        return event_stream(request, hub, [user_topic(user.id)])

    @router.get("/profile")
    async def profile(request: Request, user: CurrentUser) -> Response:
        return json_answer(await _read(request, user, reads.profile))

    @router.get("/jobs/{job_id}")
    async def job(request: Request, user: CurrentUser, job_id: JobId) -> Response:
        return json_answer((await _read(request, user, reads.job, job_id=job_id))["job"])

    @router.get("/plans")
    async def plans(request: Request, user: CurrentUser) -> Response:
        return json_answer(await _read(request, user, reads.plans))

    @router.get("/queue")
    async def queue(request: Request, user: CurrentUser) -> Response:
        check_roles(user, ADMIN)
        return json_answer(await operator.queue_now(planner_of(request)))

    return router


async def _read(request: Request, user: User, read: Callable[..., Any], **kwargs: Any) -> Any:
    return await store_of(request).read(read, planner_of(request), user, **kwargs)
