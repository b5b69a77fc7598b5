"""``Store`` and ``AsyncStore``: a write is a plain function of a session, run as if alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Hashable
from typing import Any, Self, TypeVar, cast

from sqlalchemy import URL, MetaData
from sqlalchemy.util import greenlet_spawn

from crowdsafe.errors import ConfigError, CrowdsafeError, DeadlineExceeded, Overloaded
from crowdsafe.store.database import Dialect, Health, create_tables, dialect_of, parse_url, ping
from crowdsafe.store.group import refuse_nesting
from crowdsafe.store.options import Call, checked_isolation, options_of
from crowdsafe.store.retry import Losses
from crowdsafe.store.settings import Isolation, Settings
from crowdsafe.store.sqlite import SqliteFile
from crowdsafe.store.work import AsyncWork, SyncWork

__all__ = ["AsyncStore", "Store"]

T = TypeVar("T")

_PING_DEADLINE_S = 2.0
_inherited: list[object] = []


class Store:
    """A database for code that runs in threads: Flask, Django, scripts, workers.

    Holds: ``write`` runs the function in one transaction, serializable unless it says otherwise,
    again and again while it loses races, and returns only after the commit; what the function
    raises undoes it alone. Every wait has a limit (``Settings``). Safe to share between threads,
    and to use after a fork.
    Does not hold: side effects of the function outside its session happen once for each attempt;
    a commit whose connection broke half-way raises OutcomeUnknown.
    Proved by ``tests/store``.

    Raises ConfigError when the URL, the file, or the driver is wrong.
    """

    def __init__(self, url: str | URL, settings: Settings | None = None) -> None:
        self.url = parse_url(url)
        self.settings = settings or Settings()
        self.dialect: Dialect = dialect_of(self.url)
        self._open()

    def write(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        lane: Hashable | None = None,
        isolation: Isolation | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> T:
        """Run ``fn(session, *args, **kwargs)`` as if alone, commit, and return its value.

        ``lane``, ``isolation`` and ``deadline_s`` override what ``@write`` and the settings say.
        Raises what ``fn`` raises; DeadlineExceeded, Overloaded and DatabaseUnavailable when nothing
        was done; OutcomeUnknown when that is not known.
        """
        refuse_nesting()
        backend = self._backend()
        work = SyncWork(
            *_work_arguments(self.settings, fn, args, kwargs, lane, isolation, deadline_s)
        )
        if isinstance(backend, SqliteFile):
            backend.submit(work)
            return cast(T, work.result(self.settings.grace_s))
        return cast(T, backend.write(work))

    def read(
        self, fn: Callable[..., T], /, *args: Any, deadline_s: float | None = None, **kwargs: Any
    ) -> T:
        """Run ``fn(session, ...)`` on a read-only snapshot: it sees no write that commits later.

        Raises what ``fn`` raises, DeadlineExceeded, Overloaded, DatabaseUnavailable.
        """
        refuse_nesting()
        backend = self._backend()
        backend.check_open()
        losses = Losses(self.settings, _deadline(self.settings, deadline_s))
        while True:
            try:
                return cast(T, backend.read(fn, args, kwargs))
            except Exception as error:
                wait_s = losses.after(error)
            time.sleep(wait_s)

    def create_all(self, *metadatas: MetaData) -> None:
        """Create what is missing of crowdsafe's tables and of ``metadatas``.

        Raises ConfigError when a newer crowdsafe made the tables.
        """
        self.write(create_tables, metadatas)
        self._after_create()

    def health(self) -> Health:
        """Ask the database for an answer within two seconds; never raises."""
        try:
            self.read(ping, deadline_s=_PING_DEADLINE_S)
        except Exception as error:
            return Health(False, self.dialect, str(error))
        return Health(True, self.dialect, "answers")

    def close(self) -> None:
        """Finish the writes that wait, within ``grace_s``, and close every connection."""
        self._backend().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> None:
        if self.dialect == "sqlite":
            self._open_backend: Any = SqliteFile(str(self.url.database), self.settings)
        else:
            self._open_backend = _postgres().Postgres(self.url, self.settings)
            _check_connects(self._open_backend)
        self._pid = os.getpid()

    def _after_create(self) -> None:
        if self.dialect == "postgresql":
            self._open_backend.look_for_gate()

    def _backend(self) -> Any:
        if self._pid != os.getpid():
            _inherited.append(self._open_backend)
            self._open()
        return self._open_backend


class AsyncStore:
    """A database for code that runs on one event loop: FastAPI, Starlette.

    The same functions and the same guarantees as ``Store``. On SQLite a write runs on the writer
    thread and a read on a reader thread. On PostgreSQL both run on the loop itself and give way at
    every statement, so a function must not block: no sleep, no HTTP call. Safe to use after a fork.

    ``await start()`` connects and finds out early what is wrong with the URL (ConfigError).
    """

    def __init__(self, url: str | URL, settings: Settings | None = None) -> None:
        self.url = parse_url(url)
        self.settings = settings or Settings()
        self.dialect: Dialect = dialect_of(self.url)
        self._open()

    async def start(self) -> None:
        """Connect once. Raises ConfigError when the server refuses or cannot be reached."""
        backend = self._backend
        if self.dialect == "postgresql":
            await greenlet_spawn(_check_connects, backend)
        self._started = True

    async def write(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        lane: Hashable | None = None,
        isolation: Isolation | None = None,
        deadline_s: float | None = None,
        **kwargs: Any,
    ) -> T:
        """Run ``fn(session, *args, **kwargs)`` as if alone, commit, and return its value.

        As ``Store.write``. When the calling task is cancelled, a write that has not begun is
        dropped, and one that runs goes on to its end.
        """
        refuse_nesting()
        backend = self._backend
        if not self._started:
            await self.start()
        work = AsyncWork(
            *_work_arguments(self.settings, fn, args, kwargs, lane, isolation, deadline_s),
            grace_s=self.settings.grace_s,
        )
        if self.dialect == "postgresql":
            return cast(T, await backend.write(work))
        try:
            backend.submit(work)
            return cast(T, await work.future)
        except BaseException:
            work.abandon()
            raise

    async def read(
        self, fn: Callable[..., T], /, *args: Any, deadline_s: float | None = None, **kwargs: Any
    ) -> T:
        """Run ``fn(session, ...)`` on a read-only snapshot: it sees no write that commits later.

        Raises what ``fn`` raises, DeadlineExceeded, Overloaded, DatabaseUnavailable.
        """
        refuse_nesting()
        backend = self._backend
        if not self._started:
            await self.start()
        if self._reads >= self.settings.queue_max:
            raise Overloaded("too many reads wait already; try again shortly", retry_after_s=1)
        self._reads += 1
        deadline = _deadline(self.settings, deadline_s)
        try:
            async with asyncio.timeout(deadline - time.monotonic()) as limit:
                losses = Losses(self.settings, deadline)
                return cast(T, await self._read(backend, fn, args, kwargs, losses))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                "the read did not finish before its deadline; try again", retry_after_s=1
            ) from None
        finally:
            self._reads -= 1

    async def create_all(self, *metadatas: MetaData) -> None:
        """Create what is missing of crowdsafe's tables and of ``metadatas``.

        Raises ConfigError when a newer crowdsafe made the tables.
        """
        await self.write(create_tables, metadatas)
        if self.dialect == "postgresql":
            await greenlet_spawn(self._backend.look_for_gate)

    async def health(self) -> Health:
        """Ask the database for an answer within two seconds; never raises."""
        try:
            await self.read(ping, deadline_s=_PING_DEADLINE_S)
        except Exception as error:
            return Health(False, self.dialect, str(error))
        return Health(True, self.dialect, "answers")

    async def close(self) -> None:
        """Finish the writes that wait, within ``grace_s``, and close every connection."""
        if self.dialect == "postgresql":
            await self._backend.close()
        else:
            await asyncio.to_thread(self._backend.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _open(self) -> None:
        if self.dialect == "sqlite":
            self._open_backend: Any = SqliteFile(str(self.url.database), self.settings)
        else:
            self._open_backend = _postgres().AsyncPostgres(self.url, self.settings)
        self._reads = 0
        self._started = False
        self._pid = os.getpid()

    @property
    def _backend(self) -> Any:
        if self._pid != os.getpid():
            _inherited.append(self._open_backend)
            self._open()
        return self._open_backend

    async def _read(
        self, backend: Any, fn: Callable[..., Any], args: Any, kwargs: Any, losses: Losses
    ) -> Any:
        loop = asyncio.get_running_loop()
        while True:
            backend.check_open()
            try:
                if self.dialect == "postgresql":
                    return await greenlet_spawn(backend.read, fn, args, kwargs)
                return await loop.run_in_executor(backend.readers, backend.read, fn, args, kwargs)
            except Exception as error:
                wait_s = losses.after(error)
            await asyncio.sleep(wait_s)


def _work_arguments(
    settings: Settings,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    lane: Hashable | None,
    isolation: Isolation | None,
    deadline_s: float | None,
) -> tuple[Any, ...]:
    options = options_of(fn)
    call = Call(args, kwargs)
    combiner = options.combiner
    if combiner is not None:
        together = combiner.lane(call)
        if together is None or lane is not None:
            combiner = None
        else:
            lane = together
    elif lane is None and options.lane is not None:
        lane = options.lane(*args, **kwargs)
    return (
        fn,
        call,
        checked_isolation(isolation) or options.isolation or "serializable",
        combiner,
        lane,
        _deadline(settings, deadline_s),
    )


def _deadline(settings: Settings, deadline_s: float | None) -> float:
    return time.monotonic() + (settings.deadline_s if deadline_s is None else deadline_s)


def _postgres() -> Any:
    try:
        from crowdsafe.store import postgres
    except ImportError as error:
        raise ConfigError(
            f"PostgreSQL needs psycopg 3 ({error}); install crowdsafe[postgres]"
        ) from error
    return postgres


def _check_connects(backend: Any) -> None:
    try:
        backend.look_for_gate()
    except CrowdsafeError:
        raise
    except Exception as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise ConfigError(f"cannot connect to PostgreSQL: {reason}") from error
