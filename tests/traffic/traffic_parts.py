"""The parts that the machine drives: real calls as the planner makes them, and what they leave."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import MetaData, String, bindparam, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.traffic.model import KindLimits, Limits, Wish
from tests.traffic.queue_help import Effect, leave, nothing
from tests.traffic.quota_crowd import NOW

from crowdsafe import Store
from crowdsafe.errors import CrowdsafeError, QueueFull, TooManyQueued
from crowdsafe.store.types import Json
from crowdsafe.traffic.queue import (
    Job,
    JobQueue,
    Kind,
    cancel,
    claim,
    complete,
    complete_with,
    enqueue,
    fail,
    give_back,
    renew,
    report,
    stop,
    sweep,
)
from crowdsafe.traffic.queue.tables import jobs, queues
from crowdsafe.traffic.quota import charge, expire_reservations, refund, reserve
from crowdsafe.traffic.quota.tables import Quota, QuotaReservation
from crowdsafe.traffic.rows import SlotRow
from crowdsafe.traffic.slots.database import _do, _Step

PREFIX_CHARS = 12
_CLOCK = """
CREATE SCHEMA crowdsafe_test;
CREATE TABLE crowdsafe_test.clock (at timestamptz);
INSERT INTO crowdsafe_test.clock VALUES (clock_timestamp());
CREATE FUNCTION crowdsafe_test.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT at FROM crowdsafe_test.clock';
CREATE FUNCTION crowdsafe_test.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT at FROM crowdsafe_test.clock';
"""


class Base(DeclarativeBase):
    metadata = MetaData()


class Told(Base):
    """What a kind's ``changed`` was told last of a job."""

    __tablename__ = "told"

    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    progress: Mapped[Any] = mapped_column(Json)


def prepare(url: str) -> None:
    """Make the tables; on PostgreSQL also a clock that only moves when it is set."""
    if url.startswith("postgresql"):
        name = url.rsplit("/", 1)[1]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_CLOCK)
            path = "crowdsafe_test, pg_catalog, public"
            connection.execute(f"ALTER DATABASE {name} SET search_path = {path}".encode())
    with Store(url) as store:
        store.create_all(Base.metadata)
        store.create_all(Effect.metadata)


class Undone(Exception):
    """Raised in the middle of a transaction, after everything that it does."""


