"""PostgreSQL through psycopg 3: transactions by hand, a pool that heals, lanes by key.

An escalated write takes the table ``crowdsafe_gate`` exclusively, every other write shares it, in
the same round trip as its BEGIN. LOCK TABLE takes no snapshot, so a write that waited for the gate
sees what was committed meanwhile and, being alone, cannot lose again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import URL, AsyncAdaptedQueuePool, Engine, QueuePool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from crowdsafe.errors import DatabaseUnavailable, OutcomeUnknown, Overloaded
from crowdsafe.store.group import run_group, run_read
from crowdsafe.store.retry import Losses, LostRace, may_run_alone
from crowdsafe.store.settings import Isolation, Settings
from crowdsafe.store.tables import GATE_TABLE
from crowdsafe.store.work import AsyncWork, SyncWork, Work, deliver, fail, unexpired

__all__ = ["AsyncPostgres", "Postgres"]


_WARY_GROUPS = 32


class PostgresControl:
    """Transactions on a psycopg connection in autocommit mode, through SQLAlchemy's cursor.

    A savepoint costs a round trip, so a group begins without; when a write in it fails, the group
    begins again with savepoints, and so do the next 32 groups from their start.
    """

    def __init__(self) -> None:
        self.has_gate = False
        self._wary = 0

    def begin(self, raw: Any, isolation: Isolation, escalated: bool, limit_s: float | None) -> None:
        mode = "EXCLUSIVE" if escalated else "ROW SHARE"
        gate = f"; LOCK TABLE {GATE_TABLE} IN {mode} MODE" if self.has_gate else ""
        limit = ""
        if limit_s is not None:
            limit_ms = max(1, int(limit_s * 1000))
            limit = (
                f"; SET LOCAL lock_timeout = {limit_ms}; SET LOCAL statement_timeout = {limit_ms}"
            )
        _run(raw, f"BEGIN ISOLATION LEVEL {isolation.upper()}{limit}{gate}")

    def begin_read(self, raw: Any) -> None:
        _run(raw, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def savepoint(self, raw: Any) -> None:
        _run(raw, "SAVEPOINT crowdsafe")

    def renew_savepoint(self, raw: Any) -> None:
        _run(raw, "RELEASE crowdsafe; SAVEPOINT crowdsafe")

    def rollback_to(self, raw: Any) -> None:
        _run(raw, "ROLLBACK TO crowdsafe")

    def wants_savepoints(self) -> bool:
        if not self._wary:
            return False
        self._wary -= 1
        return True

    def spoilt(self) -> None:
        self._wary = _WARY_GROUPS

    def commit(self, raw: Any) -> None:
        _run(raw, "COMMIT")

    def rollback(self, raw: Any) -> None:
        _run(raw, "ROLLBACK")

    def is_open(self, raw: Any) -> bool:
        return _status(raw) != TransactionStatus.IDLE

    def can_commit(self, raw: Any) -> bool:
        return _status(raw) == TransactionStatus.INTRANS


def _run(raw: Any, statements: str) -> None:
    cursor = raw.cursor()
    try:
        cursor.execute(statements)
    finally:
        cursor.close()


def _status(raw: Any) -> TransactionStatus:
    connection = getattr(raw, "driver_connection", raw)
    status: TransactionStatus = connection.info.transaction_status
    return status


class _Server:
    """What the sync and the async side share: the engine, and one attempt on it."""

    engine: Engine

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control = PostgresControl()
        self._waiting = 0
        self.closed = False

    def look_for_gate(self) -> None:
        """Learn whether ``create_all`` has made the gate; without it nothing escalates."""
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql(f"SELECT to_regclass('{GATE_TABLE}')").scalar()
        self.control.has_gate = found is not None

    def attempt(self, works: Sequence[Work], losses: Losses) -> list[Work]:
        """Run works in one transaction; those returned must run again."""
        left_s = max(work.deadline for work in works) - time.monotonic()
        if losses.escalate and not self.control.has_gate:
            self.look_for_gate()
        with self.engine.connect() as connection:
            return run_group(
                connection,
                works,
                self.control,
                isolation=works[0].isolation,
                escalated=losses.escalate,
                limit_s=left_s if left_s < self.settings.lock_timeout_s else None,
            )

    def read(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run ``fn`` once on a read-only snapshot."""
        with self.engine.connect() as connection:
            return run_read(connection, fn, args, kwargs, self.control)

    def check_open(self) -> None:
        """Raise DatabaseUnavailable when the store is closed."""
        if self.closed:
            raise DatabaseUnavailable("the store is closed; nothing was done")

    def enter(self) -> None:
        """Count a write in. Raises Overloaded when ``queue_max`` writes wait already."""
        self.check_open()
        if self._waiting >= self.settings.queue_max:
            raise Overloaded(retry_after_s=1)
        self._waiting += 1

    def leave(self) -> None:
        """Count a write out."""
        self._waiting -= 1


