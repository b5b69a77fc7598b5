"""What no worker does for its own jobs: leases that ran out, waits too long, jobs long ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, and_, bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from crowdsafe.store.options import write
from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.queue.finish import end, requeue
from crowdsafe.traffic.queue.hooks import PUT_OFF_S, tried
from crowdsafe.traffic.queue.jobs import COLUMNS, Job, job_of
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.sql import DIALECTS, among, listed, moment
from crowdsafe.traffic.queue.tables import ENDED, RUNNING, WAITING, jobs

__all__ = ["PUT_OFF_S", "SWEEP_MAX", "Swept", "sweep"]

SWEEP_MAX = 200
_PUT_OFF = (
    update(jobs)
    .where(jobs.c.id == bindparam("row_id"))
    .values(state="delayed", lease_token=None, lease_until=bindparam("later", type_=UtcDateTime))
)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many jobs were given back to the queue, ended, and forgotten."""

    requeued: int
    ended: int
    forgotten: int

    @property
    def most(self) -> int:
        """The greatest of them: when it reached the limit there may be more."""
        return max(self.requeued + self.ended, self.forgotten)


class _Statements:
    """The statements of one dialect."""

    def __init__(self, dialect: str) -> None:
        of_queue = jobs.c.queue == bindparam("the_queue")
        now = bindparam("now", type_=UtcDateTime)
        at_most = bindparam("at_most", type_=Integer)
        known = among(dialect, jobs.c.kind, "kinds")
        whole = select(*COLUMNS, jobs.c.id.label("row_id"))
        self.stalled = (
            whole.where(of_queue, RUNNING, jobs.c.lease_until <= now, known)
            .order_by(jobs.c.id)
            .limit(at_most)
            .with_for_update(skip_locked=True)
        )
        expired = and_(jobs.c.expires_at <= now, jobs.c.lease_until.is_(None))
        put_off = jobs.c.lease_until <= now
        self.waiting = (
            whole.where(of_queue, WAITING, or_(expired, put_off), known)
            .order_by(jobs.c.id)
            .limit(at_most)
            .with_for_update(skip_locked=True)
        )
        old = (
            select(jobs.c.id)
            .where(of_queue, ENDED, jobs.c.finished_at <= bindparam("before", type_=UtcDateTime))
            .order_by(jobs.c.finished_at)
            .limit(at_most)
            .with_for_update(skip_locked=True)
        )
        self.forget = delete(jobs).where(jobs.c.id.in_(old))


_SQL = {dialect: _Statements(dialect) for dialect in DIALECTS}


@write(isolation="read committed")
def sweep(
    session: Session, queue: JobQueue, *, limit: int = SWEEP_MAX, now: datetime | None = None
) -> Swept:
    """Deal with at most ``limit`` jobs of each sort; any process may, several at once too.

    A job whose lease ran out goes back to its old place, or, where its attempts are spent, fails,
    or is cancelled where that was asked for. A job that waits at its ``expires_at``, to be begun
    or to be begun again, fails. Jobs that ended longer than ``keep_s`` ago are deleted. Kinds that
    this process does not know are left to those that do.

    A job whose ``dropped`` or ``changed`` raises is put off: that is logged, the job waits outside
    every limit, and a sweep after ``PUT_OFF_S`` tries again. The others do not wait for it.

    Holds: each of them happens once to a job, together with its kind's ``dropped`` and ``changed``.
    Proved by ``tests/traffic/test_queue_finish.py`` and ``tests/traffic/test_queue_kill.py``.
    """
    session.flush()
    connection = session.connection()
    sql = _SQL[connection.dialect.name]
    moment_now = moment(connection, now)
    values: dict[str, Any] = {
        "the_queue": queue.name,
        "now": moment_now,
        "before": moment_now - timedelta(seconds=queue.keep_s),
        "at_most": limit,
        "kinds": listed(connection, queue.by_name),
    }
    rows = [*connection.execute(sql.stalled, values), *connection.execute(sql.waiting, values)]
    # What a hook locks for a user is locked in one order by all sweeps.
    rows.sort(key=lambda row: (row.user_key, row.row_id))
    counts = Counter(_settle(session, queue, row, moment_now) for row in rows)
    gone = connection.execute(sql.forget, values)
    return Swept(counts["requeued"], counts["ended"], int(gone.rowcount))


def _settle(session: Session, queue: JobQueue, row: Any, now: datetime) -> str:
    """Requeue, end or put off one job, in a savepoint."""
    with tried(session, f"job {row.public_id} could not be swept") as trial:
        back = _requeued(session, queue, row, now)
    if not trial.failed:
        return "requeued" if back else "ended"
    later = now + timedelta(seconds=PUT_OFF_S)
    session.connection().execute(_PUT_OFF, {"row_id": row.row_id, "later": later})
    return "put off"


def _requeued(session: Session, queue: JobQueue, row: Any, now: datetime) -> bool:
    """Requeue a job whose worker is gone, or end it; whether it was requeued."""
    job = job_of(row)
    state, text = "failed", None
    kind = queue.by_name[job.kind]
    if job.cancel_requested:
        state = "cancelled"
    elif job.state == "queued" and job.expires_at <= now:
        text = _expired(job)
    elif job.attempts >= kind.attempts:
        text = f"its worker died or stalled, in attempt {job.attempts} of {kind.attempts}"
    else:
        requeue(session, queue, row.row_id, "queued", job.error, job.run_after)
        return True
    end(session, queue, row.row_id, state, text, now)
    return False


def _expired(job: Job) -> str:
    within = f"{(job.expires_at - job.created_at).total_seconds():.0f} s after it was enqueued"
    if job.started_at is None:
        return f"expired: it had not started {within}"
    begun = f"it was begun {job.attempts} times, and waited to be begun again {within}"
    return f"expired: {begun}; the last error: {job.error}" if job.error else f"expired: {begun}"
