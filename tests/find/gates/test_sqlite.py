"""sqlite3: each statement is one step, before it takes a lock, and nothing else changes."""

from __future__ import annotations

import functools
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find import gates
from crowdsafe.find.database import open_database
from crowdsafe.find.database.sqlite import SqliteDatabase
from crowdsafe.find.gates.held import Lock
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.sqlite_gate import release
from tests.find.gates.watching import Watching, operating

UPDATE = "UPDATE stock SET on_hand = on_hand - ? WHERE id = ?"


def test_steps_are_the_statements_with_the_drivers_own(database: SqliteDatabase) -> None:
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        connection.execute("SELECT 1").fetchall()
        connection.execute(UPDATE, (1, 1))
        connection.execute(UPDATE, (2, 1))
        connection.commit()
        connection.commit()
        connection.rollback()
    connection.close()
    assert keeper.sqls == ["SELECT 1", "BEGIN", UPDATE, UPDATE, "COMMIT"]
    assert [step.rowcount for step in keeper.steps] == [None, None, 1, 1, None]
    assert keeper.steps[2].parameters == (1, 1)
    assert keeper.ended == keeper.steps
    line = keeper.steps[1].source
    assert line is not None
    assert line.code == "connection.execute(UPDATE, (1, 1))"
    assert line.function == "test_steps_are_the_statements_with_the_drivers_own"


def test_a_statement_is_stopped_before_it_takes_a_lock(
    database: SqliteDatabase, subtests: Any
) -> None:
    locking = {"UPDATE": "UPDATE", "IMMEDIATE": "BEGIN IMMEDIATE"}

    def another_writes(sql: str) -> None:
        if sql.startswith(locking[options.get("isolation_level") or "UPDATE"]):
            with sqlite3.Connection(database.redirect.working, timeout=0) as other:
                other.execute("UPDATE stock SET on_hand = 7 WHERE id = 2")
            other.close()

    for options in ({}, {"isolation_level": "IMMEDIATE"}, {"isolation_level": None}):
        with subtests.test(**options):
            connection = sqlite3.connect(database.redirect.original, **options)
            with operating(Watching(another_writes)):
                connection.execute(UPDATE, (1, 1))
                connection.commit()
            connection.close()


