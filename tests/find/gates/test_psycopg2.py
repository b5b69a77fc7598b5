"""The gate of psycopg2 sees each round trip once, and its objects stay what they were."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool
import pytest
from psycopg2 import sql

from crowdsafe.find.gates import psycopg2 as gate
from crowdsafe.find.gates import roundtrip
from tests.find.gates.recorder import recording, redirect_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(pg_url: str) -> Iterator[str]:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE stock (id int PRIMARY KEY, qty int NOT NULL)")
        connection.execute("INSERT INTO stock VALUES (1, 80), (2, 5)")
    undo = gate.install(redirect_of(pg_url))
    yield pg_url
    undo()


def test_statements_and_commit(url: str) -> None:
    with recording() as seen:
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT qty FROM stock WHERE id = %s", (1,))
            assert cursor.fetchone() == (80,)
            cursor.execute(sql.SQL("UPDATE {} SET qty = 1").format(sql.Identifier("stock")))
        connection.rollback()
        connection.close()
    assert seen.texts == [
        "SELECT qty FROM stock WHERE id = %s",
        'UPDATE "stock" SET qty = 1',
        "COMMIT",
    ]
    assert [step.rowcount for step in seen.steps] == [1, 2, None]
    assert seen.steps[0].parameters == (1,)
    assert seen.steps[0].rows == [(80,)]
    assert seen.steps[0].columns == ("qty",)
    assert len({link.number for link in seen.links}) == 1


def test_rows_are_still_the_target_s(url: str) -> None:
    with recording() as seen:
        connection = psycopg2.connect(url, cursor_factory=psycopg2.extras.RealDictCursor)
        cursor = connection.cursor()
        cursor.execute("SELECT * FROM stock ORDER BY id")
        assert [row["qty"] for row in cursor] == [80, 5]
        connection.close()
    assert seen.steps[0].rows == [(1, 80), (2, 5)]


def test_with_block_that_fails_rolls_back(url: str) -> None:
    with recording() as seen:
        connection = psycopg2.connect(url)
        with pytest.raises(psycopg2.errors.UniqueViolation), connection:
            connection.cursor().execute("INSERT INTO stock VALUES (1, 1)")
        connection.close()
    assert seen.texts == ["INSERT INTO stock VALUES (1, 1)", "ROLLBACK"]
    assert (seen.steps[0].error, seen.steps[0].sqlstate) == ("UniqueViolation", "23505")


def test_all_ways_to_ask(url: str) -> None:
    with recording() as seen:
        connection = psycopg2.connect(url)
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO stock VALUES (%s, %s)", ((n, n) for n in (3, 4)))
        psycopg2.extras.execute_values(cursor, "INSERT INTO stock VALUES %s", [(5, 5), (6, 6)])
        psycopg2.extras.execute_batch(cursor, "DELETE FROM stock WHERE id = %s", [(5,), (6,)])
        cursor.copy_expert("COPY stock FROM STDIN", io.StringIO("7\t7\n"))
        cursor.copy_from(io.StringIO("8\t8\n"), "stock")
        cursor.copy_to(io.StringIO(), "stock")
        cursor.callproc("abs", [-1])
        assert cursor.fetchone() == (1,)
        assert cursor.mogrify("SELECT %s", (1,)) == b"SELECT 1"
        named = connection.cursor("named")
        named.execute("SELECT id FROM stock ORDER BY id")
        assert named.fetchone() == (1,)
        assert [row[0] for row in named] == [2, 3, 4, 7, 8]
        named.close()
        connection.set_isolation_level(1)
        connection.close()
    assert seen.texts == [
        "INSERT INTO stock VALUES (%s, %s)",
        "INSERT INTO stock VALUES (5,5),(6,6)",
        "DELETE FROM stock WHERE id = 5;DELETE FROM stock WHERE id = 6",
        "COPY stock FROM STDIN",
        'COPY "stock" FROM STDIN',
        'COPY "stock" TO STDOUT',
        "SELECT * FROM abs(%s)",
        "SELECT id FROM stock ORDER BY id",
        "SELECT id FROM stock ORDER BY id",
        "SELECT id FROM stock ORDER BY id",
        "SELECT id FROM stock ORDER BY id",
        "ROLLBACK",
    ]


class OwnConnection(psycopg2.extensions.connection):
    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return super().cursor(*args, **kwargs)


class OwnCursor(psycopg2.extensions.cursor):
    pass


@pytest.mark.parametrize(
    ("connection", "cursor"),
    [
        (None, None),
        (OwnConnection, None),
        (OwnConnection, OwnCursor),
        (psycopg2.extras.DictConnection, None),
        (psycopg2.extras.NamedTupleConnection, psycopg2.extras.DictCursor),
        (partial(OwnConnection), OwnCursor),
    ],
    ids=["plain", "own", "own2", "dict", "tuple", "factory"],
)
def test_classes_of_the_target_stay(url: str, connection: Any, cursor: Any) -> None:
    with recording() as seen:
        made = psycopg2.connect(url, connection_factory=connection, cursor_factory=cursor)
        assert isinstance(made, connection if isinstance(connection, type) else object)
        assert isinstance(made, psycopg2.extensions.connection)
        used = made.cursor()
        assert isinstance(used, cursor or psycopg2.extensions.cursor)
        assert isinstance(made.cursor(cursor_factory=OwnCursor), OwnCursor)
        if connection is psycopg2.extras.DictConnection:
            assert isinstance(used, psycopg2.extras.DictCursor)
        psycopg2.extras.register_uuid(conn_or_curs=made)
        psycopg2.extras.register_default_jsonb(made)
        used.execute("SELECT %s::uuid, '{}'::jsonb FROM stock LIMIT 1", (uuid.UUID(int=1),))
        assert list(used.fetchone()) == [uuid.UUID(int=1), {}]
        made.close()
    assert len(seen.steps) == 2
    assert seen.texts[1] == "ROLLBACK"


def test_autocommit_and_pool(url: str) -> None:
    pool = psycopg2.pool.SimpleConnectionPool(1, 1, url)
    with recording() as seen:
        connection = pool.getconn()
        connection.autocommit = True
        connection.cursor().execute("UPDATE stock SET qty = 0")
        connection.commit()
        pool.putconn(connection)
    pool.closeall()
    assert seen.texts == ["UPDATE stock SET qty = 0"]


def test_isolation(url: str) -> None:
    with recording() as seen:
        connection = psycopg2.connect(url)
        connection.set_session(isolation_level="SERIALIZABLE")
        connection.cursor().execute("SELECT id FROM stock")
        connection.close()
    assert seen.texts == ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT id FROM stock", "ROLLBACK"]
    roundtrip.force_isolation("repeatable read")
    try:
        connection = psycopg2.connect(url)
        cursor = connection.cursor()
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("repeatable read",)
        connection.rollback()
        roundtrip.force_isolation(None)
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("read committed",)
        connection.close()
    finally:
        roundtrip.force_isolation(None)


def test_closed_connection_comes_back_as_new(url: str) -> None:
    with recording() as seen:
        first = psycopg2.connect(url)
        pid = first.info.backend_pid
        psycopg2.extras.register_uuid(conn_or_curs=first)
        first.set_session(isolation_level="SERIALIZABLE", autocommit=True)
        first.cursor_factory = psycopg2.extras.DictCursor
        cursor = first.cursor()
        cursor.execute("SET work_mem = '7MB'; CREATE TEMP TABLE mine (a int)")
        cursor.execute("BEGIN")
        cursor.execute("UPDATE stock SET qty = 0")
        first.close()
        assert first.closed
        for use in (first.cursor, first.commit, lambda: cursor.execute("DELETE FROM stock")):
            with pytest.raises(psycopg2.InterfaceError, match="closed"):
                use()
        held = psycopg2.connect(url)
        assert held.info.backend_pid != pid, "the first one is still held"
        pid = held.info.backend_pid
        held.close()
        del held
        second = psycopg2.connect(url)
        assert second.info.backend_pid == pid
        assert not second.closed
        assert not second.autocommit
        assert second.isolation_level is None
        assert second.cursor_factory is None
        cursor = second.cursor()
        cursor.execute(
            "SELECT current_setting('work_mem'), to_regclass('mine'), min(qty) FROM stock"
        )
        assert cursor.fetchone() == ("4MB", None, 5)
        second.close()
    assert [text for text in seen.texts if text.startswith("ROLLBACK")] == ["ROLLBACK"] * 2
    assert "DISCARD ALL" not in seen.texts


def test_connects_go_to_the_copy(pg_url: str) -> None:
    undo = gate.install(redirect_of(pg_url, original="not_there"))
    try:
        base, _, name = pg_url.rpartition("/")
        connection = psycopg2.connect(f"{base}/not_there")
        assert connection.info.dbname == name
        connection.close()
    finally:
        undo()