class Parts:
    """The parts under test, as the planner uses them. A broken version overrides a method."""

    def __init__(self, store: Store, limits: Limits, *, db_clock: bool, isolation: Any) -> None:
        self.store = store
        self.limits = limits
        self.now = NOW
        self.day = 0
        self.prefix = uuid.uuid4().hex[:PREFIX_CHARS]
        self.db_clock = db_clock
        self.isolation = isolation
        self.boom = False
        self.tokens: dict[str, str] = {}
        self.queue = JobQueue(
            f"queue-{self.prefix}",
            [self.kind(name, kind) for name, kind in limits.kinds.items()],
            per_user=limits.per_user,
            running_max=limits.running_max,
            queued_max=limits.queued_max,
            queued_per_user_max=limits.queued_per_user_max,
            idle_max=limits.idle_max,
            keep_s=limits.keep_s,
        )

    def kind(self, name: str, kind: KindLimits) -> Kind:
        return Kind(
            name,
            nothing,
            running_max=kind.running_max,
            attempts=kind.attempts,
            lease_s=kind.lease_s,
            dropped=self.dropped,
            changed=self.changed,
        )

    @property
    def clock(self) -> datetime | None:
        """``now`` for the queue: None lets it ask the database."""
        return None if self.db_clock else self.now

    def write(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """``store.write``, or the same work in a transaction that is undone at its end."""
        if not self.boom:
            return self.store.write(fn, *args, isolation=self.isolation, **kwargs)

        def undone(session: Session) -> None:
            fn(session, *args, **kwargs)
            session.flush()
            raise Undone

        return self.store.write(undone, isolation=self.isolation)

    def quota_key(self, user: str) -> str:
        return f"{self.prefix}:{user}"

    def dropped(self, session: Session, job: Job) -> None:
        leave(session, job.id, "dropped", job.state)
        if self.limits.kinds[job.kind].costs:
            refund(session, job.id, now=self.now)

    def changed(self, session: Session, job: Job) -> None:
        session.merge(Told(job=job.id, state=job.state, progress=job.progress))
        session.flush()

    # -- what users do ------------------------------------------------------------------------

    def submit(self, wish: Wish) -> str:
        answer: str = self.write(self._submit, wish)
        return answer

    def _submit(self, session: Session, wish: Wish) -> str:
        """As the planner: insert, reserve under the job's id, and only then tell a refusal."""
        refusal: CrowdsafeError | None = None
        with session.begin_nested():
            try:
                made = self.enqueue(session, wish)
                if not made.created:
                    return str(made.job.id)
            except (QueueFull, TooManyQueued) as error:
                refusal = error
            if self.limits.kinds[wish.kind].costs:
                self.reserve(session, wish)
            if refusal is not None:
                raise refusal
        return wish.id

    def enqueue(self, session: Session, wish: Wish) -> Any:
        return enqueue(
            session,
            self.queue,
            wish.kind,
            user=wish.user,
            payload={"for": wish.user},
            priority=wish.priority,
            key=wish.key,
            delay_s=wish.delay_s,
            expires_s=wish.expires_s,
            id=wish.id,
            now=self.clock,
        )

    def reserve(self, session: Session, wish: Wish) -> None:
        reserve(
            session,
            self.quota_key(wish.user),
            limit=self.limits.units,
            period=f"d{self.day}",
            expires_s=wish.unit_expires_s,
            id=wish.id,
            now=self.now,
        )

    def cancel(self, job_id: str) -> str:
        job: Job = self.write(cancel, self.queue, job_id, now=self.clock)
        return "" if self.boom else job.state

    # -- what workers do ----------------------------------------------------------------------

    def claim(self, limit: int, kinds: Any) -> dict[str, str]:
        """The tokens of the jobs, in the order of their turns."""
        self.write(self.claim_in, limit, kinds)
        return self.tokens

    def claim_in(self, session: Session, limit: int, kinds: Any) -> None:
        claimed = claim(session, self.queue, limit, kinds=kinds, now=self.clock)
        self.tokens = {one.job.id: one.token for one in claimed}

    def complete(self, job_id: str, token: str) -> None:
        self.write(complete, self.queue, job_id, token, now=self.clock)

    def finish(self, job_id: str, token: str) -> None:
        self.write(self.finish_in, job_id, token)

    def finish_in(self, session: Session, job_id: str, token: str) -> None:
        def effect(session: Session) -> dict[str, str]:
            leave(session, job_id, "done")
            session.flush()
            charge(session, job_id, now=self.now)
            return {"made": job_id}

        complete_with(session, self.queue, job_id, token, effect, now=self.clock)

    def fail(self, job_id: str, token: str, final: bool, wait_s: float) -> None:
        self.write(
            fail, self.queue, job_id, token, "it broke", final=final, wait_s=wait_s, now=self.clock
        )

    def stop(self, job_id: str, token: str) -> None:
        self.write(stop, self.queue, job_id, token, now=self.clock)

    def report(self, job_id: str, token: str, progress: dict[str, Any]) -> None:
        self.write(report, self.queue, job_id, token, progress)

    def give_back(self, held: dict[str, str]) -> set[str]:
        return {job.id for job in self.write(give_back, self.queue, held)}

    def renew(self, held: dict[str, str], lease_s: float) -> tuple[set[str], set[str], set[str]]:
        renewed = self.write(renew, self.queue, held, lease_s, now=self.clock)
        return set(renewed.held), set(renewed.lost), set(renewed.cancelled)

    # -- what happens by itself ---------------------------------------------------------------

    def sweep(self, limit: int) -> tuple[int, int, int]:
        swept = self.write(sweep, self.queue, limit=limit, now=self.clock)
        return swept.requeued, swept.ended, swept.forgotten

    def sweep_units(self, limit: int) -> None:
        self.write(expire_reservations, limit, now=self.now)

    def step(self, what: Any, holder: str) -> bool:
        limits = self.limits
        lease_us = round(limits.slot_lease_s * 1_000_000)
        step = _Step(what, "the key", holder)
        return bool(self.write(_do, self.prefix, limits.slots, lease_us, step))

    def pass_time(self, seconds: float, days: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.day += days
        self.set_clock()

    def set_clock(self) -> None:
        if self.store.dialect == "postgresql":
            at = {"at": self.now}
            moved = text("UPDATE clock SET at = :at")
            self.store.write(lambda session: session.execute(moved, at) and None)


@dataclass(frozen=True)
class Seen:
    """What is in the tables, by plain statements."""

    jobs: dict[str, Any]
    turn: float
    effects: Counter[tuple[str, str]]
    told: dict[str, Any]
    quotas: dict[tuple[str, str], tuple[int, int]]
    units: dict[str, Any]
    slots: dict[str, int]


def _of(column: Any) -> Any:
    """Whose value begins with the prefix that is bound."""
    return func.substr(column, 1, PREFIX_CHARS) == bindparam("prefix")


_UNITS: Any = QuotaReservation.__table__
_QUOTAS: Any = Quota.__table__
_LOOK = {
    "jobs": select(jobs).where(jobs.c.queue == bindparam("queue")).order_by(jobs.c.id),
    "turn": select(queues.c.virtual_time).where(queues.c.name == bindparam("queue")),
    "effects": select(Effect.job, Effect.what, func.count())
    .where(_of(Effect.job))
    .group_by(Effect.job, Effect.what),
    "told": select(Told.job, Told.state, Told.progress).where(_of(Told.job)),
    "quotas": select(_QUOTAS).where(_of(_QUOTAS.c.key)),
    "units": select(_UNITS).where(_of(_UNITS.c.id)),
    "slots": select(SlotRow.state).where(SlotRow.name == bindparam("prefix")),
}


def look(session: Session, parts: Parts) -> Seen:
    values = {"queue": parts.queue.name, "prefix": parts.prefix}
    connection = session.connection()
    found = {what: connection.execute(query, values).all() for what, query in _LOOK.items()}
    return Seen(
        {one.public_id: one for one in found["jobs"]},
        found["turn"][0][0] if found["turn"] else 0.0,
        Counter({(job, what): count for job, what, count in found["effects"]}),
        {one.job: (one.state, one.progress) for one in found["told"]},
        {
            (one.key.removeprefix(f"{parts.prefix}:"), one.period): (one.used, one.reserved)
            for one in found["quotas"]
        },
        {one.id: one for one in found["units"]},
        json.loads(found["slots"][0].state or b"{}") if found["slots"] else {},
    )
