"""A result that is kept half-read must not hold its connection in the past."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, ResourceClosedError
from sqlalchemy.orm import Session

from crowdsafe import Settings, Store

kept: list[Any] = []


@pytest.fixture
def two(sqlite_url: str) -> Iterator[tuple[Store, Store]]:
    """Two stores on one SQLite file, as of two processes."""
    settings = Settings(readers=1, deadline_s=3)
    with Store(sqlite_url, settings) as one, Store(sqlite_url, settings) as other:
        one.write(_run, "CREATE TABLE things (id INTEGER)")
        one.write(_run, "INSERT INTO things VALUES (1), (2), (3)")
        kept.clear()
        yield one, other
        kept.clear()


def _run(session: Session, sql: str) -> None:
    session.execute(text(sql))


def _count(session: Session) -> int:
    return int(session.execute(text("SELECT COUNT(*) FROM things")).scalar_one())


def _half(session: Session, error: Exception | None = None) -> None:
    result = session.execute(text("SELECT id FROM things"))
    result.fetchone()
    kept.append(result)
    if error is not None:
        raise error


def test_later_reads_see_what_was_written_since(two: tuple[Store, Store]) -> None:
    one, _ = two
    one.read(_half)
    one.write(_run, "INSERT INTO things VALUES (4)")
    assert one.read(_count) == 4


@pytest.mark.parametrize("error", [None, ValueError("half-way")], ids=["commit", "rollback"])
def test_later_writes_go_on_when_another_process_has_written(
    two: tuple[Store, Store], error: Exception | None
) -> None:
    one, other = two
    with pytest.raises(ValueError, match="half-way") if error else nullcontext():
        one.write(_half, error)
    other.write(_run, "INSERT INTO things VALUES (4)")
    one.write(_run, "INSERT INTO things VALUES (5)")
    assert one.read(_count) == 5


def test_the_rest_of_a_half_read_result_is_an_error(two: tuple[Store, Store]) -> None:
    one, _ = two
    one.read(_half)
    with pytest.raises((DBAPIError, InterfaceError, ResourceClosedError)):
        kept[0].fetchall()
