"""The working copy of a SQLite file: made, read, put back, and the original never touched."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.database import Database, open_database
from crowdsafe.find.database.schema import ForeignKey
from crowdsafe.find.database.sqlite import SqliteDatabase
from crowdsafe.find.model import Rows

SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE "Order" (
    id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer, total REAL DEFAULT 0,
    double_total AS (total * 2), note BLOB
);
CREATE TABLE line (
    order_id INTEGER REFERENCES "Order" (id) ON DELETE CASCADE, place INTEGER, sku TEXT,
    PRIMARY KEY (order_id, place), UNIQUE (order_id, sku)
) WITHOUT ROWID;
CREATE TABLE log (rowid TEXT, what);
CREATE UNIQUE INDEX only_open ON customer (name) WHERE name > 'x';
CREATE VIEW totals AS SELECT c.name, o.total FROM customer c JOIN "Order" o ON o.customer_id = c.id;
CREATE VIEW shown AS SELECT name FROM totals;
CREATE VIRTUAL TABLE words USING fts5 (word);
CREATE TRIGGER kept AFTER UPDATE ON customer BEGIN INSERT INTO log VALUES ('x', new.name); END;
INSERT INTO customer VALUES (7, 'ada'), (9, 'bob');
INSERT INTO "Order" (id, customer_id, total, note) VALUES (2, 7, 1.5, x'00ff'), (1, 9, 2, NULL);
INSERT INTO line VALUES (1, 2, 'b'), (1, 1, 'a');
INSERT INTO log VALUES ('r', 1), ('q', NULL);
INSERT INTO words VALUES ('safe');
"""
MANY = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO log SELECT hex(randomblob(40)), i FROM n
"""
MODES = ["delete", "wal"]


def make(path: Path, mode: str = "delete", script: str = SCHEMA) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.executescript(script)
    return path


@pytest.fixture(params=MODES)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(tmp_path / "shop.db", request.param)


@pytest.fixture
def database(original: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{original}")) as database:
        yield database


def client(database: Database) -> sqlite3.Connection:
    return sqlite3.connect(database.redirect.working, isolation_level=None, timeout=0)


def test_the_schema_is_told(database: Database) -> None:
    schema = database.schema()
    assert set(schema.tables) == {"customer", "order", "line", "log"}
    customer, order = schema.tables["customer"], schema.tables["order"]
    line, log = schema.tables["line"], schema.tables["log"]
    assert (customer.primary_key, customer.unique) == (("id",), (("name",),))
    assert customer.has_triggers
    assert not order.has_triggers
    assert [column.generated for column in customer.columns] == [True, False]
    assert [column.generated for column in order.columns] == [True, False, False, True, False]
    assert order.columns[2].default == "0"
    assert order.foreign_keys == (ForeignKey(("customer_id",), "customer", ("id",)),)
    assert (line.primary_key, line.unique) == (("order_id", "place"), (("order_id", "sku"),))
    assert [column.generated for column in line.columns] == [False, False, False]
    assert log.primary_key == ()
    both = frozenset({"customer", "order"})
    assert schema.views == {"totals": both, "shown": both}


def test_rows_are_read_in_the_order_of_their_keys(database: Database) -> None:
    state = database.read()
    assert state == {
        "customer": Rows(("id", "name"), ("id",), [(7, "ada"), (9, "bob")]),
        "order": Rows(
            ("id", "customer_id", "total", "double_total", "note"),
            ("id",),
            [(1, 9, 2.0, 4.0, None), (2, 7, 1.5, 3.0, b"\x00\xff")],
        ),
        "line": Rows(
            ("order_id", "place", "sku"), ("order_id", "place"), [(1, 1, "a"), (1, 2, "b")]
        ),
        "log": Rows(("rowid", "what"), (), [("r", 1), ("q", None)]),
    }
    assert database.read(frozenset({"log", "unknown"})) == {"log": state["log"]}


def test_text_that_is_no_utf8_is_read(database: Database) -> None:
    with closing(client(database)) as connection:
        connection.execute("INSERT INTO log VALUES (CAST(x'ff41' AS TEXT), 1)")
    assert database.read(frozenset({"log"}))["log"].rows[-1] == ("\udcffA", 1)


def test_a_table_that_is_made_later_is_read(database: Database) -> None:
    with closing(client(database)) as connection:
        connection.execute("CREATE TABLE later (a)")
        connection.execute("INSERT INTO later VALUES (1)")
    assert database.read()["later"].rows == [(1,)]
    database.restore()
    assert "later" not in database.read()


def changes(connection: sqlite3.Connection, rng: random.Random) -> None:
    """Something that changes pages, the schema or the counters."""
    name = f"n{rng.random()}"
    for sql in rng.sample(
        [
            f"INSERT INTO customer (name) VALUES ('{name}')",
            "UPDATE customer SET name = name || 'x' WHERE id = 7",
            'DELETE FROM "Order"',
            f"INSERT INTO line VALUES (1, {rng.randrange(3, 99)}, '{name}')",
            f"INSERT INTO words VALUES ('{name}')",
            MANY,
            "DELETE FROM log",
            f'CREATE TABLE "{name}" AS SELECT * FROM log',
            "DROP TABLE line",
            "VACUUM",
            "PRAGMA wal_checkpoint",
        ],
        k=rng.randrange(1, 5),
    ):
        try:
            connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            assert "no such table: line" in str(error), sql


def counters(connection: sqlite3.Connection) -> Any:
    return connection.execute("SELECT * FROM sqlite_sequence").fetchall()


def test_restore_gives_all_back_to_connections_that_stay_open(
    database: Database, rng: random.Random
) -> None:
    connections = [client(database) for _ in range(3)]
    state, before = database.read(), counters(connections[0])
    for _ in range(40):
        changes(rng.choice(connections), rng)
        for connection in connections:
            connection.execute("SELECT count(*), sum(length(what)) FROM log").fetchall()
        database.restore()
        one, another = rng.sample(connections, 2)
        assert one.execute("SELECT * FROM log").fetchall() == state["log"].rows
        assert another.execute("SELECT word FROM words").fetchall() == [("safe",)]
        assert counters(another) == before
        assert database.read() == state
        assert one.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for connection in connections:
        connection.close()


def test_keep_moves_what_restore_goes_back_to(database: Database) -> None:
    with closing(client(database)) as connection:
        connection.execute("DELETE FROM log")
        database.keep()
        connection.execute("INSERT INTO log VALUES (1, 1)")
        database.restore()
        assert connection.execute("SELECT * FROM log").fetchall() == []


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_file_is_a_database_without_tables(tmp_path: Path, mode: str) -> None:
    original = tmp_path / "empty.db"
    original.touch()
    with (
        closing(open_database(f"sqlite:///{original}")) as database,
        closing(client(database)) as connection,
    ):
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE stock (id INTEGER)")
        assert set(database.read()) == {"stock"}
        database.restore()
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
        assert database.read() == {}
    assert original.stat().st_size == 0


def test_restore_keeps_the_journal_mode_that_the_target_chose(database: Database) -> None:
    for mode in ("delete", "wal", "truncate"):
        with closing(client(database)) as connection:
            assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
            connection.execute("DELETE FROM log")
            database.restore()
            assert len(connection.execute("SELECT * FROM log").fetchall()) == 2
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def mode_of(database: Database) -> str:
    with closing(client(database)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_what_the_target_left_locked_does_not_stop_a_restore(
    database: Database, original: Path
) -> None:
    from crowdsafe.find import gates

    undo = gates.install("sqlite", database.redirect)
    left = sqlite3.connect(original)
    left.execute("DELETE FROM log")
    reader = sqlite3.connect(original).execute("SELECT * FROM customer")
    if mode_of(database) == "delete":
        with pytest.raises(sqlite3.OperationalError):
            left.execute("PRAGMA busy_timeout=0")
            left.commit()
    assert len(database.read()["log"].rows) == 2
    left.execute("DELETE FROM log")
    database.restore()
    assert not left.in_transaction
    assert left.execute("SELECT count(*) FROM log").fetchone() == (2,)
    left.close()
    reader.connection.close()
    undo()


def test_a_lock_of_another_process_ends_the_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdsafe.find.database.sqlite_file._BUSY_S", 0.1)
    with closing(client(database)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        foreign.execute("DELETE FROM log")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database.restore()
        foreign.execute("ROLLBACK")
    database.restore()


def next_id(connection: sqlite3.Connection) -> int:
    sql = "INSERT INTO customer (name) VALUES ('new') RETURNING id"
    return int(connection.execute(sql).fetchall()[0][0])


def test_perturbed_counters_give_other_ids(database: Database) -> None:
    with closing(client(database)) as connection:
        connection.execute("DELETE FROM sqlite_sequence")
        database.keep()
        for _ in range(2):
            assert next_id(connection) == 10
            database.restore()
            database.perturb(by=1009)
            assert next_id(connection) == 1010
            database.restore()


def test_isolation_is_refused(database: Database) -> None:
    database.set_isolation(None)
    with pytest.raises(ConfigError, match="one isolation level"):
        database.set_isolation("serializable")


def looks_of(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        other.name: (other.read_bytes(), other.stat().st_mtime_ns)
        for other in path.parent.iterdir()
        if other.is_file()
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_original_is_never_written_and_its_wal_is_taken_in(tmp_path: Path, mode: str) -> None:
    original = make(tmp_path / "shop.db", mode)
    with closing(sqlite3.connect(original)) as server:
        server.execute("PRAGMA wal_autocheckpoint=0")
        server.execute("DELETE FROM log")
        server.execute("INSERT INTO log VALUES ('from', 'the wal')")
        server.commit()
        before = looks_of(original)
        assert ("shop.db-wal" in before) == (mode == "wal")
        with closing(open_database(f"sqlite:///{original}")) as database:
            working = Path(database.redirect.working)
            assert database.read()["log"].rows == [("from", "the wal")]
            with closing(client(database)) as connection:
                assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
                connection.execute("DELETE FROM customer")
            database.restore()
        assert looks_of(original) == before
        assert not working.parent.exists()


def test_a_hot_journal_is_rolled_back_in_the_copy(tmp_path: Path) -> None:
    original = make(tmp_path / "shop.db")
    crash = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('PRAGMA cache_size=1'); c.execute('PRAGMA cache_spill=1'); "
        "c.executemany('INSERT INTO log VALUES (?, 1)', [('x' * 900,)] * 900); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", crash, str(original)], check=True)
    before = looks_of(original)
    assert before["shop.db-journal"][0]
    with closing(open_database(f"sqlite:///{original}")) as database:
        assert len(database.read()["log"].rows) == 2
    assert looks_of(original) == before


@pytest.mark.parametrize("mode", MODES)
def test_in_place_gives_the_database_back(tmp_path: Path, mode: str) -> None:
    original = make(tmp_path / "shop.db", mode)
    url = f"sqlite:///{original}"
    database = open_database(url, in_place=True)
    state = database.read()
    assert database.redirect.in_place
    assert database.redirect.sqlite_path(original) == original
    with pytest.raises(ConfigError, match="before-crowdsafe"):
        open_database(url, in_place=True)
    with closing(client(database)) as connection:
        connection.execute("DELETE FROM log")
        database.restore()
        assert database.read() == state
        connection.execute("DELETE FROM customer")
    database.close()
    database.close()
    assert {path.name for path in tmp_path.iterdir()} <= {"shop.db", "shop.db-wal", "shop.db-shm"}
    with closing(open_database(url)) as again:
        assert again.read() == state


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite:///nowhere.db", "there is no SQLite file"),
        ("mysql://x/y", "knows no database 'mysql'"),
        ("shop.db", "sqlite:///"),
    ],
    ids=["none", "memory", "uri", "missing", "mysql", "path"],
)
def test_what_cannot_be_copied_is_refused(
    url: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why):
        open_database(url)


@pytest.mark.parametrize("in_place", [False, True], ids=["copy", "in-place"])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello " * 1000)
    with pytest.raises(ConfigError, match="no sound SQLite database"):
        open_database(f"sqlite:///{path}", in_place=in_place)
    assert path.read_text() == "hello " * 1000
    assert [found.name for found in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("url", ["sqlite:///{name}", "sqlite+aiosqlite:///file:{name}?uri=true"])
def test_relative_urls(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("shop.db"))
    with closing(open_database(url.format(name="shop.db"))) as database:
        assert database.redirect.original == str(tmp_path / "shop.db")


def test_copies_of_killed_processes_are_swept(tmp_path: Path) -> None:
    original = make(tmp_path / "shop.db")
    killed = (
        "import os, sys; from crowdsafe.find.database import open_database; "
        "print(open_database(sys.argv[1]).redirect.working, flush=True); os._exit(9)"
    )
    url = f"sqlite:///{original}"
    done = subprocess.run(
        [sys.executable, "-c", killed, url], capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert left.exists()
    with closing(open_database(url)) as database:
        assert not left.parent.exists()
        assert isinstance(database, SqliteDatabase)
        kept = Path(database.redirect.working)
        with closing(open_database(url)):
            assert kept.exists()


def test_without_room_in_memory_the_copy_is_on_disk(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(open_database(f"sqlite:///{original}")) as database:
        assert Path(database.redirect.working).is_relative_to(tmp_path)
