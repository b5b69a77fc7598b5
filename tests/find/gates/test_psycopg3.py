"""The gate of psycopg 3 sees each round trip once, whatever way it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from crowdsafe.find.gates import psycopg3, roundtrip
from tests.find.gates.recorder import recording, redirect_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(pg_url: str) -> Iterator[str]:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE stock (id int PRIMARY KEY, qty int NOT NULL)")
        connection.execute("INSERT INTO stock VALUES (1, 80), (2, 5)")
    undo = psycopg3.install(redirect_of(pg_url))
    yield pg_url
    undo()


def test_first_statement_takes_begin_along(url: str) -> None:
    with recording() as seen, psycopg.connect(url) as connection:
        row = connection.execute("SELECT qty FROM stock WHERE id = %s", [1]).fetchone()
        connection.execute("UPDATE stock SET qty = 20 WHERE id = 1")
    assert row == (80,)
    assert seen.texts == [
        "SELECT qty FROM stock WHERE id = %s",
        "UPDATE stock SET qty = 20 WHERE id = 1",
        "COMMIT",
    ]
    first, second, _ = seen.steps
    assert (first.parameters, first.rowcount) == ([1], 1)
    assert (first.columns, first.rows) == (("qty",), [(80,)])
    assert second.rowcount == 1
    assert len({link.number for link in seen.links}) == 1
    assert seen.links[0].backend_pid


def test_outside_of_operations_nothing_is_asked(url: str) -> None:
    with recording() as seen:
        pass
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1 FROM stock")
    assert seen.texts == []


def test_error_is_told_with_its_code(url: str) -> None:
    with recording() as seen, psycopg.connect(url) as connection:
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO stock VALUES (1, 1)")
        connection.rollback()
        connection.rollback()
    assert seen.texts == ["INSERT INTO stock VALUES (1, 1)", "ROLLBACK"]
    assert (seen.steps[0].error, seen.steps[0].sqlstate) == ("UniqueViolation", "23505")


def test_preparing_is_no_step(url: str) -> None:
    with recording() as seen, psycopg.connect(url, autocommit=True) as connection:
        for number in range(8):
            connection.execute("SELECT qty FROM stock WHERE id = %s", [number])
    assert len(seen.steps) == 8


def test_transaction_blocks(url: str) -> None:
    with recording() as seen, psycopg.connect(url, autocommit=True) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with connection.transaction():
            connection.execute("UPDATE stock SET qty = 1")
            with connection.transaction():
                connection.execute("DELETE FROM stock")
            with connection.transaction(force_rollback=True):
                connection.execute("DELETE FROM stock WHERE id = 9")
        with pytest.raises(ZeroDivisionError), connection.transaction("named"):
            connection.execute("SELECT * FROM stock")
            raise ZeroDivisionError
    assert seen.texts == [
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "UPDATE stock SET qty = 1",
        'SAVEPOINT "_pg3_2"',
        "DELETE FROM stock",
        'RELEASE "_pg3_2"',
        'SAVEPOINT "_pg3_2"',
        "DELETE FROM stock WHERE id = 9",
        'ROLLBACK TO "_pg3_2"',
        "COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "SELECT * FROM stock",
        "ROLLBACK",
    ]


def test_many_stream_copy_and_server_cursor(url: str) -> None:
    with recording() as seen, psycopg.connect(url) as connection:
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO stock VALUES (%s, %s)", [(3, 1), (4, 1)])
        assert [row[0] for row in cursor.stream("SELECT id FROM stock ORDER BY id")] == [1, 2, 3, 4]
        with cursor.copy("COPY stock FROM STDIN") as copy:
            copy.write_row((5, 1))
        with cursor.copy("COPY stock TO STDOUT") as copy:
            assert len(list(copy.rows())) == 5
        with connection.cursor("named") as named:
            named.execute("SELECT id FROM stock ORDER BY id")
            assert named.fetchone() == (1,)
            assert len(named.fetchall()) == 4
    assert seen.texts == [
        "INSERT INTO stock VALUES (%s, %s)",
        "SELECT id FROM stock ORDER BY id",
        "COPY stock FROM STDIN",
        "COPY stock FROM STDIN",
        "COPY stock TO STDOUT",
        "SELECT id FROM stock ORDER BY id",
        "SELECT id FROM stock ORDER BY id",
        "SELECT id FROM stock ORDER BY id",
        "COMMIT",
    ]


def test_composed_and_bytes(url: str) -> None:
    with recording() as seen, psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute(sql.SQL("SELECT {} FROM stock").format(sql.Identifier("qty")))
        connection.execute(b"SELECT 7 FROM stock")
    assert seen.texts == ['SELECT "qty" FROM stock', "SELECT 7 FROM stock", "COMMIT"]
    assert seen.steps[0].rows == [(80,), (5,)]


@pytest.mark.parametrize("autocommit", [True, False], ids=["auto", "manual"])
def test_pipeline_is_awaited_statement_by_statement(url: str, autocommit: bool) -> None:
    with recording() as seen:
        connection = psycopg.connect(url, autocommit=autocommit)
        with connection.pipeline():
            connection.execute("INSERT INTO stock VALUES (3, 3)")
            got = connection.execute("SELECT qty FROM stock WHERE id = 3")
            assert got.fetchone() == (3,)
        connection.commit()
        connection.close()
    assert seen.texts == [
        "INSERT INTO stock VALUES (3, 3)",
        "SELECT qty FROM stock WHERE id = 3",
        "COMMIT",
    ]
    with psycopg.connect(url) as other:
        assert other.execute("SELECT count(*) FROM stock").fetchone() == (3,)


def test_closing_with_open_transaction_rolls_back_as_a_step(url: str) -> None:
    with recording() as seen:
        connection = psycopg.connect(url)
        connection.execute("UPDATE stock SET qty = 0")
        connection.close()
    assert seen.texts == ["UPDATE stock SET qty = 0", "ROLLBACK"]


def test_pooled_connection_counts_as_a_fresh_one(url: str) -> None:
    counts = []
    with ConnectionPool(url, min_size=1, max_size=1, check=ConnectionPool.check_connection) as pool:
        for _ in range(3):
            with recording() as seen, pool.connection() as connection:
                connection.execute("SELECT current_setting('timezone')")
                connection.execute("SELECT qty FROM stock")
            counts.append(seen.texts)
    assert counts[0] == ["SELECT qty FROM stock", "COMMIT"]
    assert counts == [counts[0]] * 3


def test_transaction_of_chatter_alone_is_no_step(url: str) -> None:
    with recording() as seen, psycopg.connect(url) as connection:
        connection.execute("SELECT pg_catalog.version()")
        connection.execute("SHOW standard_conforming_strings")
        psycopg.types.TypeInfo.fetch(connection, "hstore")
        connection.commit()
        connection.execute("SELECT 1")
        connection.execute("SELECT id FROM stock")
        connection.rollback()
    assert seen.texts == ["SELECT id FROM stock", "ROLLBACK"]


def test_isolation_of_the_first_statement_is_told(url: str) -> None:
    with recording() as seen, psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.execute("SELECT id FROM stock")
        connection.execute("SELECT qty FROM stock")
    assert seen.texts == [
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "SELECT id FROM stock",
        "SELECT qty FROM stock",
        "COMMIT",
    ]
    assert {link.isolation for link in seen.links} == {"serializable"}


def test_isolation_of_a_session_is_known_until_it_is_set(url: str) -> None:
    roundtrip.assume_isolation("read committed")
    levels = []
    try:
        with recording() as seen, psycopg.connect(url, autocommit=True) as connection:
            for sql_text in (
                "SELECT id FROM stock",
                "SET default_transaction_isolation = 'serializable'",
                "SELECT id FROM stock",
            ):
                connection.execute(sql_text)
                levels.append(seen.links[-1].isolation)
            with psycopg.connect(url, options="-c default_transaction_isolation=serializable") as c:
                c.execute("SELECT id FROM stock")
                levels.append(seen.links[-1].isolation)
    finally:
        roundtrip.assume_isolation(None)
    assert levels == ["read committed", None, None, None]


async def asked(url: str) -> list[str]:
    with recording() as seen:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT qty FROM stock")
            async with connection.transaction():
                await connection.execute("UPDATE stock SET qty = 3")
        pool = AsyncConnectionPool(url, min_size=1, open=False)
        async with pool, pool.connection() as connection:
            cursor = connection.cursor()
            await cursor.executemany("DELETE FROM stock WHERE id = %s", [[1], [2]])
    return seen.texts


def test_async(url: str) -> None:
    assert asyncio.run(asked(url)) == [
        "SELECT qty FROM stock",
        'SAVEPOINT "_pg3_1"',
        "UPDATE stock SET qty = 3",
        'RELEASE "_pg3_1"',
        "COMMIT",
        "DELETE FROM stock WHERE id = %s",
        "COMMIT",
    ]


def test_forced_isolation(url: str) -> None:
    show = "SELECT current_setting('transaction_isolation'), qty FROM stock"
    roundtrip.force_isolation("repeatable read")
    try:
        with psycopg.connect(url) as connection:
            assert connection.execute(show).fetchone() == ("repeatable read", 80)
            connection.rollback()
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            assert connection.execute(show).fetchone() == ("repeatable read", 80)
            connection.rollback()
            connection.autocommit = True
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            assert connection.execute(show).fetchone() == ("repeatable read", 80)
    finally:
        roundtrip.force_isolation(None)


def test_closed_connection_comes_back_as_new(url: str) -> None:
    with recording() as seen:
        first = psycopg.connect(url, autocommit=True)
        pid = first.info.backend_pid
        cursor = first.cursor()
        for _ in range(7):
            cursor.execute("SELECT qty FROM stock WHERE id = %s", [1])
        first.execute("SET work_mem = '7MB'")
        first.execute("CREATE TEMP TABLE mine (a int)")
        first.execute("SELECT pg_advisory_lock(7)")
        first.execute("LISTEN news")
        first.close()
        assert first.closed
        assert not first.broken
        with pytest.raises(psycopg.OperationalError, match="closed"):
            cursor.execute("DELETE FROM stock")
        with pytest.raises(psycopg.OperationalError, match="closed"):
            first.execute("DELETE FROM stock")
        second = psycopg.connect(url)
        assert second is not first
        assert not second.autocommit
        assert second.info.backend_pid == pid
        for _ in range(7):
            row = second.execute("SELECT qty FROM stock WHERE id = %s", [1]).fetchone()
            assert row == (80,)
        assert second.execute("SHOW work_mem").fetchone() == ("4MB",)
        assert second.execute("SELECT to_regclass('mine')").fetchone() == (None,)
        assert second.execute("SELECT pg_listening_channels()").fetchall() == []
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert second.execute(locks).fetchone() == (0,)
        other = psycopg.connect(url)
        assert other.info.backend_pid != pid
        other.close()
        second.close()
    assert "DISCARD ALL" not in seen.texts


def test_spare_that_the_server_ended_is_not_used(url: str) -> None:
    with recording():
        first = psycopg.connect(url)
        pid = first.info.backend_pid
        first.close()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with recording(), psycopg.connect(url) as second:
        assert second.info.backend_pid != pid
        assert second.execute("SELECT count(*) FROM stock").fetchone() == (2,)


def test_outside_of_operations_nothing_is_spared(url: str) -> None:
    with psycopg.connect(url) as first:
        pid = first.info.backend_pid
    with recording(), psycopg.connect(url) as second:
        assert second.info.backend_pid != pid


def test_connects_go_to_the_copy(pg_url: str) -> None:
    undo = psycopg3.install(redirect_of(pg_url, original="not_there"))
    try:
        other = pg_url.rpartition("/")[0] + "/not_there"
        with psycopg.connect(other) as connection:
            assert connection.info.dbname == pg_url.rpartition("/")[2]
    finally:
        undo()


def test_stranger_is_noted_and_let_through(pg_url: str) -> None:
    away = redirect_of(pg_url)
    undo = psycopg3.install(away)
    try:
        other = pg_url.rpartition("/")[0] + "/postgres"
        with recording() as seen, psycopg.connect(other) as connection:
            connection.execute("SELECT 1 + 1")
    finally:
        undo()
    assert seen.texts == []
    assert any("postgres" in name for name in away.strangers)
