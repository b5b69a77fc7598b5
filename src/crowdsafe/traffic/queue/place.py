"""Where a job stands in its queue, and what the queue looks like to its operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, bindparam, func, or_, select
from sqlalchemy.orm import Session

from crowdsafe.store.types import UtcDateTime
from crowdsafe.traffic.queue.jobs import COLUMNS, check_id, job_of, not_found
from crowdsafe.traffic.queue.kinds import JobQueue, Priority
from crowdsafe.traffic.queue.sql import moment
from crowdsafe.traffic.queue.tables import ACTIVE, ENDED, QUEUED, RUNNING, jobs

__all__ = ["Place", "QueueView", "UserView", "place_of", "queue_view"]

RECENT_MAX = 50
HOUR_MAX = 10_000
USERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Place:
    """``position`` jobs will be started before this one (0: it is next, or running, or has ended);
    it starts in about ``estimated_wait_s`` seconds."""

    position: int
    estimated_wait_s: float


@dataclass(frozen=True, slots=True)
class UserView:
    """One user's jobs: waiting, running, and ended within the last hour."""

    user: str
    queued: int
    running: int
    done_last_hour: int
    failed_last_hour: int


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue as its operator sees it. ``users`` begins with who has most waiting and running."""

    queued: int
    running: int
    running_max: int
    mean_run_s: float
    oldest_wait_s: float
    users: tuple[UserView, ...]


_OF_QUEUE = jobs.c.queue == bindparam("the_queue")
_FIND = select(*COLUMNS, jobs.c.id.label("row_id"), jobs.c.rank.label("its_rank")).where(
    _OF_QUEUE, jobs.c.public_id == bindparam("the_id")
)
_RANK: Any = bindparam("its_rank")
_ROW: Any = bindparam("row_id")
_AHEAD = select(
    func.count(),
    func.count().filter(jobs.c.user_key == bindparam("its_user")),
    func.count().filter(jobs.c.kind == bindparam("its_kind")),
).where(
    _OF_QUEUE,
    QUEUED,
    jobs.c.rank <= _RANK,
    or_(jobs.c.rank < _RANK, jobs.c.id < _ROW),
)
_RUNNING = select(
    func.count(),
    func.count().filter(jobs.c.user_key == bindparam("its_user")),
    func.count().filter(jobs.c.kind == bindparam("its_kind")),
).where(_OF_QUEUE, RUNNING)
_RECENT = (
    select(jobs.c.started_at, jobs.c.finished_at)
    .where(_OF_QUEUE, ENDED, jobs.c.state == "done")
    .order_by(jobs.c.finished_at.desc())
    .limit(RECENT_MAX)
)
_NOW_BY_USER = (
    select(
        jobs.c.user_key,
        func.count().filter(jobs.c.state != "running"),
        func.count().filter(jobs.c.state == "running"),
        func.min(jobs.c.created_at).filter(jobs.c.state != "running"),
    )
    .where(_OF_QUEUE, ACTIVE)
    .group_by(jobs.c.user_key)
)
_hour = (
    select(jobs.c.user_key, jobs.c.state)
    .where(_OF_QUEUE, ENDED, jobs.c.finished_at > bindparam("since", type_=UtcDateTime))
    .order_by(jobs.c.finished_at.desc())
    .limit(bindparam("at_most", type_=Integer))
    .subquery()
)
_HOUR_BY_USER = select(_hour.c.user_key, _hour.c.state, func.count()).group_by(
    _hour.c.user_key, _hour.c.state
)


def mean_run_s(session: Session, queue: JobQueue) -> float:
    """How long the last 50 jobs that are done ran, on average; ``expected_run_s`` without any."""
    rows = session.connection().execute(_RECENT, {"the_queue": queue.name}).all()
    runs = [(end - start).total_seconds() for start, end in rows if start is not None]
    return max(0.0, sum(runs) / len(runs)) if runs else queue.expected_run_s


def place_of(
    session: Session, queue: JobQueue, job_id: str, *, now: datetime | None = None
) -> Place:
    """How many jobs go before this one, and in how many seconds it starts, by estimate.

    The estimate is the longest of what stands in the way: the jobs ahead on all slots, the user's
    own ahead on ``per_user`` slots, those of the kind on its, each taking the mean run time of the
    queue's last 50 done jobs; and the job's own delay. It counts on workers for all slots.

    Holds: while no job is new or comes due, at most ``position`` others are started first.
    Does not hold: newcomers whose turn is earlier, and users at their limit, move it either way.
    Proved by ``tests/traffic/test_queue_place.py``.

    Raises NotFound.
    """
    check_id(job_id)
    connection = session.connection()
    values = {"the_queue": queue.name, "the_id": job_id}
    row = connection.execute(_FIND, values).first()
    if row is None:
        raise not_found(job_id)
    job = job_of(row)
    if job.state != "queued":
        return Place(0, 0.0)
    delay_s = (job.run_after - moment(connection, now)).total_seconds()
    asked = {
        "the_queue": queue.name,
        "its_user": job.user,
        "its_kind": job.kind,
        "its_rank": row.its_rank if row.state == "queued" else 1e300,
        "row_id": row.row_id,
    }
    ahead = connection.execute(_AHEAD, asked).one()
    running = connection.execute(_RUNNING, asked).one()
    slots = queue.running_max
    if job.priority is Priority.IDLE:
        slots = max(1, min(queue.idle_max, slots - 1))
    kind = queue.by_name.get(job.kind)
    limits = (slots, queue.per_user, (kind.running_max if kind else None) or queue.running_max)
    rounds = max(
        _rounds(before, busy, limit)
        for before, busy, limit in zip(ahead, running, limits, strict=True)
    )
    wait_s = rounds * mean_run_s(session, queue) if rounds else 0.0
    delayed_s = delay_s if row.state == "delayed" else 0.0
    return Place(int(ahead[0]), round(max(wait_s, delayed_s, 0.0), 3))


def _rounds(ahead: int, running: int, limit: int) -> float:
    """Mean run times until one of ``limit`` slots is free for who comes after ``ahead`` jobs."""
    return max(0, ahead + running - limit + 1) / limit


def queue_view(session: Session, queue: JobQueue, *, now: datetime | None = None) -> QueueView:
    """The queue by user: at most 500 users, and of the last hour the newest 10,000 jobs."""
    connection = session.connection()
    moment_now = moment(connection, now)
    values = {"the_queue": queue.name}
    users: dict[str, list[int]] = {}
    oldest_wait_s = 0.0
    for user, queued, running, oldest in connection.execute(_NOW_BY_USER, values):
        users[user] = [queued, running, 0, 0]
        if oldest is not None:
            oldest_wait_s = max(oldest_wait_s, (moment_now - oldest).total_seconds())
    hour = values | {"since": moment_now - timedelta(hours=1), "at_most": HOUR_MAX}
    for user, state, count in connection.execute(_HOUR_BY_USER, hour):
        users.setdefault(user, [0, 0, 0, 0])[2 if state == "done" else 3] += count
    busiest = sorted(users.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
    return QueueView(
        sum(counts[0] for counts in users.values()),
        sum(counts[1] for counts in users.values()),
        queue.running_max,
        mean_run_s(session, queue),
        oldest_wait_s,
        tuple(UserView(user, *counts) for user, counts in busiest[:USERS_MAX]),
    )
