"""Whether tasks wait for each other is seen in what they await, however they came to do so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest

from crowdsafe.find import find
from crowdsafe.find.engine.waiting import wait_inside
from crowdsafe.find.model import Verdict


class Query:
    """Awaitable as a query set is: what it gives hides the coroutine."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self.lock = lock

    def __await__(self) -> Generator[Any, Any, bool]:
        return self.lock.acquire().__await__()


async def queried(lock: asyncio.Lock) -> None:
    await Query(lock)


async def gathered(lock: asyncio.Lock) -> None:
    await asyncio.gather(lock.acquire(), asyncio.Queue[int]().get())


async def timed(lock: asyncio.Lock) -> None:
    await asyncio.wait_for(lock.acquire(), 60)


async def streamed(lock: asyncio.Lock) -> None:
    """As a middleware of Starlette's waits for what the app below it sends."""
    send, receive = anyio.create_memory_object_stream[int]()

    async def app() -> None:
        async with send, lock:
            await send.send(1)

    async with anyio.create_task_group() as group, receive:
        group.start_soon(app)
        await receive.receive()


async def socket(_: asyncio.Lock) -> None:
    """As psycopg waits until it can read."""
    await asyncio.Event().wait()


async def outside(_: asyncio.Lock) -> None:
    await asyncio.get_running_loop().create_future()


async def begun(
    waits: Callable[[asyncio.Lock], Coroutine[Any, Any, Any]], lock: asyncio.Lock
) -> set[asyncio.Task[Any]]:
    """A task that waits, and those that it started."""
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(waits(lock))
    for _ in range(5):
        await asyncio.sleep(0)
    return {task} | asyncio.all_tasks() - before


@pytest.mark.parametrize("waits", [asyncio.Lock.acquire, queried, gathered, timed, streamed])
def test_a_lock_that_another_task_holds(
    waits: Callable[[asyncio.Lock], Coroutine[Any, Any, Any]],
) -> None:
    async def look() -> tuple[bool, bool, bool]:
        lock = asyncio.Lock()
        await lock.acquire()
        own, busy = await begun(waits, lock), await begun(socket, lock)
        alone, helped = wait_inside(own, own), wait_inside(own, busy)
        lock.release()
        return alone, helped, wait_inside(own, own)

    assert asyncio.run(look()) == (True, False, False)


@pytest.mark.parametrize("waits", [outside, socket])
def test_what_waits_for_the_world_outside(
    waits: Callable[[asyncio.Lock], Coroutine[Any, Any, Any]],
) -> None:
    async def look() -> bool:
        return wait_inside(await begun(waits, asyncio.Lock()), [])

    assert not asyncio.run(look())


class Shop:
    """One connection for all, under a lock for each statement and each transaction."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = asyncio.Lock()
        self.connection: aiosqlite.Connection | None = None

    async def begin(self) -> aiosqlite.Connection:
        if self.connection is None:
            self.connection = await aiosqlite.connect(self.file, isolation_level=None)
        return self.connection

    async def one(self, ask: Callable[[aiosqlite.Connection], Awaitable[Any]]) -> Any:
        async with self.lock:
            return await ask(await self.begin())

    async def sell(self) -> str:
        [[left]] = await self.one(lambda c: c.execute_fetchall("SELECT on_hand FROM stock"))
        if left < 1:
            return "sold out"
        async with self.lock:
            connection = await self.begin()
            await connection.execute("BEGIN")
            await connection.execute("UPDATE stock SET on_hand = ?", (left - 1,))
            await connection.execute("INSERT INTO sale DEFAULT VALUES")
            await connection.commit()
        return "sold"


async def made(file: Path) -> None:
    async with aiosqlite.connect(file) as connection:
        await connection.executescript(
            "CREATE TABLE stock (id INTEGER PRIMARY KEY, on_hand INTEGER);"
            "CREATE TABLE sale (id INTEGER PRIMARY KEY); INSERT INTO stock VALUES (1, 1)"
        )


def test_a_race_between_the_turns_of_a_lock_is_found(tmp_path: Path) -> None:
    """It needs one that waits for the lock already when the other lets go of it."""
    file = tmp_path / "shop.db"
    asyncio.run(made(file))
    shop = Shop(file)
    report = find(None, [shop.sell], database=f"sqlite:///{file}", budget_s=60)
    [found] = report.findings
    assert found.verdict is Verdict.RACE, found.reason
    assert found.tables[0] == "stock"
