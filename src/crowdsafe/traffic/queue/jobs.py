"""What a caller sees of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput, NotFound
from crowdsafe.traffic.arguments import check_whole, wrong_input
from crowdsafe.traffic.keys import KEY_CHARS_MAX, check_text, text_problem
from crowdsafe.traffic.queue.kinds import JobQueue, Priority
from crowdsafe.traffic.queue.tables import RUNNING, WAITING, jobs

__all__ = [
    "COLUMNS",
    "Claimed",
    "Enqueued",
    "Job",
    "State",
    "check_id",
    "find_jobs",
    "get_job",
    "job_of",
]

State = Literal["queued", "running", "done", "failed", "cancelled"]
FIND_MAX = 1000
ID_CHARS_MAX = 64
_STATES = get_args(State)

COLUMNS = (
    jobs.c.public_id,
    jobs.c.queue,
    jobs.c.kind,
    jobs.c.user_key,
    jobs.c.state,
    jobs.c.priority,
    jobs.c.payload,
    jobs.c.result,
    jobs.c.error,
    jobs.c.progress,
    jobs.c.attempts,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.cancel_requested,
    jobs.c.dedup_key,
    jobs.c.run_after,
    jobs.c.expires_at,
)
"""What a Job is made of, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when it was read. ``attempts`` is how often it was begun, ``started_at``
    when it was begun last; ``run_after`` and ``expires_at`` bound the time in which it may start.
    """

    id: str
    queue: str
    kind: str
    user: str
    state: State
    priority: Priority
    payload: dict[str, Any]
    result: Any
    error: str | None
    progress: dict[str, Any]
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    key: str | None
    run_after: datetime
    expires_at: datetime

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The job, and whether it is new: false when one of the same key was waiting or running."""

    job: Job
    created: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is the caller's until its lease ends; ``token`` proves that."""

    job: Job
    token: str
    lease_until: datetime


_PRIORITIES: Mapping[int, Priority] = {int(priority): priority for priority in Priority}


def job_of(row: Any) -> Job:
    """The job of a row that begins with ``COLUMNS``."""
    (public_id, queue, kind, user, state, priority, payload, result, error, progress) = row[:10]
    return Job(
        public_id,
        queue,
        kind,
        user,
        "queued" if state == "delayed" else state,
        _PRIORITIES[priority],
        payload,
        result,
        error,
        progress or {},
        *row[10:18],
    )


_GET = select(*COLUMNS).where(
    jobs.c.queue == bindparam("the_queue"), jobs.c.public_id == bindparam("the_id")
)


def get_job(session: Session, queue: JobQueue, job_id: str) -> Job:
    """The job. Raises NotFound."""
    check_id(job_id)
    row = session.connection().execute(_GET, {"the_queue": queue.name, "the_id": job_id}).first()
    if row is None:
        raise not_found(job_id)
    return job_of(row)


def not_found(job_id: Any) -> NotFound:
    """The error for a job that is not there, or not any more."""
    shown = job_id if text_problem(job_id, ID_CHARS_MAX) is None else ascii(job_id)[:ID_CHARS_MAX]
    return NotFound(f"there is no job {shown!r}, or it ended long ago", id=shown)


def check_id(job_id: Any) -> None:
    """Raise NotFound for an id that no job can have: a database could not even look for it."""
    if text_problem(job_id, ID_CHARS_MAX) is not None:
        raise not_found(job_id)


def find_jobs(
    session: Session,
    queue: JobQueue,
    *,
    user: str | None = None,
    state: State | None = None,
    limit: int = 100,
) -> list[Job]:
    """The newest jobs first, at most ``limit`` (1 to 1000). Raises InvalidInput."""
    check_whole("limit", limit, 1, FIND_MAX, error=InvalidInput)
    if user is not None:
        check_text("user", user, KEY_CHARS_MAX)
    if state is not None and state not in _STATES:
        raise wrong_input("state", state, _STATES)
    found: Select[Any] = select(*COLUMNS).where(jobs.c.queue == queue.name)
    if user is not None:
        found = found.where(jobs.c.user_key == user)
    if state == "queued":
        found = found.where(WAITING)
    elif state == "running":
        found = found.where(RUNNING)
    elif state is not None:
        found = found.where(jobs.c.state == state)
    rows = session.connection().execute(found.order_by(jobs.c.id.desc()).limit(limit))
    return [job_of(row) for row in rows]
