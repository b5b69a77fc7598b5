"""The working copy of a PostgreSQL database: what was changed in it is put back, all of it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from crowdsafe.find.database.postgres import PostgresDatabase
from crowdsafe.find.gates.control import Link
from tests.support.pg_server import PgServer

pytestmark = pytest.mark.postgres

SCHEMA = """
CREATE TABLE team (id serial PRIMARY KEY, name text UNIQUE, at timestamptz DEFAULT now());
CREATE TABLE person (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  team_id int REFERENCES team ON DELETE CASCADE,
  name text NOT NULL,
  initial text GENERATED ALWAYS AS (left(name, 1)) STORED,
  wage numeric(10, 2) DEFAULT 10,
  info json DEFAULT '{"b": 1,  "a": 2}',
  token uuid, picture bytea, joined date DEFAULT '2026-01-02'
);
CREATE TABLE log (line text);
CREATE SCHEMA other;
CREATE TABLE other."Mixed" (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE part (day date, v int, PRIMARY KEY (day, v)) PARTITION BY RANGE (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
CREATE TABLE big (id serial PRIMARY KEY, v int, doc json);
CREATE TABLE base (id int PRIMARY KEY, v int);
CREATE TABLE derived (w int) INHERITS (base);
INSERT INTO base VALUES (1, 1);
INSERT INTO derived VALUES (2, 2, 2);
CREATE VIEW names AS SELECT name FROM person;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.log VALUES (TG_OP || ' ' || NEW.name); RETURN NEW; END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON person FOR EACH ROW EXECUTE FUNCTION noted();
INSERT INTO team (name) VALUES ('red'), ('blue');
INSERT INTO person (team_id, name) VALUES (1, 'Ann'), (1, 'Bob'), (2, 'Cem');
INSERT INTO part VALUES ('2026-02-01', 1), ('2026-08-01', 2);
INSERT INTO other."Mixed" VALUES (1, 2);
INSERT INTO big (v, doc) SELECT g, '{}' FROM generate_series(1, 2000) g;
"""


@pytest.fixture(scope="module", params=["superuser", "role"])
def kept(request: pytest.FixtureRequest, pg_server: PgServer) -> Iterator[PostgresDatabase]:
    """A working copy for a superuser, and one for a role that may create databases, no more."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE ROLE {name} LOGIN CREATEDB")
    if request.param == "superuser":
        pg_server.execute(f"ALTER ROLE {name} SUPERUSER")
    pg_server.execute(f"CREATE DATABASE {name} OWNER {name}")
    url = pg_server.url(name).replace("postgres@", f"{name}@")
    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA)
    made = PostgresDatabase(url)
    made.keep()
    yield made
    made.close()
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    pg_server.execute(f"DROP ROLE {name}")


@pytest.fixture
def database(kept: PostgresDatabase) -> Iterator[PostgresDatabase]:
    kept.notes.clear()
    yield kept
    kept.restore()


@pytest.fixture
def superuser(database: PostgresDatabase) -> PostgresDatabase:
    if not database._snapshot._superuser:
        pytest.skip("what a superuser alone may do")
    return database


def everything(database: PostgresDatabase) -> dict[str, list[tuple[Any, ...]]]:
    """All rows, read past the finder's own knowledge of what was written."""
    with psycopg.connect(database.working_url) as connection:
        found = {
            table: sorted(connection.execute(f"SELECT t::text FROM {table} t").fetchall())
            for table in (
                "team",
                "person",
                "log",
                'other."Mixed"',
                "part",
                "part_1",
                "big",
                "derived",
            )
        }
        for sequence in ("team_id_seq", "person_id_seq", "big_id_seq"):
            query = f"SELECT last_value, is_called FROM {sequence}"
            found[sequence] = connection.execute(query).fetchall()
    return found


