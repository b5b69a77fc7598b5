"""SQLite: one writer thread with grouped commits, snapshot readers beside it."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from crowdsafe.errors import ConfigError, DatabaseUnavailable, OutcomeUnknown, Overloaded
from crowdsafe.store.group import run_group, run_read
from crowdsafe.store.retry import Losses, LostRace, may_run_alone
from crowdsafe.store.settings import Isolation, Settings
from crowdsafe.store.turn import Turn
from crowdsafe.store.work import Work, deliver, fail, unexpired

__all__ = ["SqliteControl", "SqliteFile"]

log = logging.getLogger("crowdsafe.store")

_BUSY_TIMEOUT_S = 1.0
_STOP: Any = object()


class _SqliteConnection(sqlite3.Connection):
    """Knows its cursors, so that the end of a transaction closes those that were left half-read.

    A half-read result that somebody keeps, if only in a traceback, would hold the connection on its
    old snapshot: later reads would see the past, and later writes would be refused for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        made = super().cursor(factory)
        self._cursors.add(made)
        return made

    def close_cursors(self) -> None:
        """Close every cursor; what was not fetched yet can no longer be."""
        for cursor in list(self._cursors):
            cursor.close()
        self._cursors.clear()


class SqliteControl:
    """Transactions on a ``sqlite3`` connection in autocommit mode."""

    def begin(self, raw: Any, isolation: Isolation, escalated: bool, limit_s: float | None) -> None:
        raw.execute("BEGIN IMMEDIATE")

    def begin_read(self, raw: Any) -> None:
        raw.execute("BEGIN")

    def savepoint(self, raw: Any) -> None:
        raw.execute("SAVEPOINT crowdsafe")

    def renew_savepoint(self, raw: Any) -> None:
        raw.execute("RELEASE crowdsafe")
        raw.execute("SAVEPOINT crowdsafe")

    def rollback_to(self, raw: Any) -> None:
        raw.execute("ROLLBACK TO crowdsafe")

    def wants_savepoints(self) -> bool:
        return True

    def spoilt(self) -> None:
        pass

    def commit(self, raw: Any) -> None:
        raw.close_cursors()
        raw.execute("COMMIT")

    def rollback(self, raw: Any) -> None:
        raw.close_cursors()
        raw.execute("ROLLBACK")

    def is_open(self, raw: Any) -> bool:
        return bool(raw.in_transaction)

    can_commit = is_open


CONTROL = SqliteControl()