@pytest.mark.parametrize("level", [None, "", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_the_drivers_begin_is_that_of_its_isolation_level(
    database: SqliteDatabase, level: str | None
) -> None:
    connection = sqlite3.connect(database.redirect.original, isolation_level=level)
    with operating(Watching()) as keeper:
        connection.execute("/* x */ insert into stock values (9, 9)")
        assert connection.in_transaction == (level is not None)
        connection.rollback()
    connection.close()
    begin = [] if level is None else [f"BEGIN {level}".strip()]
    end = [] if level is None else ["ROLLBACK"]
    assert keeper.sqls == [*begin, "/* x */ insert into stock values (9, 9)", *end]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Connection.autocommit is of Python 3.12")
def test_autocommit_of_later_pythons(database: SqliteDatabase) -> None:
    options: dict[str, Any] = {"autocommit": False}
    connection = sqlite3.connect(database.redirect.original, **options)
    with operating(Watching()) as keeper:
        connection.execute(UPDATE, (1, 1))
        assert keeper.links[0].state.lock == Lock.RESERVED
        connection.commit()
        assert keeper.links[0].state.lock == Lock.NONE
        with connection:
            connection.execute(UPDATE, (1, 1))
    connection.close()
    assert keeper.sqls == [UPDATE, "COMMIT", UPDATE, "COMMIT"]
    options["autocommit"] = True
    connection = sqlite3.connect(database.redirect.original, **options)
    with operating(Watching()) as keeper:
        connection.execute("BEGIN")
        connection.commit()
        connection.execute(UPDATE, (1, 1))
        connection.execute("COMMIT")
    connection.close()
    assert keeper.sqls == ["BEGIN", UPDATE, "COMMIT"]


def test_each_part_of_executemany_is_a_step(database: SqliteDatabase) -> None:
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        cursor = connection.executemany(UPDATE, [(1, 1), (1, 1), (3, 2)])
        assert cursor.rowcount == 3
        connection.rollback()
    connection.close()
    assert keeper.sqls == ["BEGIN", UPDATE, UPDATE, UPDATE, "ROLLBACK"]
    assert [step.parameters for step in keeper.steps[1:4]] == [(1, 1), (1, 1), (3, 2)]
    assert keeper.ended == keeper.steps


def test_each_statement_of_a_script_is_a_step(database: SqliteDatabase) -> None:
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        connection.execute("DELETE FROM log")
        connection.executescript(
            "BEGIN; UPDATE stock SET on_hand = 1 WHERE id = 1; SELECT 1; COMMIT;"
        )
    connection.close()
    assert [sql.rstrip(";") for sql in keeper.sqls] == [
        "BEGIN",
        "DELETE FROM log",
        "COMMIT",
        "BEGIN",
        "UPDATE stock SET on_hand = 1 WHERE id = 1",
        "SELECT 1",
        "COMMIT",
    ]
    assert keeper.ended == keeper.steps


def test_what_comes_round_the_gate_is_seen_by_sqlite(database: SqliteDatabase) -> None:
    class Own(sqlite3.Cursor):
        pass

    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        Own(connection).execute("UPDATE stock SET on_hand = 3 WHERE id = 1")
        connection.isolation_level = None
        made = connection.cursor(functools.partial(Own))
        assert made.execute("SELECT on_hand FROM stock WHERE id = 1").fetchall() == [(3,)]
    connection.close()
    assert [sql.strip() for sql in keeper.sqls] == [
        "BEGIN",
        "UPDATE stock SET on_hand = 3 WHERE id = 1",
        "COMMIT",
        "SELECT on_hand FROM stock WHERE id = 1",
    ]


def test_rows_that_were_read_are_kept(database: SqliteDatabase) -> None:
    connection = sqlite3.connect(database.redirect.original)
    connection.row_factory = sqlite3.Row
    with operating(Watching()) as keeper:
        cursor = connection.execute("SELECT * FROM stock ORDER BY id")
        assert tuple(cursor.fetchone()) == (1, 100)
        assert [tuple(row) for row in cursor] == [(2, 50)]
        cursor = connection.execute("DELETE FROM stock RETURNING id")
        assert tuple(cursor.fetchone()) == (1,)
        assert [tuple(row) for row in cursor.fetchmany(5)] == [(2,)]
        assert cursor.fetchall() == []
        assert cursor.fetchone() is None
    connection.close()
    read, _, deleted, *_ = keeper.steps
    assert read.columns == ("id", "on_hand")
    assert read.rows == [(1, 100), (2, 50)]
    assert deleted.rows == [(1,), (2,)]


def test_returning_without_a_transaction_is_over_when_the_step_is(
    database: SqliteDatabase,
) -> None:
    connection = sqlite3.connect(database.redirect.original, isolation_level=None)
    with operating(Watching()):
        cursor = connection.execute("INSERT INTO stock VALUES (9, 9) RETURNING id")
        with sqlite3.Connection(database.redirect.working, timeout=0) as other:
            other.execute("UPDATE stock SET on_hand = 7 WHERE id = 9")
        other.close()
        assert cursor.fetchall() == [(9,)]
        assert list(cursor) == []
    connection.close()


def test_with_commits_and_rolls_back_as_steps(database: SqliteDatabase) -> None:
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        with connection:
            connection.execute(UPDATE, (1, 1))
        with pytest.raises(ZeroDivisionError), connection:
            connection.execute(UPDATE, (1, 1))
            _ = 1 / 0
        assert connection.execute("SELECT on_hand FROM stock").fetchone() == (99,)
        connection.execute(UPDATE, (1, 1))
        connection.close()
    assert [sql for sql in keeper.sqls if sql != UPDATE] == [
        "BEGIN", "COMMIT", "BEGIN", "ROLLBACK", "SELECT on_hand FROM stock", "BEGIN", "ROLLBACK",
    ]  # fmt: skip
    assert keeper.ended == keeper.steps


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO nowhere VALUES (1)", "SQLITE_ERROR"),
        ("INSERT INTO stock VALUES (1, 1)", "SQLITE_CONSTRAINT_PRIMARYKEY"),
    ],
    ids=["unknown", "constraint"],
)
def test_errors_are_told_and_leave_what_sqlite3_leaves(
    database: SqliteDatabase, sql: str, error: str
) -> None:
    plain = sqlite3.Connection(database.redirect.working)
    with pytest.raises(sqlite3.Error):
        plain.execute(sql)
    in_transaction = plain.in_transaction
    plain.close()
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()) as keeper:
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(sql)
        assert connection.in_transaction == in_transaction
    connection.close()
    assert caught.value.sqlite_errorname == error
    assert keeper.ended[-1].sqlstate == error


