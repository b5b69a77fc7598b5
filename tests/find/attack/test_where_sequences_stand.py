"""What sets a sequence, or reads where it stands, is not proven with what draws from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Verdict

DRAW = "SELECT nextval('numbers')"
READ = "SELECT last_value FROM numbers"
SET = "SELECT setval('numbers', %(n)s + 1)"


def counting(url: str, *statements: str, name: str) -> Callable[[], None]:
    """Takes a number by the first statement, keeps it in a row, then sends the others."""

    def operation() -> None:
        with psycopg.connect(url, autocommit=True) as db:
            row = db.execute(statements[0].encode()).fetchone()
            assert row is not None
            db.execute("INSERT INTO taken VALUES (%s)", row)
            for sql in statements[1:]:
                db.execute(sql.encode(), {"n": row[0]})

    operation.__name__ = operation.__qualname__ = name
    return operation


@pytest.mark.postgres
def test_numbers_that_are_put_back(pg_url: str) -> None:
    with psycopg.connect(pg_url) as db:
        db.execute("CREATE TABLE taken (n BIGINT)")
        db.execute("CREATE TABLE other (n BIGINT)")
        db.execute("CREATE SEQUENCE numbers")

    def elsewhere() -> None:
        with psycopg.connect(pg_url, autocommit=True) as db:
            db.execute("INSERT INTO other VALUES (1)")

    draw = counting(pg_url, DRAW, name="draw")
    back = counting(pg_url, DRAW, SET, name="back")
    last = counting(pg_url, READ, SET, name="last")
    report = find(None, [draw, back, last, elsewhere], database=pg_url)
    verdicts = {one.operations: one.verdict for one in report.findings}
    unsure = {pair for pair, verdict in verdicts.items() if verdict is Verdict.INCONCLUSIVE}
    assert unsure == {
        ("back()", "back()"),
        ("last()", "last()"),
        ("draw()", "back()"),
        ("draw()", "last()"),
        ("back()", "last()"),
    }
    assert "where a sequence stands" in report.inconclusive[0].reason
    assert {verdicts[pair] for pair in verdicts.keys() - unsure} == {Verdict.PROVEN}


def test_the_counter_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE taken (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        db.execute("CREATE TABLE given (n INTEGER)")
        db.execute("INSERT INTO taken VALUES (7)")

    def give() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            (n,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'taken'").fetchone()
            db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'taken'", (n + 1,))
            db.execute("INSERT INTO given VALUES (?)", (n,))

    (finding,) = find(None, [give], database=f"sqlite:///{path}").findings
    assert finding.verdict in {Verdict.RACE, Verdict.INCONCLUSIVE}