class Postgres(_Server):
    """A PostgreSQL server for callers that are threads."""

    def __init__(self, url: URL, settings: Settings) -> None:
        super().__init__(settings)
        self.engine = create_engine(url, poolclass=QueuePool, **_engine_options(settings))
        self._lanes: dict[Hashable, _ThreadLane] = {}
        self._lock = threading.Lock()

    def write(self, work: SyncWork) -> Any:
        """Run a work, alone or with those of its lane, and give back its value."""
        with self._lock:
            self.enter()
        try:
            if work.lane is None:
                work.claim()
                self._finish([work])
                return work.result(0)
            return self._write_in_lane(work, (work.lane, work.isolation))
        finally:
            with self._lock:
                self.leave()

    def _write_in_lane(self, work: SyncWork, key: Hashable) -> Any:
        with self._lock:
            lane = self._lanes.setdefault(key, _ThreadLane())
            lane.waiting.append(work)
            lane.callers += 1
        try:
            lane.lead_until_done(work, self._finish, self.settings)
            return work.result(self.settings.grace_s)
        finally:
            with self._lock:
                lane.callers -= 1
                if not lane.callers and self._lanes.get(key) is lane:
                    del self._lanes[key]

    def _finish(self, works: list[Work]) -> None:
        """Run claimed works until each has an outcome, then wake their callers.

        One that lost a race of its own goes on in a thread apart, so that the others need not wait.
        """
        while works:
            again: list[Work] = []
            try:
                again = self._run(works)
            finally:
                deliver([work for work in works if work not in again])
            lost = [work for work in again if work.lost]
            works = [work for work in again if not work.lost]
            for work in lost:
                threading.Thread(target=self._finish, args=([work],), daemon=True).start()

    def _run(self, works: list[Work]) -> list[Work]:
        """Run works; those returned must run again, in a transaction of their own."""
        losses = Losses(self.settings, max(work.deadline for work in works))
        left = unexpired(works)
        try:
            while left:
                error: Exception = LostRace()
                try:
                    left = self.attempt(left, losses)
                    if len(works) > 1:
                        return left
                except Exception as caught:
                    error = caught
                if len(left) > 1 and may_run_alone(error):
                    while left:
                        self._run(left[:1])
                        left = left[1:]
                elif left:
                    time.sleep(losses.after(error))
                    left = unexpired(left)
        except Exception as final:
            fail(left, final)
        except BaseException as error:
            fail([work for work in left if work.error is not error], OutcomeUnknown())
            raise
        return []

    def close(self) -> None:
        """Close the pool's connections."""
        self.closed = True
        self.engine.dispose()


class _ThreadLane:
    """Flat combining: whichever waiting thread gets the lead runs the works of all."""

    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.callers = 0
        self._lead = threading.Lock()

    def lead_until_done(
        self, own: SyncWork, finish: Callable[[list[Work]], None], settings: Settings
    ) -> None:
        """Wait until another thread has run ``own``, or take the lead and run it with others."""
        while not own.is_done:
            wait_s = own.deadline - time.monotonic()
            if wait_s <= 0 or not self._lead.acquire(timeout=wait_s):
                return
            try:
                while not own.is_done:
                    group = _claimed(self.waiting, settings.batch_max)
                    if not group:
                        return
                    finish(group)
            finally:
                self._lead.release()


