"""A race is named as if the views and triggers that its statements meet were not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Anomaly, Verdict

TABLES = [
    "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)",
    "INSERT INTO stock VALUES (1, 9)",
    "CREATE TABLE log (what TEXT)",
    "CREATE VIEW shown AS SELECT id, n FROM stock",
]
NOTED = """
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO log VALUES ('sold'); RETURN new; END $$
"""
SQLITE = ["CREATE TRIGGER note AFTER UPDATE ON stock BEGIN INSERT INTO log VALUES ('sold'); END"]
POSTGRESQL = [
    NOTED,
    "CREATE TRIGGER note AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION noted()",
]


def connect(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    return psycopg.connect(url)


def selling(url: str, table: str) -> Callable[[], None]:
    def sell() -> None:
        with closing(connect(url)) as db, db:
            [n] = db.execute(f"SELECT n FROM {table} WHERE id = 1").fetchone()
            db.execute(f"UPDATE {table} SET n = {n - 1} WHERE id = 1")

    return sell


def named(url: str, table: str) -> tuple[Verdict, Anomaly | None, str]:
    with closing(connect(url)) as db, db:
        for sql in TABLES + (SQLITE if url.startswith("sqlite") else POSTGRESQL):
            db.execute(sql)
    (finding,) = find(None, [selling(url, table)], database=url).findings
    return finding.verdict, finding.anomaly, finding.tables[0]


def test_an_update_that_a_trigger_follows(db_url: str) -> None:
    assert named(db_url, "stock") == (Verdict.RACE, Anomaly.LOST_UPDATE, "stock")


@pytest.mark.postgres
def test_an_update_of_a_view(pg_url: str) -> None:
    assert named(pg_url, "shown") == (Verdict.RACE, Anomaly.LOST_UPDATE, "stock")
