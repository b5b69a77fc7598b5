"""A finding comes through a pipe as it was, without what is too large for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

from crowdsafe.find.model import (
    Anomaly,
    Answer,
    Finding,
    Reply,
    Rows,
    Run,
    Severity,
    Source,
    Step,
    Verdict,
)
from crowdsafe.find.wire import pack, unpack


def run(rows: int = 1) -> Run:
    source = Source("shop.py", 12, "allocate", "db.execute(...)")
    return Run(
        schedule=((0, 1), (1, 2)),
        steps=[
            Step(0, 0, "SELECT 1", ["a", 1], source=source, columns=("n",), rows=[(1, "x")]),
            Step(1, 0, "UPDATE t", {"n": 2}, waited_for=(0,), error="E", sqlstate="40001"),
        ],
        answers=[Answer([Reply("GET /", 200, {"id": [1]}, {"etag": "x"})]), Answer(stopped_at=0)],
        state={
            "stock": Rows(("id", "n"), ("id",), [(number, None) for number in range(rows)]),
            "other": Rows(("id",), (), []),
        },
        deadlocked=True,
        seconds=0.25,
    )


def finding(**changes: object) -> Finding:
    values = {
        "operations": ("a", "a"),
        "verdict": Verdict.RACE,
        "anomaly": Anomaly.LOST_UPDATE,
        "severity": Severity.HIGH,
        "differences": ("n: 20 after any order, here 60",),
        "schedule": ((0, 1), (1, 2)),
        "run": run(),
        "serial": {(0, 1): run(), (1, 0): run()},
        "cures": (("guard it", "UPDATE ...", "take()"),),
        "matrix": (("serializable", "aborts", "retry"),),
    }
    return Finding(**(values | changes))  # type: ignore[arg-type]


def through(value: Finding) -> Finding:
    return unpack(json.loads(json.dumps(pack(value))))


def test_comes_back_as_it_was() -> None:
    made = finding()
    back = through(made)
    back.matrix = tuple(back.matrix)
    assert back == made
    least = Finding(("a",), Verdict.PROVEN)
    assert through(least).run is None


def test_only_the_tables_that_it_names_and_so_many_rows() -> None:
    back = through(finding(tables=("stock",), run=run(5000)))
    assert back.run is not None
    assert back.run.state is not None
    assert list(back.run.state) == ["stock"]
    assert len(back.run.state["stock"].rows) == 500


def test_parameters_of_any_type() -> None:
    made = run()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    made.steps[0].parameters = (Decimal("1.5"), at, b"\x01", object())
    back = through(finding(run=made))
    assert back.run is not None
    shown = ["1.5", at.isoformat(), "01", "<object object>"]
    assert back.run.steps[0].parameters == shown
