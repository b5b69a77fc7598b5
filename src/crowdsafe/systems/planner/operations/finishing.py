"""The end of a job: a plan and its charge, or neither and a refund."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from crowdsafe.feed import publish
from crowdsafe.systems.planner.models import SYSTEM_USER_ID, Plan, SavedSection
from crowdsafe.systems.planner.operations.sharing import keep_sharers
from crowdsafe.traffic.queue import Job
from crowdsafe.traffic.quota import charge, refund

__all__ = ["drop_job", "job_topic", "store_plan", "tell_job", "user_topic"]


def job_topic(job_id: str) -> str:
    """The news of one job: its progress and its end."""
    return f"planner:job:{job_id}"


def user_topic(user_id: int) -> str:
    """The news of one user: jobs that begin and end, plans that are there."""
    return f"planner:user:{user_id}"


def store_plan(session: Session, job: Job, body: dict[str, Any]) -> dict[str, Any]:
    """Store the plan of a job and charge its unit, in the transaction that ends the job.

    Holds: plans stored = units charged, since one transaction does both and ends the job; the
    job's id is unique among plans and names the reservation, so a second run stores and charges
    nothing. Proved by ``tests/systems/planner/test_crash.py``.

    Raises ReservationEnded, which undoes the end of the job.
    """
    payload = job.payload
    asked = payload["request"]
    plan = Plan(
        job_id=job.id,
        user_id=payload["user_id"],
        flight=payload["flight"],
        audience=payload["audience"],
        business_type=asked["business_type"],
        idea=asked["idea"],
        source=body["source"],
        calls=body["calls"],
        request=asked,
        body=body,
    )
    session.add(plan)
    session.flush()
    charge(session, job.id)
    keep_sharers(session, job.id)
    _forget_sections(session, job.id)
    return {"plan_id": plan.id}


def drop_job(session: Session, job: Job) -> None:
    """Give back the unit of a job that ends without a plan, in the transaction that ends it."""
    refund(session, job.id)
    _forget_sections(session, job.id)


def tell_job(session: Session, job: Job) -> None:
    """Publish a job's state and progress, in the transaction of the change."""
    news = {
        "job_id": job.id,
        "state": job.state,
        "progress": dict(job.progress or {}),
        "plan_id": plan_id_of(job),
        "cancel_requested": job.cancel_requested,
    }
    publish(session, job_topic(job.id), "job.changed", news, key=job.id)
    user_id = job.payload["user_id"]
    if user_id != SYSTEM_USER_ID and not (job.state == "running" and job.progress):
        publish(session, user_topic(user_id), "job.changed", news, key=job.id)


def plan_id_of(job: Job) -> int | None:
    """The plan that a finished job made."""
    result = job.result
    return result.get("plan_id") if isinstance(result, dict) else None


def _forget_sections(session: Session, job_id: str) -> None:
    session.execute(delete(SavedSection).where(SavedSection.job_id == job_id))
