"""Cancel a job on behalf of who asked for it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import NotFound
from crowdsafe.systems.planner.errors import JobEnded, JobShared
from crowdsafe.systems.planner.operations.finishing import plan_id_of
from crowdsafe.systems.planner.operations.sharing import others_wait
from crowdsafe.traffic.queue import JobQueue, cancel, get_job

__all__ = ["cancel_job"]


@write(isolation="read committed")
def cancel_job(session: Session, queue: JobQueue, job_id: str, *, user_id: int) -> None:
    """Cancel a job of this user's; a second time is no harm.

    Holds: a waiting job never runs and its unit is given back in the same transaction; a running
    one either ends cancelled, with its unit given back, or had finished first and keeps its plan.
    A job that others have joined, since its plan will be public, goes on.
    Proved by ``tests/systems/planner/test_bad_input.py`` and
    ``tests/systems/planner/test_sharing.py``.

    Raises NotFound, JobEnded, JobShared.
    """
    job = get_job(session, queue, job_id)
    if job.user != str(user_id):
        raise NotFound(f"There is no job {job_id!r}, or it is not yours.")
    if not job.ended:
        if others_wait(session, job_id):
            raise JobShared(job_id=job_id)
        job = cancel(session, queue, job_id)
    if job.state in ("done", "failed"):
        raise JobEnded(current=job.state, plan_id=plan_id_of(job))
