"""What the target does to the database past the gates is never proven safe, and is told."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.database import open_database
from crowdsafe.find.model import Verdict

WRITE = "UPDATE other SET n = n + 1"
SCRIPT = """
import sys
url, sql = sys.argv[1:]
if url.startswith("sqlite"):
    import sqlite3
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
else:
    import psycopg
    connection = psycopg.connect(url)
with connection:
    connection.execute(sql)
connection.close()
"""


def connect(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
    return psycopg.connect(url)


def perform(url: str, *statements: str) -> None:
    with closing(connect(url)) as db, db:
        for sql in statements:
            db.execute(sql)


def from_another_process(url: str) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, url, WRITE], check=True, timeout=60)


def from_a_fork(url: str) -> None:
    child = multiprocessing.get_context("fork").Process(target=perform, args=(url, WRITE))
    child.start()
    child.join(60)


@pytest.fixture
def url(db_url: str) -> str:
    perform(
        db_url,
        "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)",
        "CREATE TABLE other (n INTEGER)",
        "INSERT INTO stock VALUES (1, 5)",
        "INSERT INTO other VALUES (0)",
    )
    return db_url


def reading_and(write: Callable[[str], None], url: str) -> Callable[[], str]:
    def operation() -> str:
        perform(url, "SELECT n FROM stock")
        write(url)
        return "done"

    return operation


@pytest.mark.parametrize("in_place", [False, True], ids=["copy", "in-place"])
@pytest.mark.parametrize("write", [from_another_process, from_a_fork], ids=["process", "fork"])
def test_a_write_past_the_gates_is_not_proven(
    url: str, write: Callable[[str], None], in_place: bool
) -> None:
    operation = reading_and(write, url)
    report = find(None, [operation], database=url, in_place=in_place)
    (finding,) = report.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "that the finder does not see" in finding.reason


def test_a_driver_without_a_gate_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "apsw" if url.startswith("sqlite") else "pg8000"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    operation = reading_and(from_another_process, url)
    (finding,) = find(None, [operation], database=url).findings
    assert f"that the finder does not see ({name} is loaded)" in finding.reason


def test_what_only_uses_such_a_driver_says_so(url: str) -> None:
    def operation() -> None:
        from_another_process(url)

    (finding,) = find(None, [operation], database=url).findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "that the finder does not see" in finding.reason


def test_somebody_else_who_uses_the_original_once_is_no_sign(url: str) -> None:
    times = 0

    def operation() -> None:
        nonlocal times
        times += 1
        if times == 1:
            from_another_process(url)
        perform(url, "SELECT n FROM stock")

    report = find(None, [operation], database=url)
    (finding,) = report.findings
    assert finding.verdict is Verdict.PROVEN
    assert any("itself was used meanwhile" in note for note in report.notes)


@pytest.mark.parametrize("in_place", [False, True], ids=["copy", "in-place"])
def test_what_the_database_writes_by_itself_is_no_sign(url: str, in_place: bool) -> None:
    postgres = not url.startswith("sqlite")
    perform(
        url,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, n INTEGER)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER"
        " REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,"
        " twice INTEGER GENERATED ALWAYS AS (parent_id * 2) STORED)",
        "CREATE TABLE log (what TEXT)",
        "INSERT INTO parent VALUES (1, 1)",
        "INSERT INTO child (id, parent_id) VALUES (1, 1)",
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO log VALUES ('changed'); RETURN NEW; END $$"
        if postgres
        else "SELECT 1",
        "CREATE TRIGGER note AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION noted()"
        if postgres
        else "CREATE TRIGGER note AFTER UPDATE ON stock BEGIN"
        " INSERT INTO log VALUES ('changed'); END",
    )

    def cascade() -> None:
        with closing(connect(url)) as db, db:
            if not postgres:
                db.execute("PRAGMA foreign_keys = ON")
            db.execute("DELETE FROM parent WHERE id = 1")

    def replace() -> None:
        with closing(connect(url)) as db, db:
            if not postgres:
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("INSERT OR REPLACE INTO parent VALUES (1, 2)")
            else:
                db.execute("UPDATE parent SET id = 2 WHERE id = 1")

    def trigger() -> None:
        perform(url, "UPDATE stock SET n = 6 WHERE id = 1")

    report = find(None, [cascade, replace, trigger], database=url, in_place=in_place)
    assert not any("itself was used" in note for note in report.notes)
    assert {one.verdict for one in report.findings} <= {Verdict.PROVEN, Verdict.RACE}


def test_the_mark_stays_while_the_copy_is_used(url: str) -> None:
    with closing(open_database(url)) as database:
        before = database.original_mark()
        perform(database.working_url, WRITE)
        assert database.original_mark() == before is not None
        perform(url, WRITE)
        assert database.original_mark() != before
