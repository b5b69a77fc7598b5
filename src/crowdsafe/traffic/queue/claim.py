"""Take the jobs whose turn it is: fair, within every limit, and each by one worker only.

One claim at a time for a queue, over all processes: it holds the lock of the queue's row (on SQLite
that of the file) for one short transaction without anybody's code in it, ``changed`` aside. So the
running jobs that it counts are all there are, and the limits are exact.

Virtual time, which the tags of new jobs start from, goes on with service: to the tag of what was
claimed, and at least by claimed / (active users + 1), the rate at which everyone's rounds pass. So
whatever waits is overtaken only for so many rounds as its priority is behind, and then goes first,
however many newcomers of higher priority there are: nothing but IDLE starves.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    bindparam,
    case,
    distinct,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput
from crowdsafe.store.options import write
from crowdsafe.store.types import UtcDateTime, utcnow
from crowdsafe.traffic.queue.finish import tell
from crowdsafe.traffic.queue.hooks import PUT_OFF_S, tried
from crowdsafe.traffic.queue.jobs import COLUMNS, Claimed, job_of
from crowdsafe.traffic.queue.kinds import JobQueue, Priority
from crowdsafe.traffic.queue.sql import (
    DIALECTS,
    among,
    clock,
    given_rows,
    hold_writer,
    is_pg,
    listed,
    not_among,
    open_queue,
    rows_value,
)
from crowdsafe.traffic.queue.tables import DELAYED, QUEUED, RUNNING, jobs, queues

__all__ = ["CLAIM_MAX", "claim"]

CLAIM_MAX = 256
_PAGES_MAX = 16
_HEAD_MAX = 1000
_DUE_MAX = 500
_LAST_RANK = 1e300
_IDLE_RANK = float(Priority.IDLE) / 2


class _Statements:
    """The statements of one dialect."""

    def __init__(self, dialect: str) -> None:
        of_queue = jobs.c.queue == bindparam("the_queue")
        now = bindparam("now", type_=UtcDateTime)
        self.turn = (
            select(queues.c.virtual_time)
            .where(queues.c.name == bindparam("the_queue"))
            .with_for_update()
        )
        self.advance = (
            update(queues)
            .where(queues.c.name == bindparam("the_queue"))
            .values(virtual_time=bindparam("time"))
        )
        self.running = (
            select(jobs.c.user_key, jobs.c.kind, jobs.c.priority, func.count())
            .where(of_queue, RUNNING)
            .group_by(jobs.c.user_key, jobs.c.kind, jobs.c.priority)
        )
        head = (
            select(jobs.c.user_key)
            .where(of_queue, QUEUED)
            .order_by(jobs.c.rank, jobs.c.id)
            .limit(_HEAD_MAX)
            .subquery()
        )
        rank, row = bindparam("after_rank", type_=Double), bindparam("after_id", type_=BigInteger)
        self.next = (
            select(
                jobs.c.id, jobs.c.user_key, jobs.c.kind, jobs.c.priority, jobs.c.tag, jobs.c.rank
            )
            .where(
                of_queue,
                QUEUED,
                jobs.c.rank >= rank,
                or_(jobs.c.rank > rank, jobs.c.id > row),
                jobs.c.rank < bindparam("rank_max", type_=Double),
                jobs.c.expires_at > now,
                among(dialect, jobs.c.kind, "kinds"),
                not_among(dialect, jobs.c.user_key, "users_full"),
                not_among(dialect, jobs.c.public_id, "without"),
            )
            .order_by(jobs.c.rank, jobs.c.id)
            .limit(bindparam("at_most", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        self.take = (
            update(jobs)
            .where(among(dialect, jobs.c.id, "ids", BigInteger()))
            .values(
                state="running",
                attempts=jobs.c.attempts + 1,
                lease_token=bindparam("token"),
                lease_until=bindparam("until", type_=UtcDateTime),
                started_at=now,
            )
            .returning(*COLUMNS, jobs.c.id)
        )
        users = select(func.count(distinct(head.c.user_key))).scalar_subquery()
        at = func.coalesce(now, func.now()) if dialect == "postgresql" else now
        unswept = jobs.c.lease_until.is_(None)
        any_due = exists().where(of_queue, DELAYED, jobs.c.run_after <= at, unswept)
        self.look = select(clock(dialect), users, any_due)
        self.due = (
            select(jobs.c.id, jobs.c.user_key, jobs.c.priority)
            .where(of_queue, DELAYED, jobs.c.run_after <= now, unswept)
            .order_by(jobs.c.run_after, jobs.c.id)
            .limit(_DUE_MAX)
            .with_for_update(skip_locked=True)
        )
        self.tags = (
            select(jobs.c.user_key, func.max(jobs.c.tag))
            .where(
                of_queue,
                or_(QUEUED, RUNNING),
                among(dialect, jobs.c.user_key, "users"),
            )
            .group_by(jobs.c.user_key)
        )
        given = given_rows(dialect, {"id": BigInteger(), "tag": Double(), "rank": Double()})
        self.queue_up = (
            update(jobs)
            .where(jobs.c.id == given.c.id)
            .values(state="queued", tag=given.c.tag, rank=given.c.rank)
        )


_SQL = {dialect: _Statements(dialect) for dialect in DIALECTS}
_PUT_OFF = (
    update(jobs)
    .where(jobs.c.public_id == bindparam("the_id"))
    .values(
        state="delayed",
        run_after=bindparam("later", type_=UtcDateTime),
        attempts=jobs.c.attempts - 1,
        started_at=case((jobs.c.attempts > 1, jobs.c.started_at)),
        lease_token=None,
        lease_until=None,
    )
)


@write(isolation="read committed")
def claim(
    session: Session,
    queue: JobQueue,
    limit: int,
    *,
    kinds: Iterable[str] | None = None,
    without: Iterable[str] = (),
    now: datetime | None = None,
) -> list[Claimed]:
    """Take at most ``limit`` (1 to 256) jobs whose turn it is, and lease them to the caller.

    ``kinds`` are those that the caller can run, all of the queue's without it; ``without`` are ids
    of jobs that it must not get, since an earlier attempt at them has not ended there yet.

    Holds, at READ COMMITTED and in any number of processes: no job is in two leases; never more
    than ``per_user``, the kind's and the queue's ``running_max`` run; of the jobs that these limits
    let start, those of the smallest rank are taken; IDLE ones only when no other can start, and
    never the last free slot. A job whose ``changed`` raises is not begun, and comes up again after
    ``PUT_OFF_S``; the others are taken.
    Does not hold: IDLE jobs that run are not interrupted for others, as that would throw away work
    that was paid for; ``idle_max`` bounds what they can hold up.
    Proved by ``tests/traffic/test_queue_claim.py`` and ``tests/traffic/test_queue_fair.py``.

    Raises InvalidInput for a limit out of range.
    """
    if not 1 <= limit <= CLAIM_MAX:
        raise InvalidInput(f"a claim takes 1 to {CLAIM_MAX} jobs", field="limit")
    session.flush()
    taking = _Claim(session.connection(), queue, kinds, without, now)
    return [one for one in taking.take(limit) if _told(session, queue, one, taking.now)]


def _told(session: Session, queue: JobQueue, one: Claimed, now: datetime) -> bool:
    """Tell the job's kind that it runs; where that raises, the job waits, and was not begun."""
    if queue.by_name[one.job.kind].changed is None:
        return True
    with tried(session, f"job {one.job.id} could not be begun") as trial:
        tell(session, queue, one.job)
    if trial.failed:
        later = now + timedelta(seconds=PUT_OFF_S)
        session.connection().execute(_PUT_OFF, {"the_id": one.job.id, "later": later})
    return not trial.failed


