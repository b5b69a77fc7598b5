"""Who else asked for a public plan: they may follow its job and read it, and nobody else may."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.errors import JobCancelled
from crowdsafe.systems.planner.models import SYSTEM_USER_ID, Plan, Sharer
from crowdsafe.traffic.queue import Job
from crowdsafe.traffic.queue.tables import jobs
from crowdsafe.writes.rows import table_of, upsert

__all__ = [
    "forget_sharers",
    "given_to",
    "is_sharer",
    "join_job",
    "keep_sharers",
    "others_wait",
    "share_plan",
]


def join_job(session: Session, job: Job, user_id: int) -> None:
    """Let a user wait for a job, of their own or of whoever asked for the same before.

    Holds: who has joined another's job gets its outcome, since the job can then not be cancelled
    by who asked first: the job's row is locked until the commit, as ``cancel_job`` does.
    Proved by ``tests/systems/planner/test_sharing.py``.

    Raises JobCancelled for a job that is being cancelled.
    """
    if user_id in (SYSTEM_USER_ID, job.payload["user_id"]):
        state, cancelled = job.state, job.cancel_requested
    else:
        now = select(jobs.c.state, jobs.c.cancel_requested).where(jobs.c.public_id == job.id)
        state, cancelled = session.execute(now.with_for_update(read=True)).one()
        _share(session, job.id, user_id, for_good=state == "done")
    if state == "cancelled" or (state == "running" and cancelled):
        raise JobCancelled(
            "The job for the same request is just being cancelled; ask again in a moment.",
            job_id=job.id,
            retry_after_s=1,
        )


def share_plan(session: Session, job_id: str, owner_id: int, user_id: int) -> None:
    """Let a user read the public plan of a job that ended, since they asked for the same."""
    if user_id not in (SYSTEM_USER_ID, owner_id):
        _share(session, job_id, user_id, for_good=True)


def keep_sharers(session: Session, job_id: str) -> None:
    """Let who joined a job read its plan as long as that is there; in the job's transaction."""
    session.execute(update(Sharer).where(Sharer.job_id == job_id).values(joined_at=None))


def others_wait(session: Session, job_id: str) -> bool:
    """Whether somebody has joined a job that waits or runs; holds its row until the commit."""
    state = select(jobs.c.state).where(jobs.c.public_id == job_id).with_for_update()
    active = session.scalar(state) in ("queued", "delayed", "running")
    joined = select(Sharer.user_id).where(Sharer.job_id == job_id).limit(1)
    return active and session.scalar(joined) is not None


def is_sharer(session: Session, job_id: str, user_id: int) -> bool:
    """Whether a user has joined a job, or was given its plan."""
    return session.get(Sharer, (job_id, user_id)) is not None


def given_to(user_id: int) -> ColumnElement[bool]:
    """The condition under which a user may read a row of ``Plan``."""
    asked = exists().where(Sharer.job_id == Plan.job_id, Sharer.user_id == user_id)
    return (Plan.user_id == user_id) | ((Plan.audience == "public") & asked)


@write(isolation="read committed")
def forget_sharers(session: Session, *, older_s: float, limit: int = 1000) -> int:
    """Forget who joined jobs that ended long ago without a plan; how many there were."""
    old = (
        select(Sharer.job_id)
        .where(Sharer.joined_at < utcnow() - timedelta(seconds=older_s))
        .limit(limit)
    )
    gone = session.execute(
        delete(Sharer)
        .where(Sharer.job_id.in_(old), Sharer.joined_at.is_not(None))
        .returning(Sharer.user_id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())


def _share(session: Session, job_id: str, user_id: int, *, for_good: bool) -> None:
    row = {"job_id": job_id, "user_id": user_id, "joined_at": None if for_good else utcnow()}
    insert = upsert(session, table_of(Sharer)).values(row)
    session.execute(insert.on_conflict_do_nothing(index_elements=["job_id", "user_id"]))
