"""Help for the tests of the queue: a queue with a clock of its own, and rows that prove effects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.store import AsyncStore, BigId, Settings, Store
from crowdsafe.traffic.queue import (
    Claimed,
    Enqueued,
    Job,
    JobQueue,
    Kind,
    RunningJob,
    claim,
    complete,
    enqueue,
    find_jobs,
    get_job,
    sweep,
)

WAIT_S_MAX = 30.0
LEASE_S = 2.0


class Base(DeclarativeBase):
    metadata = MetaData()


class Effect(Base):
    """What a job did in the database; nothing keeps it from being there twice."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job: Mapped[str] = mapped_column(String(64))
    what: Mapped[str] = mapped_column(String(40))
    by: Mapped[str] = mapped_column(String(40), default="")


def effects(session: Session, what: str) -> dict[str, int]:
    """How often each job did it."""
    rows = session.execute(
        select(Effect.job, func.count()).where(Effect.what == what).group_by(Effect.job)
    )
    return {row[0]: row[1] for row in rows}


def leave(session: Session, job: str, what: str, by: str = "") -> None:
    session.add(Effect(job=job, what=what, by=by))


async def nothing(job: RunningJob) -> None:
    """The smallest job."""


async def note(job: RunningJob) -> dict[str, Any]:
    """Takes a while, and leaves its effect together with its completion."""
    await asyncio.sleep(random.uniform(0.5, 1.5) * float(job.payload.get("takes_s", 0.05)))
    by = str(job.attempt)
    job.finish_with(lambda session: leave(session, job.id, "done", by))
    return {"attempt": job.attempt}


def dropped(session: Session, job: Job) -> None:
    leave(session, job.id, "dropped", job.state)


NOTES = JobQueue(
    "notes",
    [Kind("note", note, attempts=200, lease_s=LEASE_S, retry_wait_s=0.05, dropped=dropped)],
    per_user=3,
    running_max=6,
)
"""The queue of the processes that are killed; attempts are many, so that only jobs are counted."""


class Line:
    """A queue on a store, with a clock that stands still until it is moved."""

    def __init__(self, store: Store, queue: JobQueue) -> None:
        self.store = store
        self.queue = queue
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def enqueue(self, user: str, kind: str = "noop", **asked: Any) -> Enqueued:
        asked = {"payload": {}, "now": self.now} | asked
        return self.store.write(enqueue, self.queue, kind, user=user, **asked)

    def add(self, user: str, kind: str = "noop", **asked: Any) -> str:
        return self.enqueue(user, kind, **asked).job.id

    def claim(self, limit: int = 1, **asked: Any) -> list[Claimed]:
        return self.store.write(claim, self.queue, limit, now=self.now, **asked)

    def take(self) -> Claimed:
        (claimed,) = self.claim(1)
        return claimed

    def users(self, limit: int) -> list[str]:
        return [claimed.job.user for claimed in self.claim(limit)]

    def serve(self, limit: int = 1) -> list[Job]:
        """Claim and complete at once."""
        claimed = self.claim(limit)
        for one in claimed:
            self.do(complete, one)
        return [one.job for one in claimed]

    def do(self, fn: Callable[..., Any], one: Claimed, *args: Any, **kwargs: Any) -> Any:
        """Call a function that takes a job's id and token."""
        return self.store.write(
            fn, self.queue, one.job.id, one.token, *args, now=self.now, **kwargs
        )

    def sweep(self) -> Any:
        return self.store.write(sweep, self.queue, now=self.now)

    def job(self, job_id: str) -> Job:
        return self.store.read(get_job, self.queue, job_id)

    def jobs(self, **asked: Any) -> list[Job]:
        return self.store.read(find_jobs, self.queue, **{"limit": 1000, **asked})


def queue_of(*kinds: Kind, **limits: Any) -> JobQueue:
    """A queue with a kind "noop" and others; its limits are wide unless given."""
    wide = {"per_user": 100, "running_max": 100, "queued_per_user_max": 2000}
    return JobQueue("test", [Kind("noop", nothing), *kinds], **{**wide, **limits})


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[AsyncStore]:
    store = AsyncStore(url, Settings(**{"pool_size": 8, **settings}))
    await store.create_all(Base.metadata)
    try:
        yield store
    finally:
        await store.close()


async def eventually(done: Callable[[], Any], within_s: float = WAIT_S_MAX) -> Any:
    """Wait until `done` is true; it may be async."""
    async with asyncio.timeout(within_s):
        while True:
            value = done()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)


async def all_ended(store: AsyncStore, queue: JobQueue, count: int) -> list[Job]:
    """Every job of the queue, when `count` of them have ended."""

    async def ended() -> list[Job]:
        jobs = await store.read(find_jobs, queue, limit=1000)
        return jobs if sum(job.ended for job in jobs) >= count else []

    jobs: list[Job] = await eventually(ended, 60)
    return jobs


def overlap_max(jobs: list[Job]) -> int:
    """How many of the jobs ran at the same time, at most."""
    changes = []
    for job in jobs:
        assert job.started_at is not None and job.finished_at is not None
        changes += [(job.started_at, 1), (job.finished_at, -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
