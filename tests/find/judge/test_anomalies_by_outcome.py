"""Anomalies that are named by the outcome alone, and odd runs, which get a name too."""

from __future__ import annotations

from typing import Any

import pytest

from crowdsafe.find.database.schema import Schema, Table
from crowdsafe.find.judge.anomalies import explanation, marks_of, name
from crowdsafe.find.judge.oracle import Judgement
from crowdsafe.find.model import Anomaly, Answer, Reply, Severity
from tests.find.judge.histories import (
    COMMIT,
    DIALECTS,
    HUNDRED,
    READ,
    SET,
    TAKE,
    gave,
    history,
    judged,
    named,
)

pytestmark = pytest.mark.parametrize("dialect", DIALECTS)


LOOK = "SELECT id FROM users WHERE email = ?"
ADD = "INSERT INTO users (email) VALUES (?)"
NONE: dict[str, Any] = {"columns": ("id",), "rows": [], "rowcount": 0}

# --- by the outcome -------------------------------------------------------------------------


def test_a_dirty_read_is_only_possible_on_sqlite(dialect: str) -> None:
    run = history(
        dialect,
        ("B", "PRAGMA read_uncommitted = 1" if dialect == "sqlite" else "SET x = 1"),
        ("A", "BEGIN"),
        ("A", SET, (20, 1)),
        ("B", READ, (1,), gave("id on_hand", (1, 20))),
        ("B", "INSERT INTO report (n) VALUES (20)"),
        ("A", "ROLLBACK"),
    )
    found = named(run, judged("report")).anomaly
    assert (found is Anomaly.DIRTY_READ) == (dialect == "sqlite")


@pytest.mark.parametrize("sql", ["PRAGMA read_uncommitted = 0", "PRAGMA journal_mode", "BEGIN"])
def test_no_dirty_read_where_it_was_not_asked_for(dialect: str, sql: str) -> None:
    run = history(
        dialect,
        ("B", sql),
        ("A", "BEGIN"),
        ("A", SET, (20, 1)),
        ("B", READ, (1,), HUNDRED),
        ("A", COMMIT),
    )
    assert named(run, judged("report")).anomaly is not Anomaly.DIRTY_READ


def failing(state: str | None, error: str = "OperationalError") -> list[Answer]:
    return [
        Answer([Reply("POST /", 200)]),
        Answer([Reply("POST /", 500, error=error, message="no", sqlstate=state)]),
    ]


@pytest.mark.parametrize("state", ["40001", "SQLITE_BUSY", None])
def test_what_the_database_refused_are_aborts(dialect: str, state: str | None) -> None:
    run = history(
        dialect,
        ("A", SET, (20, 1)),
        ("B", SET, (20, 1), {"error": "OperationalError: no", "sqlstate": state}),
        answers=failing(state),
    )
    found = named(run, judged(kind="aborts"))
    assert (found.anomaly, found.severity) == (Anomaly.ABORTS, Severity.LOW)
    assert found.summary.startswith("B was refused")
    assert found.sources == ("app.py:2",)


@pytest.mark.parametrize("deadlocked", [True, False])
def test_a_deadlock_is_told_from_other_aborts(dialect: str, deadlocked: bool) -> None:
    state = None if deadlocked else "40P01"
    run = history(
        dialect,
        ("A", SET, (20, 1)),
        ("B", SET, (20, 2), {"error": "deadlock detected", "sqlstate": state}),
        answers=failing(state),
        deadlocked=deadlocked,
    )
    assert named(run, judged(kind="aborts")).anomaly is Anomaly.DEADLOCK


@pytest.mark.parametrize("error", ["IntegrityError", "KeyError", "StaleDataError"])
def test_another_failure_is_an_error(dialect: str, error: str) -> None:
    run = history(
        dialect,
        ("A", LOOK, ("m@x",), NONE),
        ("B", LOOK, ("m@x",), NONE),
        ("A", ADD, ("m@x",)),
        ("B", ADD, ("m@x",), {"error": f"{error}: no"}),
        answers=failing(None, error),
    )
    found = named(run, judged(kind="error"))
    assert (found.anomaly, found.severity) == (Anomaly.ERROR, Severity.LOW)
    assert error in found.summary


@pytest.mark.parametrize("name_", ["the invariant total is broken", "the invariant x is broken"])
def test_a_broken_rule_alone_is_an_invariant(dialect: str, name_: str) -> None:
    run = history(dialect, ("A", SET, (20, 1)), ("B", TAKE, (20, 1)))
    found = named(run, Judgement("race", (name_,), broken=(name_,)))
    assert (found.anomaly, found.severity, found.summary) == (
        Anomaly.INVARIANT,
        Severity.HIGH,
        name_,
    )


# --- odd input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (("A", "what is this"), ("B", "nor this")),
        (("A", ""), ("B", ";;")),
        (("A", "SELECT", None, {"rows": [(1, 2)], "columns": ("a",)}), ("B", "UPDATE")),
        (("A", READ, {"odd": object()}, HUNDRED), ("B", SET, "text")),
        (("A", "COMMIT"), ("B", "ROLLBACK"), ("A", "COMMIT")),
        (("A", SET, (b"\x00" * 99, float("nan"))), ("B", SET, ("\ud800", None))),
    ],
    ids=["none", "opaque", "empty", "cut", "parameters", "ends", "values"],
)
@pytest.mark.parametrize("kind", ["race", "aborts", "error"])
def test_odd_runs_get_a_name_too(dialect: str, lines: tuple[Any, ...], kind: str) -> None:
    run = history(dialect, *lines)
    found = name(run, judged("stock", kind=kind), [])
    assert found.summary and explanation(found.anomaly)


def test_a_thousand_statements_are_named_in_time(dialect: str) -> None:
    noise = [
        (who, f"SELECT id FROM t{number % 40} WHERE id = ?", (number,))
        for number in range(500)
        for who in "AB"
    ]
    run = history(
        dialect,
        *noise,
        ("A", READ, (1,), HUNDRED),
        ("B", READ, (1,), HUNDRED),
        ("A", SET, (20, 1)),
        ("A", COMMIT),
        ("B", SET, (20, 1)),
        ("B", COMMIT),
    )
    assert named(run, judged("stock")).anomaly is Anomaly.LOST_UPDATE


def test_tables_that_the_schema_does_not_have_are_left_out(dialect: str) -> None:
    run = history(dialect, ("A", "UPDATE a_view SET n = 1"), ("B", "SELECT * FROM a_view"))
    schema = Schema({"stock": Table("stock", ())})
    assert named(run, judged("stock"), schema=schema).tables == ()


def test_marks_are_kept_for_each_of_three(dialect: str) -> None:
    reads = [(who, READ, (1,), HUNDRED) for who in "ABC"]
    writes = [(who, sql, args) for who in "ABC" for sql, args in ((SET, (20, 1)), (COMMIT, None))]
    run = history(dialect, *reads, *writes)
    marks = marks_of(run, Anomaly.LOST_UPDATE, [])
    assert marks[5] == "overwrites A" and marks[7] == "overwrites B"


def test_every_name_is_explained(dialect: str) -> None:
    assert all(explanation(anomaly).endswith(".") for anomaly in Anomaly)
