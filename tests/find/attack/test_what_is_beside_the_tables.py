"""What is neither in a table of the database that was named nor to be called proven."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Verdict


@pytest.fixture
def path(sqlite_url: str) -> str:
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE stock (n); INSERT INTO stock VALUES (1);")
    return path


def test_a_race_on_the_version_of_the_file_is_found(sqlite_url: str, path: str) -> None:
    def next_version() -> int:
        with closing(sqlite3.connect(path)) as db:
            [version] = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version = {version + 1}")
            return int(version)

    report = find(None, [next_version], database=sqlite_url, budget_s=20)
    assert report.findings[0].verdict is Verdict.RACE, report


def test_nothing_is_proven_about_a_second_file(sqlite_url: str, path: str, tmp_path: Path) -> None:
    second = str(tmp_path / "second.db")
    with closing(sqlite3.connect(second)) as db:
        db.execute("CREATE TABLE counts (n)")

    def both() -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("ATTACH ? AS second", [second])
            db.execute("UPDATE second.counts SET n = n + 1")
            db.execute("UPDATE stock SET n = n + 1")
            db.commit()

    def one() -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE stock SET n = n + 1")
            db.commit()

    report = find(None, [both, one], database=sqlite_url, budget_s=20)
    verdicts = {finding.operations: finding.verdict for finding in report.findings}
    assert verdicts["both()", "both()"] is verdicts["both()", "one()"] is Verdict.INCONCLUSIVE
    assert verdicts["one()", "one()"] is Verdict.PROVEN, report


@pytest.mark.postgres
def test_a_large_object_is_data_too(pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        connection.execute("SELECT lo_from_bytea(4711, '0')")

    def next_number() -> int:
        with psycopg.connect(pg_url) as connection:
            row = connection.execute("SELECT lo_get(4711)").fetchone()
            assert row is not None
            number = int(row[0]) + 1
            connection.execute("SELECT lo_put(4711, 0, %s)", [str(number).encode()])
            return number

    report = find(None, [next_number], database=pg_url, budget_s=20)
    assert report.findings[0].verdict is not Verdict.PROVEN, report


@pytest.mark.postgres
def test_nothing_is_proven_about_what_is_kept_of_a_query(pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        connection.execute(
            b"CREATE TABLE seats (id serial PRIMARY KEY);"
            b"CREATE MATERIALIZED VIEW taken AS SELECT count(*) AS n FROM seats"
        )

    def take() -> str:
        with psycopg.connect(pg_url) as connection:
            if connection.execute("SELECT n FROM taken").fetchone() != (0,):
                return "full"
            connection.execute("INSERT INTO seats DEFAULT VALUES")
            connection.execute("REFRESH MATERIALIZED VIEW taken")
            return "taken"

    report = find(None, [take], database=pg_url, budget_s=20)
    assert report.findings[0].verdict is Verdict.INCONCLUSIVE, report
    assert "materialized view" in report.findings[0].reason
