"""Databases besides the one that was named are read, and never written."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from crowdsafe.find import Verdict, find
from crowdsafe.find.gates.elsewhere import Elsewhere
from tests.support.pg_server import PgServer


def make(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("create table note (text); insert into note values ('mine')")
    return path


def test_naming_the_wrong_file_leaves_the_right_one_as_it_was(tmp_path: Path) -> None:
    real, named = make(tmp_path / "shop.db"), make(tmp_path / "other.db")
    before = real.read_bytes()

    def write() -> str:
        with closing(sqlite3.connect(real)) as connection:
            connection.execute("insert into note values ('new')")
            connection.commit()
            return str(connection.execute("select count(*) from note").fetchone()[0])

    report = find(None, [write], database=f"sqlite:///{named}")
    (finding,) = report.findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert str(real) in finding.reason
    assert real.read_bytes() == before
    assert not list(tmp_path.glob("*-wal"))


@pytest.mark.postgres
def test_naming_a_file_leaves_the_postgresql_database_as_it_was(
    tmp_path: Path, pg_url: str
) -> None:
    named, real = make(tmp_path / "shop.db"), pg_url.replace("+psycopg", "")
    with psycopg.connect(real, autocommit=True) as connection:
        connection.execute("create table note (text text)")

    def write() -> None:
        with psycopg.connect(real) as connection:
            connection.execute("insert into note values ('new')")

    (finding,) = find(None, [write], database=f"sqlite:///{named}").findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert real.rpartition("/")[2] in finding.reason
    with psycopg.connect(real) as connection:
        assert connection.execute("select text from note").fetchall() == []


@pytest.mark.postgres
def test_naming_a_postgresql_database_leaves_the_file_as_it_was(
    tmp_path: Path, pg_url: str
) -> None:
    real = make(tmp_path / "shop.db")
    before = real.read_bytes()

    def write() -> None:
        with closing(sqlite3.connect(real)) as connection:
            connection.execute("insert into note values ('new')")
            connection.commit()

    (finding,) = find(None, [write], database=pg_url.replace("+psycopg", "")).findings
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert str(real) in finding.reason
    assert real.read_bytes() == before


def test_a_driver_that_cannot_be_imported_is_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as psycopg where libpq is not installed."""
    monkeypatch.setitem(sys.modules, "crowdsafe.find.gates.psycopg2", None)
    named = make(tmp_path / "shop.db")

    def write() -> None:
        with closing(sqlite3.connect(named)) as connection:
            connection.execute("update note set text = 'new'")
            connection.commit()

    (finding,) = find(None, [write], database=f"sqlite:///{named}").findings
    assert finding.verdict is Verdict.PROVEN, finding.reason


def test_a_second_file_is_read_through_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prices, named = make(tmp_path / "prices.db"), make(tmp_path / "shop.db")
    before = prices.read_bytes()

    def use_both() -> str:
        with (
            closing(sqlite3.connect(prices)) as other,
            closing(sqlite3.connect(named)) as connection,
        ):
            (text,) = other.execute("select text from note").fetchone()
            other.execute("update note set text = text")
            other.commit()
            connection.execute("insert into note values (?)", (text,))
            connection.commit()
            return str(text)

    report = find(None, [use_both], database=f"sqlite:///{named}")
    assert report.findings[0].schedules > 0, str(report)
    assert prices.read_bytes() == before
    assert any(str(prices) in note for note in report.notes)
    assert not list(tmp_path.glob("crowdsafe-find-other-*"))


def test_a_file_that_is_not_there_is_made_elsewhere(tmp_path: Path) -> None:
    elsewhere = Elsewhere(sqlite3.connect)
    new = tmp_path / "new.db"
    path, uri = elsewhere.instead_of(new, uri=False)
    with closing(sqlite3.connect(path, uri=uri)) as connection:
        connection.execute("create table t (n)")
    assert not new.exists()
    assert elsewhere.instead_of(str(new), uri=False) == (path, uri)
    elsewhere.close()
    assert not Path(str(path)).exists()


def test_a_large_file_is_opened_for_reading_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdsafe.find.gates.elsewhere._BYTES_MAX", 10)
    large = make(tmp_path / "large #1.db")
    path, uri = Elsewhere(sqlite3.connect).instead_of(large, uri=False)
    with closing(sqlite3.connect(path, uri=uri)) as connection:
        assert connection.execute("select text from note").fetchone() == ("mine",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("delete from note")


def test_what_is_in_memory_is_nobody_elses() -> None:
    elsewhere = Elsewhere(sqlite3.connect)
    for path, uri in ((":memory:", False), ("file::memory:", True), ("file:x?mode=memory", True)):
        assert elsewhere.instead_of(path, uri=uri) == (path, uri)


@pytest.mark.postgres
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_another_postgresql_database_is_only_read(
    driver: str, pg_url: str, pg_server: PgServer
) -> None:
    named = pg_url.replace("+psycopg", "")
    other = named.rsplit("/", 1)[0] + "/template1"
    with psycopg.connect(named, autocommit=True) as connection:
        connection.execute("create table note (text text)")

    def write() -> None:
        if driver == "psycopg":
            with psycopg.connect(other) as connection:
                connection.execute("create table note (text text)")
        else:
            import psycopg2

            with closing(psycopg2.connect(other)) as connection, connection.cursor() as cursor:
                cursor.execute("create table note (text text)")
                connection.commit()

    async def write_async() -> None:
        import asyncpg

        connection = await asyncpg.connect(other)
        try:
            await connection.execute("create table note (text text)")
        finally:
            await connection.close()

    operation = write_async if driver == "asyncpg" else write
    report = find(None, [operation], database=named)
    assert report.findings[0].verdict is Verdict.INCONCLUSIVE
    with psycopg.connect(other, autocommit=True) as connection:
        row = connection.execute("select to_regclass('note')").fetchone()
    assert row == (None,)
