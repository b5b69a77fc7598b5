"""What no worker does for its own jobs: leases that ran out, waits too long, jobs long ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, bindparam, delete, select
from sqlalchemy.orm import Session

from crowdsafe.store.options import write
from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.queue.finish import end, requeue
from crowdsafe.traffic.queue.jobs import COLUMNS, job_of
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.sql import DIALECTS, among, listed, moment
from crowdsafe.traffic.queue.tables import ENDED, RUNNING, WAITING, jobs

__all__ = ["SWEEP_MAX", "Swept", "sweep"]

SWEEP_MAX = 200


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
        self.expired = (
            whole.where(of_queue, WAITING, jobs.c.expires_at <= now, known)
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
    or is cancelled where that was asked for. A job that did not start before its ``expires_at``
    fails. Jobs that ended longer than ``keep_s`` ago are deleted. Kinds that this process does not
    know are left to those that do.

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
    requeued = ended = 0
    for row in connection.execute(sql.stalled, values).all():
        if _stalled(session, queue, row, moment_now):
            requeued += 1
        else:
            ended += 1
    for row in connection.execute(sql.expired, values).all():
        waited_s = (row.expires_at - row.created_at).total_seconds()
        end(
            session, queue, row.row_id, "failed",
            f"expired: it had not started {waited_s:.0f} s after it was enqueued", moment_now,
        )  # fmt: skip
        ended += 1
    gone = connection.execute(sql.forget, values)
    return Swept(requeued, ended, int(gone.rowcount))


def _stalled(session: Session, queue: JobQueue, row: Any, now: datetime) -> bool:
    """Requeue a job whose worker is gone, or end it; whether it was requeued."""
    job = job_of(row)
    if job.cancel_requested:
        end(session, queue, row.row_id, "cancelled", None, now)
        return False
    kind = queue.by_name[job.kind]
    if job.attempts >= kind.attempts:
        text = f"its worker died or stalled, in attempt {job.attempts} of {kind.attempts}"
        end(session, queue, row.row_id, "failed", text, now)
        return False
    requeue(session, queue, row.row_id, "queued", job.error, job.run_after)
    return True
