"""Ask for a plan: join who asks for the same, take the stored one, or queue a job for one unit.

Two requests are the same flight when their fingerprints are equal and they may share an answer:
those of one user, or, where the caller said public, everyone's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, or_, select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import QueueFull, QuotaExceeded, TooManyQueued
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.models import SYSTEM_USER_ID, Plan
from crowdsafe.systems.planner.operations.profiles import profile_of, quota_key
from crowdsafe.systems.planner.operations.sharing import is_sharer, join_job, share_plan
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.traffic.queue import JobQueue, Priority, cancel, enqueue
from crowdsafe.traffic.quota import day, reserve
from crowdsafe.writes import once

__all__ = ["KIND", "Submitted", "flight_of", "fresh_plan", "plan_at_hand", "submit"]

KIND = "planner.plan"
"""The kind of the jobs that make plans."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """Where the answer will be: a stored plan, or a job, which may be that of a twin."""

    plan_id: int | None = None
    job_id: str | None = None


def flight_of(request: PlanRequest, user_id: int) -> str:
    """The name under which equal requests find each other: scoped to the user unless public."""
    if request.audience == "public":
        return f"public:{request.fingerprint()}"
    return f"user:{user_id}:{request.fingerprint()}"


def fresh_plan(
    session: Session, flight: str, settings: PlannerSettings, *, by_anyone: bool = False
) -> Row[int, str, int] | None:
    """Id, job and user of the latest plan of a flight that is young enough to be an answer.

    That is ``plan_fresh_s`` for one that an upstream wrote, and ``offline_fresh_s`` for one that
    was written, as a whole or in part, without it; with ``by_anyone`` the former for both.
    """
    now = utcnow()
    young = Plan.created_at > now - timedelta(seconds=settings.plan_fresh_s)
    offline_s = min(settings.offline_fresh_s, settings.plan_fresh_s)
    if not by_anyone:
        very_young = Plan.created_at > now - timedelta(seconds=offline_s)
        young &= or_(Plan.source == "upstream", very_young)
    found = select(Plan.id, Plan.job_id, Plan.user_id).where(Plan.flight == flight, young)
    return session.execute(found.order_by(Plan.id.desc()).limit(1)).first()


def plan_at_hand(
    session: Session, flight: str, settings: PlannerSettings, user_id: int
) -> int | None:
    """The fresh plan of a flight, if this user was given it before."""
    plan = fresh_plan(session, flight, settings)
    if plan is None or not (plan.user_id == user_id or is_sharer(session, plan.job_id, user_id)):
        return None
    return int(plan.id)


@write(isolation="read committed")
def submit(
    session: Session,
    *,
    queue: JobQueue,
    settings: PlannerSettings,
    user_id: int,
    request: PlanRequest,
    idempotency: tuple[str, Any] | None = None,
) -> Submitted:
    """Find or make what will answer ``request``, in one transaction.

    The job is inserted under its flight first, then a stored plan is looked for, then a unit of
    the day's quota is reserved under the job's id. What comes in between, with a twin:

    - The twin is queued or runs: the insert meets its key, and its job is the answer.
    - The twin's insert is not committed: the unique key makes this insert wait. It commits: as
      above. It is undone (no quota left): this one goes on, and is judged by itself.
    - The twin is finishing: plan, charge and the end of its job are one transaction, whose update
      of the job's row makes this insert wait. It commits: the key is free, this insert succeeds,
      and the look for a stored plan is a later statement, which at READ COMMITTED sees the plan:
      the insert is undone by its savepoint. It is undone (lease lost): the job still runs: as
      above. Had the look come first, a twin that finishes between look and insert would be missed
      and the plan made and paid twice.
    - The twin is cancelled or fails: the same wait; the key is free, there is no plan, and this
      request gets a job and a unit of its own. One that is told to stop, but has not: JobCancelled.
    - The twin finished before: the plan is there.

    Locks are taken in one order: the record of the idempotency key, the user's turn to enqueue,
    the job's row (one's own, a twin's to join it, an idle one's to take its place), profile and
    quota. Who ends a job takes its row and then the quota's too, so none of this waits in a
    circle; combined calls are all one user's. Where a database finds a circle all the same, the
    transaction is run again. On SQLite there is one writer, and each case is one of the first or
    the last. Quota and job commit together or not at all: a unit is never reserved for a job that
    is not there.

    Holds: one job and one plan at a time for a flight, over all processes. Does not hold: one
    plan for ever: one older than ``plan_fresh_s`` is made and charged anew, and after
    ``offline_fresh_s`` one that was written offline because the upstream was in trouble.
    Proved by ``tests/systems/planner/test_guarantees.py``, ``tests/systems/planner/test_flow.py``.

    With ``idempotency`` (key, what was asked) the first answer under this user's key is stored
    with its effects, and later calls get it: one key is never more than one job.

    Raises, in this order, QuotaExceeded, TooManyQueued and QueueFull, and nothing is stored then;
    KeyReused, JobCancelled.
    """

    def run() -> Submitted:
        return _submit(session, queue, settings, user_id, request, Priority.NORMAL)

    if idempotency is None:
        return run()
    key, asked = idempotency
    scope = f"user:{user_id} POST planner/plans"
    done = once(session, key, lambda: asdict(run()), request=asked, scope=scope)
    return Submitted(**done.answer)


@write(isolation="read committed")
def submit_idle(
    session: Session, *, queue: JobQueue, settings: PlannerSettings, request: PlanRequest
) -> Submitted:
    """As ``submit``, for a public plan that nobody asked for: behind every person's job."""
    return _submit(session, queue, settings, SYSTEM_USER_ID, request, Priority.IDLE)


