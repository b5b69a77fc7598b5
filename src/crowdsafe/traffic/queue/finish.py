"""The end of a job's attempt. Whoever no longer holds the lease changes nothing.

The token of the lease is the fence: a new one is drawn with every claim, and each statement here
asks for it, so a worker that was away for too long, stopped or cut off, cannot end a job that
somebody else has begun meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import String, Text, bindparam, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from crowdsafe.errors import LeaseLost
from crowdsafe.store.options import Call, combined_by, write
from crowdsafe.store.session import after_commit
from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.queue.jobs import COLUMNS, Job, job_of
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.nudge import nudge_workers
from crowdsafe.traffic.queue.sql import (
    DIALECTS,
    as_json,
    encoded,
    given_rows,
    hold_writer,
    is_pg,
    moment,
    rows_value,
)
from crowdsafe.traffic.queue.tables import ENDED, STILL_RUNNING, jobs

__all__ = [
    "ERROR_CHARS_MAX",
    "PROGRESS_BYTES_MAX",
    "RESULT_BYTES_MAX",
    "complete",
    "complete_with",
    "end",
    "ended_under",
    "fail",
    "give_back",
    "held_rows",
    "requeue",
    "stop",
    "tell",
]

RESULT_BYTES_MAX = 1024 * 1024
PROGRESS_BYTES_MAX = 16 * 1024
ERROR_CHARS_MAX = 2000
WAIT_S_MAX = 300.0
_NOW = bindparam("now", type_=UtcDateTime)


def held_rows(dialect: str, others: Mapping[str, TypeEngine[Any]]) -> tuple[Any, tuple[Any, ...]]:
    """The rows that are bound as ``rows``, of "job", "token" and ``others``, and what joins them to
    the jobs that run under those leases.

    PostgreSQL first locks the jobs in the order of their ids: statements over many jobs that come
    at the same time then wait for each other, and do not deadlock.
    """
    given = given_rows(dialect, {"job": String(), "token": String(), **others})
    mine = (
        jobs.c.public_id == given.c.job,
        jobs.c.queue == bindparam("the_queue"),
        STILL_RUNNING,
        jobs.c.lease_token == given.c.token,
    )
    if dialect != "postgresql":
        return given, mine
    locked = select(jobs.c.id.label("row_id"), *given.c).where(*mine).order_by(jobs.c.id)
    held = locked.with_for_update(of=jobs).cte("held")
    return held, (jobs.c.id == held.c.row_id,)


class _Statements:
    """The statements of one dialect."""

    def __init__(self, dialect: str) -> None:
        given, mine = held_rows(dialect, {"result": Text(), "progress": Text()})
        progress = as_json(dialect, given.c.progress)
        done = (
            update(jobs)
            .where(*mine, jobs.c.cancel_requested.is_(False))
            .values(
                state="done",
                result=as_json(dialect, given.c.result),
                progress=func.coalesce(progress, jobs.c.progress),
                error=None,
                finished_at=func.coalesce(_NOW, func.clock_timestamp())
                if dialect == "postgresql"
                else _NOW,
                lease_until=None,
            )
        )
        self.done = done.returning(jobs.c.public_id, jobs.c.lease_token)
        self.done_whole = done.returning(*COLUMNS, jobs.c.lease_token)
        _, mine = held_rows(dialect, {})
        self.give_back = (
            update(jobs)
            .where(*mine, jobs.c.cancel_requested.is_(False))
            .values(
                state="queued",
                attempts=jobs.c.attempts - 1,
                lease_token=None,
                lease_until=None,
            )
            .returning(*COLUMNS)
        )


_SQL = {dialect: _Statements(dialect) for dialect in DIALECTS}
_HELD = (
    select(*COLUMNS, jobs.c.id.label("row_id"))
    .where(
        jobs.c.queue == bindparam("the_queue"),
        jobs.c.public_id == bindparam("the_id"),
        STILL_RUNNING,
        jobs.c.lease_token == bindparam("token"),
    )
    .with_for_update()
)
_ENDED_UNDER = select(jobs.c.id).where(
    jobs.c.queue == bindparam("the_queue"),
    jobs.c.public_id == bindparam("the_id"),
    ENDED,
    jobs.c.lease_token == bindparam("token"),
)
_RESULT = (
    update(jobs)
    .where(jobs.c.public_id == bindparam("the_id"))
    .values(result=bindparam("the_result", type_=jobs.c.result.type))
    .returning(*COLUMNS)
)
_END = (
    update(jobs)
    .where(jobs.c.id == bindparam("row_id"))
    .values(
        state=bindparam("the_state"),
        error=bindparam("the_error", type_=Text),
        finished_at=_NOW,
        lease_until=None,
    )
    .returning(*COLUMNS)
)
_AGAIN = (
    update(jobs)
    .where(jobs.c.id == bindparam("row_id"))
    .values(
        state=bindparam("the_state"),
        error=bindparam("the_error", type_=Text),
        run_after=bindparam("again_at", type_=UtcDateTime),
        lease_token=None,
        lease_until=None,
    )
    .returning(*COLUMNS)
)


class _CompletionsTogether:
    """Many completions in one UPDATE."""

    def lane(self, call: Call) -> Hashable | None:
        queue: JobQueue = call.args[0]
        return ("complete", queue.name)

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        queue: JobQueue = calls[0].args[0]
        outcomes: list[Any] = []
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        first: dict[tuple[str, str], int] = {}
        for at, call in enumerate(calls):
            try:
                row = _completion(*call.args, **call.kwargs)
            except Exception as error:
                outcomes.append(error)
                continue
            held = (row["job"], row["token"])
            outcomes.append(lease_lost(row["job"]))
            if first.setdefault(held, at) == at:
                rows[held] = row
        for held in _complete(session, queue, list(rows.values()), calls[0].kwargs.get("now")):
            outcomes[first[held]] = None
        return outcomes


@combined_by(_CompletionsTogether())
def complete(
    session: Session,
    queue: JobQueue,
    job_id: str,
    token: str,
    *,
    result: Any = None,
    progress: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> None:
    """End a running job as done. ``store.write(complete, queue, ...)`` combines calls.

    Holds: it is done if and only if the caller's lease was still the job's, and nobody had asked to
    cancel it (``stop`` it then); else LeaseLost, and nothing is changed. Does not hold: effects
    outside the database may happen again, when the job was begun again elsewhere.
    Proved by ``tests/traffic/test_queue_finish.py``.

    ``result`` is at most 1 MiB of JSON, ``progress`` 16 KiB. Raises LeaseLost, InvalidInput.
    """
    row = _completion(queue, job_id, token, result=result, progress=progress)
    if not _complete(session, queue, [row], now):
        raise lease_lost(job_id)


def _completion(
    _queue: JobQueue,
    job_id: str,
    token: str,
    *,
    result: Any = None,
    progress: Mapping[str, Any] | None = None,
    **_other: Any,
) -> dict[str, Any]:
    return {
        "job": job_id,
        "token": token,
        "result": None if result is None else encoded(result, "result", RESULT_BYTES_MAX),
        "progress": None
        if progress is None
        else encoded(dict(progress), "progress", PROGRESS_BYTES_MAX),
    }


def _complete(
    session: Session, queue: JobQueue, rows: list[dict[str, Any]], now: datetime | None
) -> set[tuple[str, str]]:
    """The ids and tokens of those that are done now."""
    if not rows:
        return set()
    session.flush()
    connection = session.connection()
    sql = _SQL[connection.dialect.name]
    values = {
        "the_queue": queue.name,
        "rows": rows_value(rows),
        "now": now if is_pg(connection) else moment(connection, now),
    }
    if all(kind.changed is None for kind in queue.by_name.values()):
        return {(row[0], row[1]) for row in connection.execute(sql.done, values)}
    done = [(job_of(row), row.lease_token) for row in connection.execute(sql.done_whole, values)]
    for job, _ in done:
        tell(session, queue, job)
    return {(job.id, token) for job, token in done}


def complete_with(
    session: Session,
    queue: JobQueue,
    job_id: str,
    token: str,
    fn: Callable[[Session], Any],
    *,
    result: Any = None,
    progress: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> None:
    """Run ``fn(session)`` and end the job as done, both or neither.

    What ``fn`` returns becomes the result; where both are mappings it extends ``result``.

    Holds: over all attempts and workers, the effects of ``fn`` in this database are there once if
    the job is done, and not at all if it is not. Does not hold: effects of ``fn`` elsewhere.
    Proved by ``tests/traffic/test_queue_finish.py`` and ``tests/traffic/test_queue_kill.py``.

    Raises LeaseLost, InvalidInput, and what ``fn`` raises.
    """
    session.flush()
    connection = session.connection()
    now = now if is_pg(connection) else moment(connection, now)
    row = _completion(queue, job_id, token, result=result, progress=progress)
    sql = _SQL[connection.dialect.name]
    given = {"the_queue": queue.name, "rows": rows_value([row]), "now": now}
    done = connection.execute(sql.done_whole, given).first()
    if done is None:
        raise lease_lost(job_id)
    extra = fn(session)
    session.flush()
    if extra is not None:
        if isinstance(extra, Mapping) and isinstance(result, Mapping):
            extra = {**result, **extra}
        encoded(extra, "result", RESULT_BYTES_MAX)
        values = {"the_id": job_id, "the_result": extra}
        done = connection.execute(_RESULT, values).one()
    tell(session, queue, job_of(done))


def fail(
    session: Session,
    queue: JobQueue,
    job_id: str,
    token: str,
    error: str,
    *,
    final: bool = False,
    wait_s: float | None = None,
    now: datetime | None = None,
) -> Job:
    """End an attempt as failed: the job waits for its next attempt, or has failed for good.

    The wait is ``wait_s``, or random: uniform in 0..min(300, retry_wait_s * 2**(attempts - 1)), the
    full jitter of Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    ``final`` spends the attempts that are left. Raises LeaseLost.
    """
    row = _held(session, queue, job_id, token)
    moment_now = moment(session.connection(), now)
    kind = queue.by_name.get(row.kind)
    if row.cancel_requested:
        return end(session, queue, row.row_id, "cancelled", error, moment_now)
    if final or kind is None or row.attempts >= kind.attempts:
        return end(session, queue, row.row_id, "failed", error, moment_now)
    if wait_s is None:
        most_s = min(WAIT_S_MAX, kind.retry_wait_s * 2.0 ** min(row.attempts - 1, 60))
        wait_s = random.uniform(0, most_s)
    again_at = moment_now + timedelta(seconds=wait_s)
    return requeue(session, queue, row.row_id, "delayed", error, again_at)


def stop(
    session: Session,
    queue: JobQueue,
    job_id: str,
    token: str,
    *,
    now: datetime | None = None,
) -> Job:
    """End a running job as cancelled, after its worker has stopped it. Raises LeaseLost."""
    row = _held(session, queue, job_id, token)
    moment_now = moment(session.connection(), now)
    return end(session, queue, row.row_id, "cancelled", None, moment_now)


@write(isolation="read committed")
def give_back(session: Session, queue: JobQueue, held: Mapping[str, str]) -> list[Job]:
    """Give back running jobs, by id and token: they keep their turn, and no attempt is counted.

    Those whose lease is lost, or that are to be cancelled, are left alone. Returns the others.
    """
    if not held:
        return []
    session.flush()
    connection = session.connection()
    rows = [{"job": job_id, "token": token} for job_id, token in held.items()]
    sql = _SQL[connection.dialect.name]
    given = {"the_queue": queue.name, "rows": rows_value(rows)}
    back = [job_of(row) for row in connection.execute(sql.give_back, given)]
    for job in back:
        tell(session, queue, job)
    after_commit(session, lambda: nudge_workers(queue.name))
    return back


def ended_under(session: Session, queue: JobQueue, job_id: str, token: str) -> bool:
    """Whether the job was ended under that lease, by an ending whose outcome was unknown."""
    values = {"the_queue": queue.name, "the_id": job_id, "token": token}
    return session.connection().execute(_ENDED_UNDER, values).first() is not None


def _held(session: Session, queue: JobQueue, job_id: str, token: str) -> Any:
    session.flush()
    connection = session.connection()
    hold_writer(connection, queue.name)
    values = {"the_queue": queue.name, "the_id": job_id, "token": token}
    row = connection.execute(_HELD, values).first()
    if row is None:
        raise lease_lost(job_id)
    return row


def end(
    session: Session,
    queue: JobQueue,
    row_id: int,
    state: str,
    error: str | None,
    now: datetime,
) -> Job:
    """End a job whose row is locked as failed or cancelled, and tell its kind."""
    values = {
        "row_id": row_id,
        "the_state": state,
        "the_error": _storable(error),
        "now": now,
    }
    job = job_of(session.connection().execute(_END, values).one())
    kind = queue.by_name.get(job.kind)
    if kind is not None and kind.dropped is not None:
        kind.dropped(session, job)
    tell(session, queue, job)
    return job


def requeue(
    session: Session,
    queue: JobQueue,
    row_id: int,
    state: str,
    error: str | None,
    again_at: datetime,
) -> Job:
    """Put a job whose row is locked back: ``queued`` at its old rank, or ``delayed``."""
    values = {
        "row_id": row_id,
        "the_state": state,
        "the_error": _storable(error),
        "again_at": again_at,
    }
    job = job_of(session.connection().execute(_AGAIN, values).one())
    tell(session, queue, job)
    after_commit(session, lambda: nudge_workers(queue.name))
    return job


def _storable(error: str | None) -> str | None:
    """The text without what a database refuses: NUL, and halves of surrogate pairs."""
    if error is None:
        return None
    return error[:ERROR_CHARS_MAX].replace("\0", "").encode(errors="replace").decode()


def tell(session: Session, queue: JobQueue, job: Job) -> None:
    """Tell the job's kind that it changed."""
    kind = queue.by_name.get(job.kind)
    if kind is not None and kind.changed is not None:
        kind.changed(session, job)


def lease_lost(job_id: str) -> LeaseLost:
    """The error for a job that is no longer the caller's."""
    return LeaseLost(
        f"job {job_id!r} is no longer yours: its lease ran out, or it has ended; what was done "
        "under it was undone",
        id=job_id,
    )