WRITES = {
    "update": "UPDATE team SET name = name || '!'",
    "insert": "INSERT INTO person (team_id, name) VALUES (2, 'Dan')",
    "delete": "DELETE FROM person WHERE id = 2",
    "cascade": "DELETE FROM team",
    "no-key": "INSERT INTO log VALUES ('x')",
    "mixed": 'UPDATE other."Mixed" SET b = 3; INSERT INTO other."Mixed" VALUES (9, 9)',
    "parts": "DELETE FROM part_2 WHERE v = 2; UPDATE part SET day = '2026-09-01', v = 7",
    "big": "UPDATE big SET v = 0 WHERE id < 5; DELETE FROM big WHERE id = 7;"
    "INSERT INTO big (v) VALUES (1); UPDATE big SET id = 5000 WHERE id = 9",
    "truncate": "TRUNCATE team, person, big RESTART IDENTITY",
    "heirs": "UPDATE base SET v = 7",
    "sequence": "SELECT nextval('team_id_seq')",
    "gone": "BEGIN; INSERT INTO team (name) VALUES ('x'); ROLLBACK",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_restore_puts_back(database: PostgresDatabase, write: str) -> None:
    before, state = everything(database), database.read()
    for _ in range(3):
        with psycopg.connect(database.working_url, autocommit=True) as target:
            target.execute(write)
        assert everything(database) != before
        if "nextval" not in write and "ROLLBACK" not in write:
            assert database.read() != state
        database.restore(frozenset())
        assert everything(database) == before
        assert database.read() == state
    assert database.notes == []


def test_tables_that_were_created_go(superuser: PostgresDatabase) -> None:
    for _ in range(2):
        with psycopg.connect(superuser.working_url) as target:
            target.execute("CREATE TEMP TABLE mine (a int)")
        superuser.restore()
        assert superuser.notes == []
    for _ in range(2):
        with psycopg.connect(superuser.working_url) as target:
            target.execute("CREATE TABLE extra (a serial REFERENCES team)")
            target.execute("INSERT INTO extra VALUES (1)")
            target.execute("UPDATE team SET name = 'x' WHERE id = 1")
        superuser.restore()
        with psycopg.connect(superuser.working_url) as target:
            assert target.execute("SELECT to_regclass('extra')").fetchone() == (None,)
            assert target.execute("SELECT name FROM team").fetchone() == ("red",)
    assert len(superuser.notes) == 1
    assert "alters tables" in superuser.notes[0]
    superuser._snapshot.altered = False


def test_unique_values_change_places(superuser: PostgresDatabase) -> None:
    before = everything(superuser)
    with psycopg.connect(superuser.working_url) as target:
        target.execute("UPDATE team SET name = CASE id WHEN 1 THEN 'x' ELSE 'red' END")
    superuser.restore()
    assert everything(superuser) == before


def test_rows_keep_their_order(superuser: PostgresDatabase) -> None:
    with psycopg.connect(superuser.working_url, autocommit=True) as target:
        for number in range(200):
            target.execute("UPDATE person SET name = 'x' WHERE id = %s", [number % 3 + 1])
            target.execute("DELETE FROM team WHERE id = 2")
            superuser.restore()
            rows = target.execute("SELECT name FROM person").fetchall()
            assert rows == [("Ann",), ("Bob",), ("Cem",)]
        size = target.execute("SELECT pg_relation_size('person')").fetchone()
    assert size is not None
    assert size[0] < 20 * 8192, "dead rows pile up"


def test_state_is_plain_values(database: PostgresDatabase) -> None:
    rows = database.read(frozenset({"person"}))["person"]
    assert rows.key == ("id",)
    assert rows.columns[:4] == ("id", "team_id", "name", "initial")
    first = dict(zip(rows.columns, rows.rows[0], strict=True))
    assert first["wage"] == "10.00"
    assert first["info"] == '{"a": 2, "b": 1}'
    assert first["joined"] == "2026-01-02"
    assert first["token"] is None
    team = database.read(frozenset({"team"}))["team"].rows[0]
    assert team[:2] == (1, "red")
    assert team[2].endswith("+00:00")
    assert "T" in team[2]


def test_large_table_shows_what_changed(database: PostgresDatabase) -> None:
    assert database.read()["big"].rows == []
    with psycopg.connect(database.working_url) as target:
        target.execute("UPDATE big SET v = 0 WHERE id IN (3, 4); UPDATE big SET v = 4 WHERE id = 4")
        target.execute("DELETE FROM big WHERE id = 8")
        target.execute("INSERT INTO big VALUES (9000, 1, '[]')")
    assert database.read()["big"].rows == [(3, 0, "{}"), (8, None, None), (9000, 1, "[]")]


def test_perturb(database: PostgresDatabase) -> None:
    before = everything(database)
    database.perturb(1000)
    with psycopg.connect(database.working_url) as target:
        row = target.execute("INSERT INTO team (name) VALUES ('x') RETURNING id").fetchone()
        other = target.execute("INSERT INTO person (name) VALUES ('x') RETURNING id").fetchone()
    assert row is not None
    assert other is not None
    assert row[0] > 1000
    assert other[0] > 1000
    assert row[0] - 2 != other[0] - 3, "ids of two tables must not move on by the same amount"
    database.restore()
    assert everything(database) == before


def test_schema(database: PostgresDatabase) -> None:
    schema = database.schema()
    assert set(schema.tables) == {
        *("team", "person", "log", "other.mixed"),
        *("part", "big", "base", "derived"),
    }
    person = schema.tables["person"]
    assert person.primary_key == ("id",)
    assert person.has_triggers
    assert not schema.tables["team"].has_triggers
    (key,) = person.foreign_keys
    assert (key.columns, key.to_table, key.to_columns) == (("team_id",), "team", ("id",))
    generated = {column.name for column in person.columns if column.generated}
    assert generated == {"id", "initial"}
    assert schema.tables["team"].columns[0].generated
    assert schema.tables["team"].unique == (("name",),)
    assert schema.views == {"names": frozenset({"person"})}


def test_open_transaction_that_was_left(database: PostgresDatabase) -> None:
    """One that has written is ended; one that only reads may stay, and gets in no one's way."""
    before = everything(database)
    reader = psycopg.connect(database.working_url)
    reader.execute("SELECT * FROM team").fetchall()
    writer = psycopg.connect(database.working_url)
    writer.execute("UPDATE team SET name = 'held' WHERE id = 1")
    with psycopg.connect(database.working_url) as target:
        target.execute("DELETE FROM team WHERE id = 2")
    began = time.monotonic()
    database.restore()
    assert time.monotonic() - began < 10
    assert everything(database) == before
    assert any("open transaction" in note for note in database.notes)
    assert reader.execute("SELECT count(*) FROM team").fetchone() == (2,)
    with pytest.raises(psycopg.OperationalError):
        writer.execute("SELECT 1")
    reader.close()
    writer.close()


def test_session_in_the_way_is_ended(database: PostgresDatabase) -> None:
    locker = psycopg.connect(database.working_url)
    locker.execute("LOCK TABLE team IN ACCESS EXCLUSIVE MODE")
    locker.execute("SAVEPOINT s")
    with psycopg.connect(database.working_url) as target:
        target.execute("DELETE FROM log")
        target.execute("INSERT INTO log VALUES ('x')")
    database.restore()
    holder = psycopg.connect(database.working_url)
    holder.execute("SELECT id FROM team")
    with psycopg.connect(database.working_url) as target:
        target.execute("UPDATE team SET name = 'x' WHERE id = 1")
    holder.execute("LOCK TABLE team IN SHARE MODE")
    database.restore()
    assert database.read(frozenset({"team"}))["team"].rows[0][1] == "red"
    assert database.notes
    locker.close()
    holder.close()


def test_who_waits_for_whom(database: PostgresDatabase) -> None:
    first = psycopg.connect(database.working_url, autocommit=True)
    second = psycopg.connect(database.working_url, autocommit=True)
    links = [Link("psycopg", connection.info.backend_pid) for connection in (first, second)]
    assert database.locks.waiting(links) == {}
    for begin, wait in (
        ("UPDATE team SET name = 'x' WHERE id = 1", "UPDATE team SET name = 'y' WHERE id = 1"),
        ("INSERT INTO team VALUES (9, 'n')", "INSERT INTO team VALUES (8, 'n')"),
        ("DELETE FROM team WHERE id = 1", "INSERT INTO person (team_id, name) VALUES (1, 'x')"),
        ("SELECT pg_advisory_xact_lock(1)", "SELECT pg_advisory_xact_lock(1)"),
        ("LOCK TABLE team", "SELECT * FROM team"),
    ):
        first.execute("BEGIN")
        first.execute(begin)
        thread = threading.Thread(target=_ignoring_errors, args=(second, wait))
        thread.start()
        deadline = time.monotonic() + 5
        while not (seen := database.locks.waiting(links)) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert seen == {links[1]: frozenset({links[0]})}, begin
        first.execute("ROLLBACK")
        thread.join(5)
        assert database.locks.waiting(links) == {}
    first.close()
    second.close()


def _ignoring_errors(connection: psycopg.Connection[Any], sql: str) -> None:
    try:
        connection.execute(sql)  # type: ignore[arg-type]
    except psycopg.Error:
        connection.rollback()