def _submit(
    session: Session,
    queue: JobQueue,
    settings: PlannerSettings,
    user_id: int,
    request: PlanRequest,
    priority: Priority,
) -> Submitted:
    flight = flight_of(request, user_id)
    job_id = uuid.uuid4().hex

    def insert() -> Any:
        return enqueue(
            session,
            queue,
            KIND,
            id=job_id,
            user=str(user_id),
            key=flight,
            priority=priority,
            expires_s=settings.job_expires_s,
            payload={
                "request": request.model_dump(mode="json"),
                "user_id": user_id,
                "audience": request.audience,
                "flight": flight,
            },
        )

    with session.begin_nested() as savepoint:
        found, refusal = _enqueued(insert)
        if found is not None and _waits_idle(found, priority):
            cancel(session, queue, found.job.id, only_waiting=True)
            found, refusal = _enqueued(insert)
        if found is not None and not found.created:
            join_job(session, found.job, user_id)
            return Submitted(job_id=found.job.id)
        plan = _stored_or_reserved(session, settings, flight, user_id, job_id)
        if plan is None:
            if refusal is not None:
                raise refusal
            return Submitted(job_id=job_id)
        savepoint.rollback()
    share_plan(session, plan.job_id, plan.user_id, user_id)
    return Submitted(plan_id=plan.id)


def _stored_or_reserved(
    session: Session, settings: PlannerSettings, flight: str, user_id: int, job_id: str
) -> Row[int, str, int] | None:
    """The plan that is stored, or None with a unit reserved for the job that makes one.

    Who has no unit left keeps a plan that was written offline as long as any other.
    """
    plan = fresh_plan(session, flight, settings)
    if plan is not None:
        return plan
    try:
        _reserve(session, settings, user_id, job_id)
    except QuotaExceeded:
        plan = fresh_plan(session, flight, settings, by_anyone=True)
        if plan is None:
            raise
    return plan


def _enqueued(insert: Callable[[], Any]) -> tuple[Any, TooManyQueued | QueueFull | None]:
    """What ``enqueue`` gave, or its refusal, which only counts when nothing before it refuses."""
    try:
        return insert(), None
    except (TooManyQueued, QueueFull) as refusal:
        return None, refusal


def _waits_idle(found: Any, priority: Priority) -> bool:
    """Whether a person would wait behind everybody for a job that nobody asked for."""
    job = found.job
    return (
        not found.created
        and job.state == "queued"
        and job.priority == Priority.IDLE
        and priority != Priority.IDLE
    )


def _reserve(session: Session, settings: PlannerSettings, user_id: int, job_id: str) -> None:
    if user_id == SYSTEM_USER_ID:
        limit: int | None = settings.pregenerate_per_day
    else:
        limit = settings.per_day(profile_of(session, user_id).tier)
    reserve(
        session,
        quota_key(user_id),
        limit=limit,
        period=day(),
        expires_s=settings.reservation_s,
        id=job_id,
    )
