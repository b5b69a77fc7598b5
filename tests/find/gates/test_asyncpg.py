"""The gate of asyncpg sees each round trip once, whatever way it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from crowdsafe.find.gates import asyncpg as gate
from crowdsafe.find.gates import roundtrip
from tests.find.gates.recorder import Recorder, recording, redirect_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(pg_url: str) -> Iterator[str]:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('ok', 'bad')")
        connection.execute("CREATE TABLE stock (id int PRIMARY KEY, qty int NOT NULL, mood mood)")
        connection.execute("INSERT INTO stock VALUES (1, 80, 'ok'), (2, 5, 'bad')")
    undo = gate.install(redirect_of(pg_url))
    roundtrip.assume_isolation("read committed")
    yield pg_url
    roundtrip.assume_isolation(None)
    undo()


def run(url: str, use: Callable[[Any], Awaitable[None]]) -> Recorder:
    async def whole() -> Recorder:
        with recording() as seen:
            connection = await asyncpg.connect(url)
            await use(connection)
            await connection.close()
        return seen

    return asyncio.run(whole())


def test_statements(url: str) -> None:
    async def use(connection: Any) -> None:
        assert await connection.fetchval("SELECT qty FROM stock WHERE id = $1", 1) == 80
        async with connection.transaction(isolation="serializable"):
            await connection.execute("UPDATE stock SET qty = qty - 1")
            async with connection.transaction():
                await connection.execute("DELETE FROM stock WHERE id = $1", 2)
        assert (await connection.fetchrow("SELECT mood FROM stock"))["mood"] == "ok"
        assert await connection.fetch("SELECT mood FROM stock WHERE id = 9") == []

    seen = run(url, use)
    assert seen.texts == [
        "SELECT qty FROM stock WHERE id = $1",
        "BEGIN ISOLATION LEVEL SERIALIZABLE;",
        "UPDATE stock SET qty = qty - 1",
        "SAVEPOINT __asyncpg_savepoint___;",
        "DELETE FROM stock WHERE id = $1",
        "RELEASE SAVEPOINT __asyncpg_savepoint___;",
        "COMMIT;",
        "SELECT mood FROM stock",
        "SELECT mood FROM stock WHERE id = 9",
    ]
    first, update, delete = seen.steps[0], seen.steps[2], seen.steps[4]
    assert (first.parameters, first.rows, first.columns) == ((1,), [(80,)], ("qty",))
    assert (update.rowcount, delete.rowcount) == (2, 1)
    assert seen.links[0].backend_pid


def test_prepared_many_cursor_copy(url: str) -> None:
    async def use(connection: Any) -> None:
        prepared = await connection.prepare("SELECT id FROM stock WHERE id = $1")
        assert await prepared.fetchval(1) == 1
        assert await prepared.fetchval(2) == 2
        await connection.executemany("INSERT INTO stock VALUES ($1, $2)", [(3, 3), (4, 4)])
        async with connection.transaction():
            rows = [row["id"] async for row in connection.cursor("SELECT id FROM stock")]
            cursor = await connection.cursor("SELECT qty FROM stock")
            assert len(await cursor.fetch(2)) == 2
        assert sorted(rows) == [1, 2, 3, 4]
        await connection.copy_records_to_table("stock", records=[(5, 5, None)])

    assert run(url, use).texts == [
        "SELECT id FROM stock WHERE id = $1",
        "SELECT id FROM stock WHERE id = $1",
        "INSERT INTO stock VALUES ($1, $2)",
        "BEGIN;",
        "SELECT id FROM stock",
        "SELECT qty FROM stock",
        "SELECT qty FROM stock",
        "COMMIT;",
        'COPY "stock" FROM STDIN (FORMAT binary)',
    ]


@pytest.mark.parametrize("level", ["repeatable_read", "read_committed"])
def test_what_takes_the_snapshot_is_a_step(url: str, level: str) -> None:
    async def use(connection: Any) -> None:
        async with connection.transaction(isolation=level):
            assert await connection.fetchval("SELECT id FROM stock WHERE id = $1", 1) == 1
            assert await connection.fetchval("SELECT qty FROM stock WHERE id = $1", 1) == 80

    assert [sql.split()[0] for sql in run(url, use).texts] == [
        "BEGIN",
        *(["PREPARE"] if level == "repeatable_read" else []),
        "SELECT",
        "SELECT",
        "COMMIT;",
    ]


def test_error_and_open_transaction(url: str) -> None:
    async def use(connection: Any) -> None:
        await connection.execute("BEGIN")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO stock VALUES (1, 1)")

    seen = run(url, use)
    assert seen.texts == ["BEGIN", "INSERT INTO stock VALUES (1, 1)", "ROLLBACK"]
    assert (seen.steps[1].error, seen.steps[1].sqlstate) == ("UniqueViolationError", "23505")


def test_pool_counts_the_same_each_time(url: str) -> None:
    async def whole() -> list[list[str]]:
        found = []
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            for _ in range(3):
                with recording() as seen:
                    async with pool.acquire() as connection:
                        await connection.fetch("SELECT mood FROM stock")
                found.append(seen.texts)
        return found

    assert asyncio.run(whole()) == [["SELECT mood FROM stock"]] * 3


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_sqlalchemy_counts_the_same_each_time(url: str, driver: str) -> None:
    from crowdsafe.find.gates import psycopg3

    undo = psycopg3.install(redirect_of(url)) if driver == "psycopg" else lambda: None

    async def whole() -> list[list[str]]:
        engine = create_async_engine(
            url.replace("postgresql", f"postgresql+{driver}"), pool_pre_ping=True
        )
        found = []
        for _ in range(3):
            with recording() as seen:
                async with engine.begin() as connection:
                    await connection.execute(text("SELECT qty FROM stock"))
                    await connection.execute(text("UPDATE stock SET qty = :q"), {"q": 1})
                async with engine.connect() as connection:
                    await connection.execute(text("SELECT id FROM stock"))
            found.append([line.rstrip(";").split()[0] for line in seen.texts])
        await engine.dispose()
        return found

    try:
        first, *others = asyncio.run(whole())
    finally:
        undo()
    assert [word for word in first if word != "BEGIN"] == [
        "SELECT",
        "UPDATE",
        "COMMIT",
        "SELECT",
        "ROLLBACK",
    ]
    assert others == [first, first]


def test_forced_isolation(url: str) -> None:
    async def use(connection: Any) -> None:
        for isolation in (None, "serializable"):
            async with connection.transaction(isolation=isolation):
                level = await connection.fetchval("SHOW transaction_isolation")
                assert level == "repeatable read"

    roundtrip.force_isolation("repeatable read")
    try:
        run(url, use)
    finally:
        roundtrip.force_isolation(None)


def test_connects_go_to_the_copy(pg_url: str) -> None:
    undo = gate.install(redirect_of(pg_url, original="not_there"))

    async def name() -> Any:
        connection = await asyncpg.connect(pg_url.rpartition("/")[0] + "/not_there")
        try:
            return await connection.fetchval("SELECT current_database()")
        finally:
            await connection.close()

    try:
        assert asyncio.run(name()) == pg_url.rpartition("/")[2]
    finally:
        undo()
