"""The two tables of the queue.

A job that waits for its time (``run_after``) is ``delayed`` and has no turn yet; everywhere outside
this package that is ``queued`` too. A delayed one with a ``lease_until`` waits for a sweep after
that. Conditions on ``state`` are written with literal values, since
that is how both databases recognise that a partial index fits; no index but those begins with the
queue, so that SQLite, which keeps no statistics by itself, does not prefer one over all jobs ever.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Boolean, Double, Index, Integer, String, Table, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import BigId, Json, UtcDateTime

__all__ = [
    "ACTIVE",
    "DELAYED",
    "ENDED",
    "QUEUED",
    "RUNNING",
    "STILL_RUNNING",
    "WAITING",
    "jobs",
    "queues",
]

QUEUED = text("state = 'queued'")
DELAYED = text("state = 'delayed'")
RUNNING = text("state = 'running'")
ACTIVE = text("state IN ('queued', 'delayed', 'running')")
WAITING = text("state IN ('queued', 'delayed', 'running') AND state <> 'running'")
ENDED = text("state IN ('done', 'failed', 'cancelled')")


def _index(name: str, *columns: str, where: Any = None, unique: bool = False) -> Index:
    return Index(
        f"ix_crowdsafe_jobs_{name}",
        *columns,
        unique=unique,
        sqlite_where=where,
        postgresql_where=where,
    )


class JobRow(CrowdsafeBase):
    """One job, from its enqueueing until it is forgotten."""

    __tablename__ = "crowdsafe_jobs"
    __table_args__ = (
        _index("turn", "queue", "rank", "id", "user_key", "kind", "state", where=QUEUED),
        _index("due", "queue", "run_after", where=DELAYED),
        _index("running", "queue", "user_key", "kind", "priority", where=RUNNING),
        _index("user", "queue", "user_key", "state", "tag", where=ACTIVE),
        _index("key", "queue", "dedup_key", where=ACTIVE, unique=True),
        _index("of_user", "user_key", "queue", "id"),
        _index("ended", "queue", "finished_at", where=ENDED),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(64), unique=True)
    queue: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(80))
    user_key: Mapped[str] = mapped_column(String(200))
    dedup_key: Mapped[str | None] = mapped_column(String(255))
    priority: Mapped[int] = mapped_column(Integer)
    tag: Mapped[float] = mapped_column(Double)
    rank: Mapped[float] = mapped_column(Double)
    state: Mapped[str] = mapped_column(String(10))
    payload: Mapped[Any] = mapped_column(Json)
    result: Mapped[Any] = mapped_column(Json, nullable=True)
    progress: Mapped[Any] = mapped_column(Json, nullable=True)
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool] = mapped_column(Boolean)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    run_after: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class QueueRow(CrowdsafeBase):
    """One queue: how far its rounds have come. Who holds the row's lock is the one who claims."""

    __tablename__ = "crowdsafe_queues"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    virtual_time: Mapped[float] = mapped_column(Double)


jobs = cast(Table, JobRow.__table__)
queues = cast(Table, QueueRow.__table__)

STILL_RUNNING = func.coalesce(jobs.c.state, "") == "running"
"""For jobs that are looked up by their id: no partial index fits this, so theirs is taken."""
