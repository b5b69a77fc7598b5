"""What the planner's answers say, read on a snapshot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from crowdsafe.errors import NotFound
from crowdsafe.feed.log import head
from crowdsafe.identity.tables import UserRow
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.models import Plan
from crowdsafe.systems.planner.operations.finishing import plan_id_of
from crowdsafe.systems.planner.operations.profiles import quota_key, tier_of
from crowdsafe.systems.planner.operations.sharing import given_to, is_sharer
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.traffic.queue import (
    Job,
    JobQueue,
    QueueView,
    find_jobs,
    get_job,
    place_of,
    queue_view,
)
from crowdsafe.traffic.queue.jobs import COLUMNS, job_of
from crowdsafe.traffic.queue.tables import ACTIVE, ENDED, jobs
from crowdsafe.traffic.quota import day, quota_state

__all__ = [
    "ended_jobs",
    "get_plan",
    "job_for",
    "job_view",
    "list_jobs",
    "list_plans",
    "operator_view",
    "plan_view",
    "profile_view",
    "queue_by_user",
]

PAGE_MAX = 100
API = "/planner/api"


def plan_view(plan: Plan) -> dict[str, Any]:
    """What every answer about a plan says: the same for everyone who may see it."""
    return {
        "plan_id": plan.id,
        "created_at": plan.created_at.isoformat(),
        "request": plan.request,
        **plan.body,
    }


def get_plan(session: Session, plan_id: int, *, user_id: int) -> dict[str, Any]:
    """A plan of this user's, or a public one that they asked for too. Raises NotFound."""
    plan = session.scalar(select(Plan).where(Plan.id == plan_id, given_to(user_id)))
    if plan is None:
        raise NotFound(f"There is no plan {plan_id}, or it is not yours.")
    return plan_view(plan)


def list_plans(
    session: Session, *, user_id: int, cursor: int | None = None, limit: int = 20
) -> dict[str, Any]:
    """A user's plans without their sections, newest first."""
    query = select(
        Plan.id, Plan.idea, Plan.business_type, Plan.audience, Plan.source, Plan.created_at
    ).where(Plan.user_id == user_id)
    if cursor is not None:
        query = query.where(Plan.id < cursor)
    rows = session.execute(query.order_by(Plan.id.desc()).limit(limit + 1)).all()
    items = [
        {
            "plan_id": row.id,
            "idea": row.idea,
            "business_type": row.business_type,
            "audience": row.audience,
            "source": row.source,
            "created_at": row.created_at.isoformat(),
        }
        for row in rows[:limit]
    ]
    return {"items": items, "next_cursor": items[-1]["plan_id"] if len(rows) > limit else None}


def ended_jobs(session: Session, names: Collection[str], *, queue: JobQueue) -> dict[str, Job]:
    """Those of these jobs that have ended, by their id; one statement."""
    found = select(*COLUMNS).where(jobs.c.queue == queue.name, jobs.c.public_id.in_(names), ENDED)
    ended = [job_of(row) for row in session.execute(found)]
    return {job.id: job for job in ended}


def job_for(session: Session, queue: JobQueue, job_id: str, *, user_id: int) -> Job:
    """A job of this user's, or one that they joined. Raises NotFound."""
    job = get_job(session, queue, job_id)
    if job.user != str(user_id) and not is_sharer(session, job_id, user_id):
        raise NotFound(f"There is no job {job_id!r}, or it is not yours.")
    return job


def job_view(session: Session, queue: JobQueue, job_id: str, *, user_id: int) -> dict[str, Any]:
    """Where a job stands. ``last_event_id`` is where its events go on from what this says.

    Raises NotFound, for another user's job as well.
    """
    since = head(session)
    return {
        **_job_view(session, queue, job_for(session, queue, job_id, user_id=user_id)),
        "last_event_id": since,
    }


def list_jobs(session: Session, queue: JobQueue, *, user_id: int) -> list[dict[str, Any]]:
    """A user's jobs that wait or run."""
    found = [
        job
        for state in ("running", "queued")
        for job in find_jobs(session, queue, user=str(user_id), state=state, limit=PAGE_MAX)
    ]
    return [_job_view(session, queue, job) for job in found]


def _job_view(session: Session, queue: JobQueue, job: Job) -> dict[str, Any]:
    waits = job.state in ("queued", "running")
    place = place_of(session, queue, job.id) if waits else None
    asked = job.payload["request"]
    return {
        "job_id": job.id,
        "state": job.state,
        "position": place.position if place else None,
        "estimated_wait_s": round(place.estimated_wait_s, 1) if place else None,
        "progress": dict(job.progress or {}),
        "plan_id": plan_id_of(job),
        "cancel_requested": job.cancel_requested,
        "attempts": job.attempts,
        "idea": asked["idea"],
        "business_type": asked["business_type"],
        "created_at": job.created_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "status_url": f"{API}/jobs/{job.id}",
        "events": f"{API}/jobs/{job.id}/events",
    }


def profile_view(
    session: Session, queue: JobQueue, settings: PlannerSettings, *, user_id: int
) -> dict[str, Any]:
    """What a user may still do today, and what of theirs waits and runs."""
    tier = tier_of(session, user_id)
    now = utcnow()
    today = day(now)
    state = quota_state(session, quota_key(user_id), today, settings.per_day(tier), now=now)
    running, queued = session.execute(
        select(
            func.count().filter(jobs.c.state == "running"),
            func.count().filter(jobs.c.state != "running"),
        ).where(jobs.c.queue == queue.name, jobs.c.user_key == str(user_id), ACTIVE)
    ).one()
    return {
        "user_id": user_id,
        "tier": tier,
        "quota": {
            "limit": state.limit,
            "used": state.used,
            "reserved": state.reserved,
            "left": state.left,
            "resets_at": today.ends_at.isoformat() if today.ends_at else None,
            "resets_in_s": round(today.left_s(now) or 0),
        },
        "limits": {
            "running_max": settings.per_user,
            "queued_max": settings.queued_per_user_max,
        },
        "running": running,
        "queued": queued,
    }


def operator_view(session: Session, queue: JobQueue) -> dict[str, Any]:
    """The queue by user, with the names of their logins."""
    found, logins = queue_by_user(session, queue)
    view = asdict(found)
    users = [
        {**each, "username": logins[each["user"]].username if each["user"] in logins else None}
        for each in view["users"]
    ]
    return {**view, "users": users}


def queue_by_user(session: Session, queue: JobQueue) -> tuple[QueueView, dict[str, UserRow]]:
    """The queue, and the logins of whose jobs are in it by their user."""
    view = queue_view(session, queue)
    ids = [int(each.user) for each in view.users if each.user.isdecimal()]
    found = session.scalars(select(UserRow).where(UserRow.id.in_(ids)))
    return view, {str(login.id): login for login in found}