def test_a_torn_down_operation_gets_out_of_the_gate(
    database: SqliteDatabase, subtests: Any
) -> None:
    class TornDownError(BaseException):
        pass

    def tear(sql: str) -> None:
        if "UPDATE" in sql:
            raise TornDownError

    calls: list[Callable[[Any], object]] = [
        lambda connection: connection.execute(UPDATE, (1, 1)),
        lambda connection: connection.executemany(UPDATE, [(1, 1)]),
        lambda connection: connection.executescript(
            "UPDATE stock SET on_hand = 0; UPDATE stock SET on_hand = 1"
        ),
    ]
    for number, call in enumerate(calls):
        with subtests.test(number):
            connection = sqlite3.connect(database.redirect.original)
            with operating(Watching(tear)), pytest.raises(TornDownError):
                call(connection)
            assert connection.execute("SELECT on_hand FROM stock").fetchone() == (100,)
            connection.close()


def test_busy_comes_at_once_in_an_operation_and_after_the_timeout_outside(
    database: SqliteDatabase,
) -> None:
    connection = sqlite3.connect(database.redirect.original, timeout=4)

    def timeout_ms() -> int:
        return int(connection.execute("PRAGMA busy_timeout").fetchone()[0])

    assert timeout_ms() == 4000
    with operating(Watching()):
        assert timeout_ms() == 0
        connection.execute("PRAGMA busy_timeout = 9000")
        assert timeout_ms() == 0
    assert timeout_ms() == 9000
    connection.close()


def test_a_connections_own_settings_are_no_steps(database: SqliteDatabase) -> None:
    """Frameworks send them while they connect, under a lock that others would wait for."""
    connection = sqlite3.connect(database.redirect.original)
    [mode] = connection.execute("PRAGMA journal_mode").fetchone()
    other = "delete" if mode == "wal" else "wal"
    own = ["PRAGMA foreign_keys = ON", f"pragma journal_mode={mode}", "PRAGMA main.cache_size(5)"]
    shared = ["PRAGMA read_uncommitted = 1", "PRAGMA user_version = 7", "PRAGMA foreign_keys"]
    with operating(Watching()) as keeper:
        connection.execute("SELECT 1").fetchall()
        for sql in (*own, *shared):
            connection.execute(sql).fetchall()
        connection.execute(f"PRAGMA journal_mode = {other}")
    assert keeper.sqls == ["SELECT 1", *shared, f"PRAGMA journal_mode = {other}"]
    assert keeper.steps[0].rows == [(1,)]
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    connection.close()


