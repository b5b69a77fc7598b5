"""SQLite: one writer thread with grouped commits, snapshot readers beside it."""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from crowdsafe.errors import ConfigError, DatabaseUnavailable, Overloaded
from crowdsafe.store.group import run_group, run_read
from crowdsafe.store.retry import Failure, Losses, LostRace, classify
from crowdsafe.store.settings import Isolation, Settings
from crowdsafe.store.turn import Turn
from crowdsafe.store.work import Work, deliver, fail, unexpired

__all__ = ["SqliteControl", "SqliteFile"]

log = logging.getLogger("crowdsafe.store")

_BUSY_TIMEOUT_S = 1.0
_STOP = None


class SqliteControl:
    """Transactions on a ``sqlite3`` connection in autocommit mode."""

    def begin(self, raw: Any, isolation: Isolation, escalated: bool) -> None:
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
        raw.execute("COMMIT")

    def rollback(self, raw: Any) -> None:
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
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._reading = threading.BoundedSemaphore(settings.queue_max)
        self.readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="crowdsafe-reader")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="crowdsafe-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Put a work into the lane. Raises Overloaded when ``queue_max`` works wait already."""
        if self._closed:
            raise DatabaseUnavailable("the store is closed; nothing was done")
        if self._waiting.qsize() >= self._settings.queue_max:
            raise Overloaded(retry_after_s=1)
        self._waiting.put(work)

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
                    raise ConfigError(
                        f"{self.path} is not usable as a SQLite file: {error}"
                    ) from error
                time.sleep(0.05)

    def _run(self) -> None:
        while True:
            first = self._waiting.get()
            if first is _STOP:
                return
            with self._turn:
                works, stop = self._group_with(first)
                claimed = [work for work in works if work.claim()]
                try:
                    self._write(claimed)
                except BaseException as error:
                    log.exception("the write lane failed on a group of %d", len(claimed))
                    fail(claimed, error)
            deliver(claimed)
            if stop:
                return

    def _group_with(self, first: Work) -> tuple[list[Work], bool]:
        """What waits by now, so that who waited long for the turn writes much in it."""
        works = [first]
        while len(works) < self._settings.batch_max:
            try:
                work = self._waiting.get_nowait()
            except queue.Empty:
                break
            if work is _STOP:
                return works, True
            works.append(work)
        return works, False

    def _write(self, works: list[Work]) -> None:
        """Run a group until each of its works has an outcome."""
        losses = Losses(self._settings, max(work.deadline for work in works))
        left = works
        while left:
            error: Exception = LostRace()
            try:
                left = self._attempt(left)
            except Exception as caught:
                error = caught
            if not left:
                return
            if len(left) > 1 and classify(error) is Failure.FINAL:
                for work in left:
                    self._write([work])
                return
            try:
                wait_s = losses.after(error)
            except Exception as final:
                fail(left, final)
                return
            time.sleep(wait_s)
            left = unexpired(left)

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
        f"sqlite+pysqlite:///{path}",
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
