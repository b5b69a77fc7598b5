"""Hand-written peers on SQLite: one commit for each request, in one thread or on aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from bench.hand_postgres import INSERT, UPDATE
from bench.ours import MODULE_UPDATE
from bench.tables import STOCK, Stock

TOTAL = f"SELECT sum({STOCK} - on_hand) FROM bench_stock"


def tuned_engine(path: Path, synchronous: str, **options: Any) -> Engine:
    """A SQLAlchemy engine with the pragmas that every guide names."""
    engine = create_engine(f"sqlite+pysqlite:///{path}", **options)
    event.listen(engine, "connect", lambda raw, _: tune(raw, synchronous))
    return engine


def tune(raw: Any, synchronous: str) -> None:
    """Set the pragmas on a driver's connection."""
    for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", "cache_size = -32768"):
        raw.execute(f"PRAGMA {pragma}").close()


class OneThread:
    """A synchronous function in an executor of one thread, which commits each call."""

    def __init__(self, name: str, path: Path, peer_of: str | None, synchronous: str) -> None:
        self.name = name
        self.peer_of = peer_of
        self.path = path
        self.synchronous = synchronous
        self.thread = ThreadPoolExecutor(1)

    def work(self) -> None:
        """One request, committed."""
        raise NotImplementedError

    async def open(self) -> None:
        self.raw = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        tune(self.raw, self.synchronous)

    async def call(self, caller: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self.work)

    async def stored(self) -> int:
        return int(self.raw.execute(TOTAL).fetchone()[0])

    async def close(self) -> None:
        self.thread.shutdown()
        self.raw.close()


class Bare(OneThread):
    """sqlite3 without SQLAlchemy: one UPDATE, committed by itself."""

    SQL = "UPDATE bench_stock SET on_hand = on_hand - 1 WHERE id = 1"

    def work(self) -> None:
        self.raw.execute(self.SQL)


class Core(OneThread):
    """A function of a SQLAlchemy Core connection in a transaction of its own."""

    def __init__(
        self, name: str, path: Path, peer_of: str, fn: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        super().__init__(name, path, peer_of, "FULL")
        self.fn = fn
        self.engine = tuned_engine(path, "FULL", pool_size=1, max_overflow=0)

    def work(self) -> None:
        with self.engine.begin() as connection:
            self.fn(connection)

    async def close(self) -> None:
        await super().close()
        self.engine.dispose()


class Orm(Core):
    """The ORM: load, change, commit."""

    def work(self) -> None:
        with Session(self.engine) as session, session.begin():
            session.get_one(Stock, 1).on_hand -= 1


def core_update(connection: Connection) -> None:
    """The statement of ``core_at_module``."""
    connection.execute(MODULE_UPDATE)


def core_update_with_ledger(connection: Connection) -> None:
    """What ``take`` does: the guarded UPDATE and its ledger row."""
    left = connection.execute(UPDATE, {"row": 1}).scalar_one()
    entry = {"stock_id": 1, "quantity": -1, "balance_after": left, "kind": "bench"}
    connection.execute(INSERT, entry).scalar_one()


class CoreAiosqlite:
    """SQLAlchemy Core on aiosqlite; one connection, so that callers queue up before it."""

    def __init__(self, name: str, path: Path, peer_of: str) -> None:
        self.name = name
        self.peer_of: str | None = peer_of
        self.path = path
        self.engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0, pool_timeout=30
        )
        event.listen(self.engine.sync_engine, "connect", self._tune)

    @staticmethod
    def _tune(raw: Any, _record: Any) -> None:
        cursor = raw.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -32768"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    async def open(self) -> None:
        """Nothing: the connection opens in the warm-up."""

    async def call(self, caller: int) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(MODULE_UPDATE)

    async def stored(self) -> int:
        async with self.engine.connect() as connection:
            return int((await connection.exec_driver_sql(TOTAL)).scalar_one())

    async def close(self) -> None:
        await self.engine.dispose()
