"""Cancel a job that waits, or ask the worker that runs it to stop."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from crowdsafe.store.session import after_commit
from crowdsafe.traffic.queue.finish import end, tell
from crowdsafe.traffic.queue.jobs import COLUMNS, Job, check_id, job_of, not_found
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.nudge import nudge_workers
from crowdsafe.traffic.queue.sql import hold_writer, moment
from crowdsafe.traffic.queue.tables import jobs

__all__ = ["cancel"]

_FIND = (
    select(*COLUMNS, jobs.c.id.label("row_id"))
    .where(jobs.c.queue == bindparam("the_queue"), jobs.c.public_id == bindparam("the_id"))
    .with_for_update()
)
_ASK = (
    update(jobs)
    .where(jobs.c.id == bindparam("row_id"))
    .values(cancel_requested=True)
    .returning(*COLUMNS)
)


def cancel(
    session: Session,
    queue: JobQueue,
    job_id: str,
    *,
    only_waiting: bool = False,
    now: datetime | None = None,
) -> Job:
    """Cancel a job: at once while it waits; a running one when its worker has stopped it.

    A running job gets ``cancel_requested`` and can no longer complete; its worker learns of that
    right after the commit in the same process, else when it reports progress, with its next sign
    of life (two seconds, or a third of the kind's ``lease_s``), or when it is through. A job
    that has ended stays as it is: look at the ``state`` of what comes back. With ``only_waiting``
    so does one that runs.

    Holds: a job that was cancelled while it waited is never begun, and one that was cancelled while
    it ran does not become done, whichever process is told; with ``only_waiting`` a job that a
    worker was faster to claim is not harmed. Does not hold: that it stops at once.
    Proved by ``tests/traffic/test_queue_finish.py``.

    Raises NotFound.
    """
    check_id(job_id)
    session.flush()
    connection = session.connection()
    hold_writer(connection, queue.name)
    row = connection.execute(_FIND, {"the_queue": queue.name, "the_id": job_id}).first()
    if row is None:
        raise not_found(job_id)
    job = job_of(row)
    if job.state == "queued":
        return end(session, queue, row.row_id, "cancelled", None, moment(connection, now))
    if job.state == "running" and not job.cancel_requested and not only_waiting:
        job = job_of(connection.execute(_ASK, {"row_id": row.row_id}).one())
        tell(session, queue, job)
        after_commit(session, lambda: nudge_workers(queue.name, cancelled=True))
    return job
