"""The corpora: each program works alone; of the racy ones the race is found and named, and the
safe ones are proven, or at least not accused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Anomaly, Answer, Finding, Reply, Verdict
from crowdsafe.find.targets import load, spec_of
from tests.find.corpus import CASES, Built, Case, Expected
from tests.find.corpus.kit import sqlite_path
from tests.support.pg_server import PgServer

BUDGET_S = 60.0
SLOW_BUDGET_S = 90.0


def _marks(case: Case, database: str, *, searched: bool) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.postgres] if database == "postgresql" else []
    return [*marks, pytest.mark.slow] if searched and case.slow else marks


def _runs(*, searched: bool) -> list[Any]:
    return [
        pytest.param(
            case,
            database,
            id=f"{case.name}-{database}",
            marks=_marks(case, database, searched=searched),
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


@pytest.mark.parametrize(("case", "database"), _runs(searched=False))
def test_every_program_works_when_its_operations_run_one_by_one(
    case: Case, database: str, url: str
) -> None:
    with built(case, url) as program:
        first, *others = answers_alone(program)
    assert first.stopped_at is None, first
    assert not [reply for answer in (first, *others) for reply in answer.replies if failure(reply)]


@pytest.mark.parametrize(("case", "database"), _runs(searched=True))
def test_the_finder_says_of_every_program_what_is_true(case: Case, database: str, url: str) -> None:
    program = case.build(url)
    try:
        report = find(
            program.target,
            program.operations,
            database=url,
            setup=program.setup,
            login=program.login,
            headers=program.headers,
            budget_s=SLOW_BUDGET_S if case.slow else BUDGET_S,
        )
    finally:
        program.close()
    assert not complaints(case.expected(database), report.findings)


def complaints(expected: Expected, findings: list[Finding]) -> list[str]:
    """What is wrong about these findings, one line each."""
    wrong = [
        f"{' + '.join(one.operations)}: {one.verdict} ({one.anomaly}) {one.summary or one.reason}"
        for one in findings
        if not may_be(expected, one)
    ]
    if expected.racy and not any(one.anomaly in expected.anomalies for one in findings):
        wrong.append(f"none of {', '.join(sorted(expected.anomalies))} was found")
    return wrong


def may_be(expected: Expected, finding: Finding) -> bool:
    if finding.verdict is Verdict.RACE:
        return finding.anomaly in expected.anomalies | expected.also
    return finding.verdict in expected.verdicts


def test_a_wrong_verdict_is_complained_of() -> None:
    racy, safe = CASES["stock-orm"].expected("sqlite"), CASES["on-conflict"].expected("sqlite")
    race = Finding(("a", "a"), Verdict.RACE, Anomaly.LOST_UPDATE)
    proven = Finding(("a", "a"), Verdict.PROVEN)
    assert not complaints(racy, [race])
    assert not complaints(safe, [proven])
    for expected, finding in [
        (safe, race),
        (safe, Finding(("a", "a"), Verdict.INCONCLUSIVE)),
        (racy, proven),
        (racy, Finding(("a", "a"), Verdict.RACE, Anomaly.WRITE_SKEW)),
    ]:
        assert complaints(expected, [finding])


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