def test_a_copy_on_disk_is_not_synced(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdsafe.find.database.sqlite._MEMORY_FOLDER", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(open_database(f"sqlite:///{shop}")) as database:
        undo = gates.install("sqlite", database.redirect)
        with closing(sqlite3.connect(shop)) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (0,)
            connection.execute("PRAGMA synchronous = FULL")
            assert connection.execute("PRAGMA synchronous").fetchone() == (0,)
        undo()


def test_the_targets_own_classes_and_callbacks_work(database: SqliteDatabase) -> None:
    class Loud(sqlite3.Cursor):
        def execute(self, sql: str, *rest: Any) -> Any:
            return super().execute(sql.replace("%s", "?"), *rest)

    class Own(sqlite3.Connection):
        def cursor(self, factory: Any = Loud) -> Any:
            return super().cursor(factory)

        def answer(self) -> int:
            return 42

    connection = sqlite3.connect(database.redirect.original, 5.0, factory=Own)
    assert isinstance(connection, Own)
    traced: list[str] = []
    connection.set_trace_callback(traced.append)
    with operating(Watching()) as keeper:
        cursor = connection.cursor()
        cursor.execute("SELECT on_hand FROM stock WHERE id = %s", (1,))
        assert cursor.fetchone() == (100,)
        assert connection.execute("SELECT 7").fetchone() == (7,)
    assert (connection.answer(), type(cursor).__name__) == (42, "Loud")
    connection.close()
    assert keeper.sqls == ["SELECT on_hand FROM stock WHERE id = ?", "SELECT 7"]
    assert traced == ["SELECT on_hand FROM stock WHERE id = 1", "SELECT 7"]


def test_a_connection_is_for_its_own_thread(database: SqliteDatabase) -> None:
    strict = sqlite3.connect(database.redirect.original)
    shared = sqlite3.connect(database.redirect.original, check_same_thread=False)
    errors: list[Exception] = []

    def elsewhere() -> None:
        for call in (strict.cursor, strict.commit, lambda: strict.execute("SELECT 1")):
            try:
                call()
            except sqlite3.ProgrammingError as error:
                errors.append(error)
        shared.execute("SELECT 1").fetchall()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 3
    strict.close()
    shared.close()


def test_outside_of_operations_nothing_is_a_step(database: SqliteDatabase) -> None:
    keeper = Watching()
    with operating(keeper):
        pass
    with sqlite3.connect(database.redirect.original) as connection:
        connection.execute(UPDATE, (1, 1))
    connection.close()
    assert keeper.steps == []


def test_other_databases_pass_and_are_noted_when_an_operation_uses_them(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    unused = sqlite3.connect(tmp_path / "unused.db")
    unused.execute("CREATE TABLE t (a)")
    other = sqlite3.connect(tmp_path / "other.db")
    memory = sqlite3.connect(":memory:")
    with operating(Watching()) as keeper:
        other.execute("CREATE TABLE t (a)")
        memory.execute("SELECT 1")
    for connection in (unused, other, memory):
        connection.close()
    assert keeper.steps == []
    assert database.redirect.strangers == {str(tmp_path / "other.db"), "a database in memory"}


def test_attached_files_are_noted(database: SqliteDatabase, tmp_path: Path) -> None:
    connection = sqlite3.connect(database.redirect.original)
    with operating(Watching()):
        connection.execute("ATTACH ? AS more", (str(tmp_path / "more.db"),))
    connection.close()
    assert len(database.redirect.strangers) == 1


def test_what_was_left_open_is_released(database: SqliteDatabase) -> None:
    def leave_open() -> None:
        with operating(Watching()):
            left.append(sqlite3.connect(database.redirect.original))
            left[0].execute(UPDATE, (1, 1))
            left.append(sqlite3.connect(database.redirect.original))
            left.append(left[1].execute("SELECT * FROM stock"))

    left: list[Any] = []
    thread = threading.Thread(target=leave_open)
    thread.start()
    thread.join()
    assert release() == 2
    with sqlite3.Connection(database.redirect.working, timeout=0) as other:
        other.execute("UPDATE stock SET on_hand = 1")
    other.close()
    assert release() == 0


def test_the_original_is_not_opened_past_connect(database: SqliteDatabase, shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"sqlite3\.connect"):
        sqlite3.Connection(shop)
    with pytest.raises(ConfigError, match=r"sqlite3\.connect"):
        sqlite3.connect.__wrapped__(f"file:{shop}", uri=True)  # type: ignore[attr-defined]


def test_undo_gives_sqlite3_back(shop: Path) -> None:
    before = (sqlite3.connect, sqlite3.dbapi2.connect)
    undo = gates.install("sqlite", Redirect("sqlite", str(shop), str(shop)))
    assert sqlite3.connect is not before[0]
    assert sqlite3.dbapi2.connect is not before[1]
    undo()
    assert (sqlite3.connect, sqlite3.dbapi2.connect) == before
    sqlite3.Connection(shop).close()