class AsyncPostgres(_Server):
    """A PostgreSQL server for callers that are tasks of one event loop."""

    def __init__(self, url: URL, settings: Settings) -> None:
        super().__init__(settings)
        self.async_engine = create_async_engine(
            url, poolclass=AsyncAdaptedQueuePool, **_engine_options(settings)
        )
        self.engine = self.async_engine.sync_engine
        self._lanes: dict[Hashable, deque[Work]] = {}
        self._leaders: set[asyncio.Task[None]] = set()

    async def write(self, work: AsyncWork) -> Any:
        """Run a work, alone or with those of its lane, and give back its value."""
        try:
            self.enter()
        except BaseException:
            work.abandon()
            raise
        try:
            if work.lane is None:
                self._spawn(self._run_alone(work))
            else:
                self._join((work.lane, work.isolation), work)
            return await work.future
        except BaseException:
            work.abandon()
            raise
        finally:
            self.leave()

    def _join(self, key: Hashable, work: AsyncWork) -> None:
        waiting = self._lanes.get(key)
        if waiting is not None:
            waiting.append(work)
        else:
            self._lanes[key] = deque([work])
            self._spawn(self._run_lane(key))

    def _spawn(self, leading: Coroutine[Any, Any, None]) -> None:
        leader = asyncio.get_running_loop().create_task(leading)
        self._leaders.add(leader)
        leader.add_done_callback(self._leaders.discard)

    async def _run_alone(self, work: Work) -> None:
        if work.claim():
            await self._finish([work])

    async def _run_lane(self, key: Hashable) -> None:
        waiting = self._lanes[key]
        try:
            while group := _claimed(waiting, self.settings.batch_max):
                await self._finish(group)
        finally:
            del self._lanes[key]

    async def _finish(self, works: list[Work]) -> None:
        """As ``Postgres._finish``, with a task apart."""
        while works:
            again: list[Work] = []
            try:
                again = await self._run(works)
            finally:
                for work in works:
                    if work not in again:
                        work.run_hooks()
                        work.settle()
            lost = [work for work in again if work.lost]
            works = [work for work in again if not work.lost]
            for work in lost:
                self._spawn(self._finish([work]))

    async def _run(self, works: list[Work]) -> list[Work]:
        """Run works; those returned must run again, in a transaction of their own."""
        losses = Losses(self.settings, max(work.deadline for work in works))
        left = unexpired(works)
        try:
            while left:
                error: Exception = LostRace()
                try:
                    left = await greenlet_spawn(self.attempt, left, losses)
                    if len(works) > 1:
                        return left
                except Exception as caught:
                    error = caught
                if len(left) > 1 and may_run_alone(error):
                    while left:
                        await self._run(left[:1])
                        left = left[1:]
                elif left:
                    await asyncio.sleep(losses.after(error))
                    left = unexpired(left)
        except Exception as final:
            fail(left, final)
        except BaseException as error:
            fail([work for work in left if work.error is not error], OutcomeUnknown())
            raise
        return []

    async def close(self) -> None:
        """Let running writes end, within ``grace_s``, then close the pool's connections."""
        self.closed = True
        if self._leaders:
            await asyncio.wait(self._leaders, timeout=self.settings.grace_s)
        for leader in self._leaders:
            leader.cancel()
        await self.async_engine.dispose()


def _claimed(waiting: deque[Work], batch_max: int) -> list[Work]:
    group: list[Work] = []
    while waiting and len(group) < batch_max:
        work = waiting.popleft()
        if work.claim():
            group.append(work)
    return group


def _engine_options(settings: Settings) -> dict[str, Any]:
    timeouts = {
        "lock_timeout": settings.lock_timeout_s,
        "statement_timeout": settings.statement_timeout_s,
        "idle_in_transaction_session_timeout": settings.deadline_s + settings.grace_s,
    }
    options = " ".join(f"-c {name}={int(value * 1000)}" for name, value in timeouts.items())
    return {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.pool_timeout_s,
        "connect_args": {
            "connect_timeout": max(2, int(settings.connect_timeout_s)),
            "options": options,
        },
    }
