"""Each program of the corpora works, as long as nobody else is there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from crowdsafe.find.model import Answer, Reply
from crowdsafe.find.targets import load, spec_of
from tests.find.corpus import CASES, Built, Case
from tests.find.corpus.kit import sqlite_path
from tests.support.pg_server import PgServer

RUNS = [
    pytest.param(
        case,
        database,
        id=f"{case.name}-{database}",
        marks=[pytest.mark.postgres] if database == "postgresql" else [],
    )
    for case in CASES.values()
    for database in case.databases
]


@pytest.fixture(scope="module")
def one_pg_url(pg_server: PgServer) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    yield pg_server.url(name)
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def url(request: pytest.FixtureRequest, database: str) -> str:
    """An empty database; on PostgreSQL the same for all of these tests, emptied each time."""
    if database == "sqlite":
        url = str(request.getfixturevalue("sqlite_url"))
        Path(sqlite_path(url)).touch()
        return url
    url = str(request.getfixturevalue("one_pg_url"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@contextmanager
def built(case: Case, url: str) -> Iterator[Built]:
    program = case.build(url)
    try:
        program.setup()
        yield program
    finally:
        program.close()


def answers_alone(program: Built) -> list[Answer]:
    """Each operation once, one after the other."""
    with asyncio.Runner() as runner:
        target = load(program.target)
        runner.run(target.startup())
        try:
            operations = target.prepare(
                [spec_of(operation) for operation in program.operations],
                login=program.login,
                headers=program.headers,
                on_loop=runner.run,
            )
            return [
                runner.run(one.run_async()) if one.is_async else one.run() for one in operations
            ]
        finally:
            runner.run(target.shutdown())


def failure(reply: Reply) -> bool:
    """Whether it is more than a refusal of the program's own."""
    return (reply.status or 0) >= 500 or reply.error not in {None, "ValueError", "PermissionError"}


@pytest.mark.parametrize(("case", "database"), RUNS)
def test_every_program_works_when_its_operations_run_one_by_one(
    case: Case, database: str, url: str
) -> None:
    with built(case, url) as program:
        first, *others = answers_alone(program)
    assert first.stopped_at is None, first
    assert not [reply for answer in (first, *others) for reply in answer.replies if failure(reply)]


def test_there_are_enough_programs_of_either_kind_on_either_database() -> None:
    for is_safe in (False, True):
        for database in ("sqlite", "postgresql"):
            named = [c for c in CASES.values() if c.safe is is_safe and database in c.databases]
            assert len(named) >= 30, (is_safe, database)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_expected_of_a_program_is_said(case: Case) -> None:
    assert case.note
    for database in case.databases:
        expected = case.expected(database)
        assert expected.verdicts
        assert case.safe or expected.racy
