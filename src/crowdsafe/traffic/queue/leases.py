"""Signs of life of running jobs, and what they store on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, bindparam, select, update
from sqlalchemy.orm import Session

from crowdsafe.store.options import write
from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.queue.finish import PROGRESS_BYTES_MAX, held_rows, lease_lost, tell
from crowdsafe.traffic.queue.jobs import COLUMNS, Job, job_of
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.sql import DIALECTS, as_json, encoded, moment, rows_value
from crowdsafe.traffic.queue.tables import STILL_RUNNING, jobs

__all__ = ["Renewed", "hold_lease", "renew", "report"]

_HOLD = (
    select(jobs.c.id)
    .where(
        jobs.c.public_id == bindparam("the_id"),
        STILL_RUNNING,
        jobs.c.lease_token == bindparam("token"),
    )
    .with_for_update()
)


@dataclass(frozen=True, slots=True)
class Renewed:
    """Ids of jobs: whose lease was renewed, whose is lost, and which are to be cancelled."""

    held: frozenset[str]
    lost: frozenset[str]
    cancelled: frozenset[str]


class _Statements:
    """The statements of one dialect."""

    def __init__(self, dialect: str) -> None:
        _, mine = held_rows(dialect, {})
        self.renew = (
            update(jobs)
            .where(*mine)
            .values(lease_until=bindparam("until", type_=UtcDateTime))
            .returning(jobs.c.public_id, jobs.c.cancel_requested)
        )
        progress = as_json(dialect, bindparam("the_progress", type_=Text))
        self.report = update(jobs).where(*mine).values(progress=progress).returning(*COLUMNS)


_SQL = {dialect: _Statements(dialect) for dialect in DIALECTS}


@write(isolation="read committed")
def renew(
    session: Session,
    queue: JobQueue,
    held: Mapping[str, str],
    lease_s: float,
    *,
    now: datetime | None = None,
) -> Renewed:
    """Renew the leases of jobs, given by id and token, to ``lease_s`` from now, in one UPDATE.

    Holds: a lease that somebody else has taken over is not touched, and named as lost. A lease that
    ran out but that nobody took is renewed. Proved by ``tests/traffic/test_queue_finish.py``.
    """
    session.flush()
    connection = session.connection()
    rows = [{"job": job_id, "token": token} for job_id, token in held.items()]
    until = moment(connection, now) + timedelta(seconds=lease_s)
    values = {"the_queue": queue.name, "rows": rows_value(rows), "until": until}
    found = connection.execute(_SQL[connection.dialect.name].renew, values).all()
    kept = frozenset(row.public_id for row in found)
    return Renewed(
        kept,
        frozenset(held) - kept,
        frozenset(row.public_id for row in found if row.cancel_requested),
    )


@write(isolation="read committed")
def report(
    session: Session, queue: JobQueue, job_id: str, token: str, progress: Mapping[str, Any]
) -> Job:
    """Store what a running job says of its progress; the job, which may be one to cancel.

    Raises LeaseLost, InvalidInput.
    """
    text = encoded(dict(progress), "progress", PROGRESS_BYTES_MAX)
    session.flush()
    connection = session.connection()
    rows = rows_value([{"job": job_id, "token": token}])
    values = {"the_queue": queue.name, "rows": rows, "the_progress": text}
    row = connection.execute(_SQL[connection.dialect.name].report, values).first()
    if row is None:
        raise lease_lost(job_id)
    job = job_of(row)
    tell(session, queue, job)
    return job


def hold_lease(session: Session, job_id: str, token: str) -> None:
    """Have the rest of this transaction done under the lease of a running job, or not at all.

    Holds: what the transaction writes is there before the job ends or is begun again, so that its
    end sees it, and nothing is written afterwards. In a store's write; the job's end waits for it.
    Proved by ``tests/traffic/test_queue_finish.py``.

    Raises LeaseLost.
    """
    held = session.connection().execute(_HOLD, {"the_id": job_id, "token": token}).first()
    if held is None:
        raise lease_lost(job_id)