class SqliteFile:
    """One SQLite file as one process sees it: the write lane and the readers.

    Raises ConfigError when the file cannot be opened or its folder cannot be written.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        self._settings = settings
        self.path = Path(path)
        _check_writable(self.path)
        self.write_engine = _engine(self.path, settings, read_only=False)
        self.read_engine = _engine(self.path, settings, read_only=True)
        self._prepare()
        self._turn = Turn(self.path)
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._losers: list[tuple[float, int, Work]] = []
        self._ticket = itertools.count()
        self.readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="crowdsafe-reader")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="crowdsafe-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Put a work into the lane. Raises Overloaded when ``queue_max`` works wait already."""
        self.check_open()
        if self._waiting.qsize() >= self._settings.queue_max:
            raise Overloaded(retry_after_s=1)
        self._waiting.put(work)

    def check_open(self) -> None:
        """Raise DatabaseUnavailable when the store is closed."""
        if self._closed:
            raise DatabaseUnavailable("the store is closed; nothing was done")

    def read(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run ``fn`` on a read-only snapshot in the calling thread."""
        with self.read_engine.connect() as connection:
            return run_read(connection, fn, args, kwargs, CONTROL)

    def close(self) -> None:
        """Finish what waits, within ``grace_s``, and close every connection."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(_STOP)
        self._thread.join(self._settings.grace_s)
        self.readers.shutdown(wait=True, cancel_futures=True)
        self.read_engine.dispose()
        if not self._thread.is_alive():
            self.write_engine.dispose()
            self._turn.close()

    def _prepare(self) -> None:
        """Switch the file to WAL, which it then stays in."""
        deadline = time.monotonic() + self._settings.deadline_s
        while True:
            try:
                with self.write_engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return
            except Exception as error:
                if time.monotonic() > deadline or "locked" not in str(error):
                    reason = getattr(error, "orig", error)
                    raise ConfigError(
                        f"{self.path} is not usable as a SQLite file: {reason}"
                    ) from error
                time.sleep(0.05)

    def _run(self) -> None:
        stop = False
        while not stop or self._losers:
            first = self._next()
            stop = stop or first is _STOP
            with self._turn:
                fresh, stopped = self._group_with(first)
                stop = stop or stopped
                works = self._losers_due() + [work for work in fresh if work.claim()]
                try:
                    again = self._write(works)
                except BaseException as error:
                    log.exception("the write lane failed on a group of %d", len(works))
                    fail([work for work in works if work.error is not error], OutcomeUnknown())
                    again = []
            deliver([work for work in works if work not in again])
            for work in again:
                self._run_again_later(work)

    def _next(self) -> Any:
        """The next work; _STOP when the store closes, None when a loser's time has come."""
        try:
            if self._losers:
                return self._waiting.get(timeout=max(0.0, self._losers[0][0] - time.monotonic()))
            return self._waiting.get()
        except queue.Empty:
            return None

    def _losers_due(self) -> list[Work]:
        due: list[Work] = []
        while self._losers and self._losers[0][0] <= time.monotonic():
            due.append(heapq.heappop(self._losers)[2])
        return due

    def _run_again_later(self, work: Work) -> None:
        """Let a work that lost a race of its own wait without the lane waiting for it."""
        wait_s = 0.0
        if work.lost:
            losses = Losses(self._settings, work.deadline, work.losses - 1)
            try:
                wait_s = losses.after(LostRace())
            except Exception as final:
                fail([work], final)
                deliver([work])
                return
        heapq.heappush(self._losers, (time.monotonic() + wait_s, next(self._ticket), work))

    def _group_with(self, first: Any) -> tuple[list[Work], bool]:
        """What waits by now, so that who waited long for the turn writes much in it."""
        works = [] if first is None or first is _STOP else [first]
        while len(works) < self._settings.batch_max:
            try:
                work = self._waiting.get_nowait()
            except queue.Empty:
                break
            if work is _STOP:
                return works, True
            works.append(work)
        return works, False

    def _write(self, works: list[Work]) -> list[Work]:
        """Run a group until each of its works has an outcome, but for those returned."""
        left = unexpired(works)
        losses = Losses(self._settings, max((work.deadline for work in works), default=0))
        while left:
            try:
                return self._attempt(left)
            except Exception as caught:
                error = caught
            if len(left) > 1 and may_run_alone(error):
                return [again for work in left for again in self._write([work])]
            try:
                wait_s = losses.after(error)
            except Exception as final:
                fail(left, final)
                return []
            time.sleep(wait_s)
            left = unexpired(left)
        return []

    def _attempt(self, works: list[Work]) -> list[Work]:
        with self.write_engine.connect() as connection:
            return run_group(connection, works, CONTROL, isolation="serializable")


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it, such as {path / 'app.db'}")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist; create it first")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise ConfigError(f"{target} is not writable; choose another place or change its mode")


def _engine(path: Path, settings: Settings, *, read_only: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        poolclass=QueuePool,
        pool_size=settings.readers if read_only else 1,
        max_overflow=64 if read_only else 0,
        pool_timeout=settings.pool_timeout_s,
        connect_args={
            "check_same_thread": False,
            "timeout": _BUSY_TIMEOUT_S,
            "cached_statements": 512,
            "factory": _SqliteConnection,
        },
    )

    @event.listens_for(engine, "connect")
    def tune(raw: sqlite3.Connection, _record: Any) -> None:
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute("PRAGMA cache_size = -32768")
        raw.execute(f"PRAGMA synchronous = {settings.synchronous}")
        if read_only:
            raw.execute("PRAGMA query_only = ON")

    return engine