@dataclass(slots=True)
class _Chosen:
    """A job that will be taken."""

    id: int
    kind: str
    tag: float
    rank: float


@dataclass(slots=True)
class _Room:
    """How many more may start."""

    queue: JobQueue
    total: int = 0
    idle: int = 0
    users: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def enter(self, user: str, kind: str, priority: int, count: int = 1) -> None:
        """Count jobs that run."""
        self.total += count
        self.users[user] += count
        self.kinds[kind] += count
        if priority == Priority.IDLE:
            self.idle += count

    def free(self) -> int:
        """Slots that are left in the queue."""
        return self.queue.running_max - self.total

    def idle_free(self) -> int:
        """Slots that IDLE jobs may take: never the last one."""
        return min(self.free() - 1, self.queue.idle_max - self.idle)

    def has_kind(self, kind: str) -> bool:
        """Whether one more of the kind may start."""
        most = self.queue.by_name[kind].running_max
        return most is None or self.kinds[kind] < most

    def has_user(self, user: str) -> bool:
        """Whether one more of the user's may start."""
        return self.users[user] < self.queue.per_user

    def users_full(self) -> list[str]:
        """Who has as many running as one may have."""
        return [user for user, count in self.users.items() if count >= self.queue.per_user]


class _Claim:
    """One claim, under the lock of its queue."""

    def __init__(
        self,
        connection: Connection,
        queue: JobQueue,
        kinds: Iterable[str] | None,
        without: Iterable[str],
        now: datetime | None,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._sql = _SQL[connection.dialect.name]
        self._values = {"the_queue": queue.name}
        self._kinds = [name for name in queue.by_name if kinds is None or name in set(kinds)]
        self._without = listed(connection, without)
        self._time = self._lock()
        self._room = _Room(queue)
        for user, kind, priority, count in connection.execute(self._sql.running, self._values):
            self._room.enter(user, kind, priority, count)
        # The clock is read after the count: who is not counted ended before what starts now.
        asked_at = now if is_pg(connection) else now or utcnow()
        look = connection.execute(self._sql.look, self._values | {"now": asked_at}).one()
        self.now: datetime = asked_at or look[0]
        self._active = look[1] + len(self._room.users)
        if look[2]:
            self._queue_up_due()

    def _lock(self) -> float:
        hold_writer(self._connection, self._queue.name)
        time = self._connection.execute(self._sql.turn, self._values).scalar()
        if time is None:
            open_queue(self._connection, self._queue.name)
            time = self._connection.execute(self._sql.turn, self._values).scalar_one()
        return float(time)

    def _queue_up_due(self) -> None:
        """Give a turn to jobs whose time has come, behind the user's others: each costs a turn."""
        run = self._connection.execute
        due = run(self._sql.due, self._values | {"now": self.now}).all()
        if not due:
            return
        users = listed(self._connection, {row.user_key for row in due})
        found = run(self._sql.tags, self._values | {"users": users})
        last: dict[str, float] = {row[0]: row[1] for row in found}
        rows = []
        for row_id, user, priority in due:
            tag = max(self._time, last[user] + 1) if user in last else self._time
            last[user] = tag
            rows.append({"id": row_id, "tag": tag, "rank": tag + priority})
        run(self._sql.queue_up, {"rows": rows_value(rows)})

    def take(self, limit: int) -> list[Claimed]:
        """Choose and lease."""
        chosen = self._choose(min(limit, self._room.free()), -_LAST_RANK, _IDLE_RANK)
        idle = min(limit - len(chosen), self._room.idle_free())
        chosen += self._choose(idle, _IDLE_RANK, _LAST_RANK)
        if not chosen:
            return []
        self._advance(chosen)
        return self._lease(chosen)

    def _choose(self, limit: int, rank_min: float, rank_max: float) -> list[_Chosen]:
        """The first jobs in the order of ranks that may start, counted in."""
        chosen: list[_Chosen] = []
        after = (rank_min, 0)
        for _ in range(_PAGES_MAX):
            left = limit - len(chosen)
            kinds = [kind for kind in self._kinds if self._room.has_kind(kind)]
            if left <= 0 or not kinds:
                break
            at_most = left + 16
            page = self._page(after, rank_max, kinds, at_most)
            for row in page:
                if len(chosen) == limit:
                    break
                if self._room.has_user(row.user_key) and self._room.has_kind(row.kind):
                    self._room.enter(row.user_key, row.kind, row.priority)
                    chosen.append(_Chosen(row.id, row.kind, row.tag, row.rank))
            if len(page) < at_most:
                break
            after = (page[-1].rank, page[-1].id)
        return chosen

    def _page(
        self, after: tuple[float, int], rank_max: float, kinds: list[str], at_most: int
    ) -> list[Any]:
        values: Mapping[str, Any] = self._values | {
            "after_rank": after[0],
            "after_id": after[1],
            "rank_max": rank_max,
            "now": self.now,
            "kinds": listed(self._connection, kinds),
            "users_full": listed(self._connection, self._room.users_full()),
            "without": self._without,
            "at_most": at_most,
        }
        return list(self._connection.execute(self._sql.next, values).all())

    def _advance(self, chosen: list[_Chosen]) -> None:
        time = max(
            self._time + len(chosen) / (self._active + 1),
            *(min(one.tag, one.rank) for one in chosen),
        )
        self._connection.execute(self._sql.advance, self._values | {"time": time})

    def _lease(self, chosen: list[_Chosen]) -> list[Claimed]:
        token = secrets.token_hex(8)
        by_lease: dict[float, list[int]] = {}
        for one in chosen:
            by_lease.setdefault(self._queue.by_name[one.kind].lease_s, []).append(one.id)
        claimed: dict[int, Claimed] = {}
        for lease_s, ids in by_lease.items():
            until = self.now + timedelta(seconds=lease_s)
            values = {
                "ids": listed(self._connection, ids),
                "token": token,
                "until": until,
                "now": self.now,
            }
            for row in self._connection.execute(self._sql.take, values):
                claimed[row.id] = Claimed(job_of(row), token, until)
        return [claimed[one.id] for one in chosen]
