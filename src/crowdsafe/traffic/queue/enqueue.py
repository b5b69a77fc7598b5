"""Put jobs into a queue: each gets its turn in the rounds of all users.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-Time Fair Queuing", SIGCOMM 1996). A user's
first job gets the present virtual time as its tag, each further one a tag of one more; who has
the smallest tag is next. So the jobs of all users interleave turn by turn however many one of them
has, and a newcomer comes right after the turn in service.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    String,
    Text,
    bindparam,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError, InvalidInput, QueueFull, TooManyQueued
from crowdsafe.store.options import Call, combined_by
from crowdsafe.store.retry import LostRace
from crowdsafe.store.session import after_commit
from crowdsafe.store.types import UtcDateTime, utcnow
from crowdsafe.traffic.arguments import check_number, wrong_input
from crowdsafe.traffic.keys import check_text
from crowdsafe.traffic.queue.jobs import COLUMNS, Enqueued, Job, job_of
from crowdsafe.traffic.queue.kinds import JobQueue, Kind, Priority
from crowdsafe.traffic.queue.nudge import nudge_workers
from crowdsafe.traffic.queue.sql import (
    DIALECTS,
    among,
    as_json,
    clock,
    encoded,
    given_rows,
    hold_writer,
    is_pg,
    listed,
    rows_value,
)
from crowdsafe.traffic.queue.tables import ACTIVE, DELAYED, QUEUED, jobs, queues

__all__ = ["enqueue"]

USER_CHARS_MAX = 200
KEY_CHARS_MAX = 255
PAYLOAD_BYTES_MAX = 256 * 1024
DELAY_S_MAX = 365 * 86_400.0
RETRY_AFTER_S = 10
_TRIES = 3
_PRIORITIES = tuple(Priority)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(slots=True)
class _Asked:
    """One job that somebody wants, checked."""

    kind: Kind
    user: str
    payload: dict[str, Any]
    payload_text: str
    priority: Priority
    key: str | None
    delay_s: float
    expires_s: float
    id: str
    named: bool
    now: datetime | None


class _EnqueuesTogether:
    """Many calls on one queue: who is waiting is read once, the jobs go in by one statement."""

    def lane(self, call: Call) -> Hashable | None:
        queue: JobQueue = call.args[0] if call.args else call.kwargs["queue"]
        return ("enqueue", queue.name)

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        queue, _ = _checked(*calls[0].args, **calls[0].kwargs)
        asked = [_checked(*call.args, **call.kwargs)[1] for call in calls]
        return _enqueue_all(session, queue, asked)


@combined_by(_EnqueuesTogether())
def enqueue(
    session: Session,
    queue: JobQueue,
    kind: str | Kind,
    *,
    user: str,
    payload: Mapping[str, Any],
    priority: Priority = Priority.NORMAL,
    key: str | None = None,
    delay_s: float = 0.0,
    expires_s: float = 86_400.0,
    id: str | None = None,
    now: datetime | None = None,
) -> Enqueued:
    """Store a job, to be run once the session has committed and its turn has come.

    While a job of the same ``key`` waits or runs, that job is given back instead. It starts after
    ``delay_s`` at the earliest and fails as expired when it waits still, or again, after
    ``expires_s`` more. ``id`` names it; by itself it gets a random one.

    Holds: the job is there if and only if the session commits; one job at most for a key; never
    more than ``queued_per_user_max`` waiting for a user; the jobs of users take turns (see the
    module), so one user's thousand jobs put off another's by one turn at most.
    Does not hold: ``queued_max`` to the last job, since what other transactions are just
    enqueueing is not counted; exact per-user limits inside a transaction at REPEATABLE READ.
    Proved by ``tests/traffic/test_queue_enqueue.py``.

    ``store.write(enqueue, queue, ...)`` combines calls that come at the same time. In a write of
    your own use ``@write(isolation="read committed")`` where you can: at SERIALIZABLE, enqueues of
    the same moment run into each other and are run again.

    Raises QueueFull, TooManyQueued, InvalidInput (user 1 to 200 characters, key at most 255,
    payload at most 256 KiB of JSON).
    """
    (outcome,) = _enqueue_all(
        session,
        queue,
        [
            _checked(
                queue, kind, user=user, payload=payload, priority=priority, key=key,
                delay_s=delay_s, expires_s=expires_s, id=id, now=now,
            )[1]
        ],
    )  # fmt: skip
    if isinstance(outcome, CrowdsafeError):
        raise outcome
    made: Enqueued = outcome
    return made


def _checked(
    queue: JobQueue,
    kind: str | Kind,
    *,
    user: str,
    payload: Mapping[str, Any],
    priority: Priority = Priority.NORMAL,
    key: str | None = None,
    delay_s: float = 0.0,
    expires_s: float = 86_400.0,
    id: str | None = None,
    now: datetime | None = None,
) -> tuple[JobQueue, _Asked]:
    check_text("user", user, USER_CHARS_MAX)
    if key is not None:
        check_text("key", key, KEY_CHARS_MAX)
    if id is not None:
        _check_id(id)
    check_number("delay_s", delay_s, 0, DELAY_S_MAX, error=InvalidInput)
    check_number("expires_s", expires_s, 0, DELAY_S_MAX, above=True, error=InvalidInput)
    _check_priority(priority)
    if not isinstance(payload, Mapping):
        raise InvalidInput("payload must be a mapping", field="payload")
    payload = dict(payload)
    return queue, _Asked(
        queue.kind(kind),
        user,
        payload,
        encoded(payload, "payload", PAYLOAD_BYTES_MAX),
        Priority(priority),
        key,
        delay_s,
        expires_s,
        id or uuid.uuid4().hex,
        id is not None,
        now,
    )


def _check_id(id: Any) -> None:
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise InvalidInput(
            f"id is {id!a}; it must be text of 1 to 64 letters, digits, _ and -", field="id"
        )


def _check_priority(priority: Any) -> None:
    if isinstance(priority, bool) or priority not in _PRIORITIES:
        raise wrong_input("priority", priority, (f"Priority.{one.name}" for one in Priority))


class _Statements:
    """The statements of one dialect."""

    def __init__(self, dialect: str) -> None:
        of_queue = jobs.c.queue == bindparam("the_queue")
        at_most = bindparam("at_most", type_=Integer)
        users = among(dialect, jobs.c.user_key, "users")
        turn = select(queues.c.virtual_time).where(queues.c.name == bindparam("the_queue"))
        numbers = bindparam("numbers", type_=postgresql.ARRAY(postgresql.BIGINT))
        in_order = (
            func.unnest(numbers)
            .table_valued(column("number", postgresql.BIGINT))
            .render_derived("one")
        )
        self.lock = select(func.count(func.pg_advisory_xact_lock(in_order.c.number)))
        waiting = [
            select(func.count())
            .select_from(select(jobs.c.id).where(of_queue, state).limit(at_most).subquery())
            .scalar_subquery()
            for state in (QUEUED, DELAYED)
        ]
        self.look = select(clock(dialect), turn.scalar_subquery(), waiting[0] + waiting[1])
        self.of_users = (
            select(
                jobs.c.user_key,
                func.count().filter(jobs.c.state != "running"),
                func.max(jobs.c.tag).filter(jobs.c.state != "delayed"),
            )
            .where(of_queue, ACTIVE, users)
            .group_by(jobs.c.user_key)
        )
        self.by_key = select(*COLUMNS).where(
            of_queue, ACTIVE, among(dialect, jobs.c.dedup_key, "keys")
        )
        self.taken = select(jobs.c.public_id).where(among(dialect, jobs.c.public_id, "ids"))
        self.insert = _insert_given() if dialect == "postgresql" else _insert_plain()


_SENT = ("public_id", "kind", "user_key", "dedup_key", "priority", "tag", "rank", "state")


def _insert_plain() -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in (*_SENT, "run_after", "expires_at")}
    values["payload"] = bindparam("payload", type_=Text)
    return insert(jobs).values(**values, **_common())


def _insert_given() -> Any:
    types: dict[str, Any] = {name: jobs.c[name].type for name in _SENT}
    types |= {
        "tag": Double(),
        "payload": Text(),
        "run_after": UtcDateTime(),
        "expires_at": UtcDateTime(),
    }
    given = given_rows("postgresql", types)
    common = _common()
    columns = [given.c[name] for name in (*_SENT, "run_after", "expires_at")]
    chosen = select(*columns, as_json("postgresql", given.c.payload), *common.values())
    names = [*_SENT, "run_after", "expires_at", "payload", *common]
    made = postgresql.insert(jobs).from_select(names, chosen, include_defaults=False)
    return made.on_conflict_do_nothing().returning(jobs.c.public_id)


def _common() -> dict[str, Any]:
    return {
        "queue": bindparam("the_queue", type_=String),
        "created_at": bindparam("now", type_=UtcDateTime),
        "attempts": bindparam("zero", type_=Integer),
        "cancel_requested": bindparam("no", type_=jobs.c.cancel_requested.type),
    }


_SQL = {dialect: _Statements(dialect) for dialect in DIALECTS}


def _enqueue_all(session: Session, queue: JobQueue, asked: Sequence[_Asked]) -> list[Any]:
    """An Enqueued or the refusal for each, as if one came after the other."""
    session.flush()
    batch = _Batch(session.connection(), queue, asked)
    outcomes: list[Any] = [None] * len(asked)
    todo = list(range(len(asked)))
    for _ in range(_TRIES):
        created = batch.decide(todo, outcomes)
        todo = batch.insert(created, outcomes)
        if not todo:
            break
    else:
        raise LostRace(f"jobs of one key kept coming to and leaving the queue {queue.name!r}")
    _tell(session, queue, outcomes)
    return outcomes


def _tell(session: Session, queue: JobQueue, outcomes: Sequence[Any]) -> None:
    created = [made.job for made in outcomes if isinstance(made, Enqueued) and made.created]
    for job in created:
        changed: Callable[[Session, Job], Any] | None = queue.by_name[job.kind].changed
        if changed is not None:
            changed(session, job)
    if created:
        after_commit(session, lambda: nudge_workers(queue.name))


class _Batch:
    """Jobs that are enqueued in one transaction, and what they find there."""

    def __init__(self, connection: Connection, queue: JobQueue, asked: Sequence[_Asked]) -> None:
        self._connection = connection
        self._queue = queue
        self._asked = asked
        self._sql = _SQL[connection.dialect.name]
        self._values = {"the_queue": queue.name}
        hold_writer(connection, queue.name)
        self._lock()
        self._now = utcnow()
        self._turn = 0.0

    def _lock(self) -> None:
        """One enqueuer at a time for each user; in the order of numbers, so that none deadlocks."""
        if is_pg(self._connection):
            numbers = {_number(f"{self._queue.name}\0{asked.user}") for asked in self._asked}
            self._connection.execute(self._sql.lock, {"numbers": sorted(numbers)})

    def decide(self, todo: Sequence[int], outcomes: list[Any]) -> list[dict[str, Any]]:
        """Fill in refusals and what exists already; the rows to insert for the others."""
        found = self._find(todo)
        rows: list[dict[str, Any]] = []
        for at in todo:
            asked = self._asked[at]
            known = found.by_key.get(asked.key) if asked.key is not None else None
            if known is not None:
                outcomes[at] = Enqueued(known, created=False)
                continue
            outcomes[at] = found.refusal(self._queue, asked)
            if outcomes[at] is None:
                row = self._row(asked, found)
                outcomes[at] = Enqueued(self._job(asked, row), created=True)
                rows.append(row | {"at": at})
                if asked.key is not None:
                    found.by_key[asked.key] = outcomes[at].job
        return rows

    def _find(self, todo: Sequence[int]) -> _Found:
        run = self._connection.execute
        asked = [self._asked[at] for at in todo]
        users = listed(self._connection, {one.user for one in asked})
        at_most = {"at_most": self._queue.queued_max}
        time, turn, total = run(self._sql.look, self._values | at_most).one()
        self._now = self._asked[0].now or time or utcnow()
        self._turn = turn or 0.0
        by_user = run(self._sql.of_users, self._values | {"users": users}).all()
        keys = {one.key for one in asked if one.key is not None}
        by_key: dict[str, Job] = {}
        if keys:
            bound = self._values | {"keys": listed(self._connection, keys)}
            by_key = {str(row.dedup_key): job_of(row) for row in run(self._sql.by_key, bound)}
        ids = [one.id for one in asked if one.named]
        taken: set[str] = set()
        if ids:
            taken.update(run(self._sql.taken, {"ids": listed(self._connection, ids)}).scalars())
        return _Found(
            total,
            {row[0]: row[1] for row in by_user},
            {row[0]: row[2] for row in by_user if row[2] is not None},
            by_key,
            taken,
        )

    def _row(self, asked: _Asked, found: _Found) -> dict[str, Any]:
        delayed = asked.delay_s > 0
        tag = 0.0 if delayed else found.next_tag(asked.user, self._turn)
        found.total += 1
        found.waiting[asked.user] = found.waiting.get(asked.user, 0) + 1
        found.ids_taken.add(asked.id)
        return {
            "public_id": asked.id,
            "kind": asked.kind.name,
            "user_key": asked.user,
            "dedup_key": asked.key,
            "priority": int(asked.priority),
            "tag": tag,
            "rank": tag + asked.priority,
            "state": "delayed" if delayed else "queued",
            "run_after": self._now + timedelta(seconds=asked.delay_s),
            "expires_at": self._now + timedelta(seconds=asked.delay_s + asked.expires_s),
            "payload": asked.payload_text,
        }

    def _job(self, asked: _Asked, row: Mapping[str, Any]) -> Job:
        return Job(
            asked.id, self._queue.name, asked.kind.name, asked.user, "queued", asked.priority,
            asked.payload, None, None, {}, 0, self._now, None, None, False, asked.key,
            row["run_after"], row["expires_at"],
        )  # fmt: skip

    def insert(self, rows: list[dict[str, Any]], outcomes: list[Any]) -> list[int]:
        """Store the rows; those that another transaction was faster with must be decided anew."""
        if not rows:
            return []
        places = {row["public_id"]: row.pop("at") for row in rows}
        common = self._values | {"now": self._now, "zero": 0, "no": False}
        if not is_pg(self._connection):
            self._connection.execute(self._sql.insert, [row | common for row in rows])
            return []
        for row in rows:
            row["run_after"] = row["run_after"].isoformat()
            row["expires_at"] = row["expires_at"].isoformat()
        made = self._connection.execute(self._sql.insert, common | {"rows": rows_value(rows)})
        stored = set(made.scalars())
        late = [at for public_id, at in places.items() if public_id not in stored]
        if late:
            # Duplicates inside this batch point to jobs that were not stored after all.
            lost = {outcomes[at].job.id for at in late}
            late = [
                at
                for at, made in enumerate(outcomes)
                if isinstance(made, Enqueued) and made.job.id in lost
            ]
        return late


@dataclass(slots=True)
class _Found:
    """What waits in the queue, and what this batch adds to it."""

    total: int
    waiting: dict[str, int]
    last_tag: dict[str, float]
    by_key: dict[str, Job]
    ids_taken: set[str]

    def next_tag(self, user: str, tag_now: float) -> float:
        """Start tag: now, or a turn after the user's last."""
        last = self.last_tag.get(user)
        tag = tag_now if last is None else max(tag_now, last + 1)
        self.last_tag[user] = tag
        return tag

    def refusal(self, queue: JobQueue, asked: _Asked) -> CrowdsafeError | None:
        """Why the job cannot be stored, or None."""
        if asked.id in self.ids_taken:
            return InvalidInput(f"there is a job {asked.id!r} already", field="id")
        if self.total >= queue.queued_max:
            return QueueFull(
                f"{queue.queued_max} jobs wait already, as many as the queue takes; nothing was "
                "stored, try again later",
                retry_after_s=RETRY_AFTER_S,
                limit=queue.queued_max,
            )
        waiting = self.waiting.get(asked.user, 0)
        if waiting >= queue.queued_per_user_max:
            return TooManyQueued(
                f"{waiting} of your jobs wait already, as many as one user may have; wait until "
                "some are done, or cancel some",
                retry_after_s=RETRY_AFTER_S,
                limit=queue.queued_per_user_max,
                queued=waiting,
            )
        return None


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
