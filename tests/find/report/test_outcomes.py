"""The outcomes side by side: what differs is shown, what no order gives is marked."""

from __future__ import annotations

from typing import Any

from crowdsafe.find.model import Finding, Reply, Run, Verdict
from crowdsafe.find.report.outcomes import Comparison, comparison
from tests.find.report import samples
from tests.find.report.samples import reply, run, table


def compared(finding: Finding) -> Comparison:
    found = comparison(finding)
    assert found is not None
    return found


def of(found: Run, *serial: Run) -> Comparison:
    orders = [(0, 1), (1, 0)]
    finding = Finding(("a", "a"), Verdict.RACE, run=found)
    finding.serial = dict(zip(orders, serial, strict=True))
    return compared(finding)


def test_rows_and_answers_that_no_order_gives_are_marked() -> None:
    found = compared(samples.duplicate_create())
    assert found.orders == ("A then B", "B then A")
    rows = found.lines[0]
    assert (rows.what, rows.serial, rows.found, rows.odd) == ("users: rows", ("1", "1"), "2", True)
    assert not found.only_together


def test_values_that_only_together_are_wrong_are_told_as_that() -> None:
    found = compared(samples.write_skew())
    assert {line.what for line in found.lines} == {
        "doctors #alice on_call",
        "doctors #bob on_call",
        "answer of A",
        "answer of B",
    }
    assert found.only_together


def test_orders_that_give_the_same_share_a_heading() -> None:
    found = compared(samples.three_at_once())
    assert len(found.orders) == 3
    assert found.orders[0] == "A then B then C, or A then C then B"


def test_times_and_random_texts_are_no_difference() -> None:
    def one(token: str, at: str, n: int) -> Run:
        state = {"t": table("id token at n", (1, token, at, n))}
        body = {"token": token, "at": at, "n": n}
        return run([], state, reply("a", 200, body), reply("a", 200, body))

    found = of(
        one("ApsOQBqtmlrJc7i5Ba0P5Q", "2026-01-01 10:00:00", 3),
        one("6zKMrupaQqe6yLneeOA_gQ", "2026-01-01 10:00:01", 1),
        one("U3DxKuPJw_lbQDzYnNy4XQ", "2026-01-01 10:00:02", 3),
    )
    assert [line.what for line in found.lines] == ["t #1 n", "answer of A", "answer of B"]
    assert found.only_together, "3 is what the second order gives"


def test_odd_states_do_no_harm() -> None:
    odd: list[Any] = [
        run([], None),
        run([], {"t": table("id x", (1, {"a": [1]}), (2, b"\xff"))}, Reply("a", error="E")),
        run([], {"u": table("id", (1,), key="other")}, reply("a", None, float("nan"))),
    ]
    for found in odd:
        assert of(found, odd[1], odd[2]) is not None


def test_without_serial_runs_there_is_no_table() -> None:
    assert comparison(samples.proven()) is None
