"""The serial runs of some operations: which are run, which are missing, what they teach."""

from __future__ import annotations

import pytest

from crowdsafe.find.outcomes import Inconclusive, SerialOutcomes
from crowdsafe.find.session import Session
from tests.find.shelf import Shelf


def outcomes(session: Session, *numbers: int) -> SerialOutcomes:
    return SerialOutcomes(session, [session.operations[number] for number in numbers])


def test_both_orders_are_known(shelf: Shelf) -> None:
    with shelf.session("sell", "sell_safely") as session:
        serial = outcomes(session, 0, 1)
        assert set(serial.orders) == {(0, 1), (1, 0)}
        assert [run.answers[0].replies[0].body for run in serial.orders.values()] == [10, 9]
        left = {run.state["stock"].rows[0][1] for run in serial.orders.values() if run.state}
    assert left == {8}


def test_one_operation_twice_is_run_in_one_order_and_turned(shelf: Shelf) -> None:
    with shelf.session("sell", "sell_safely") as session:
        before = session.runs
        same = outcomes(session, 0, 0)
        cost = session.runs - before
        outcomes(session, 0, 1)
        assert session.runs - before - cost == 2 * cost
    one, other = same.orders[0, 1], same.orders[1, 0]
    assert [answer.replies[0].body for answer in one.answers] == [10, 9]
    assert [answer.replies[0].body for answer in other.answers] == [9, 10]
    assert [step.operation for step in one.steps[:1] + other.steps[:1]] == [0, 1]


def test_the_orders_of_a_refused_one_are_run_when_they_are_needed(shelf: Shelf) -> None:
    with shelf.session("sell_last") as session:
        serial = outcomes(session, 0, 0)
        known = set(serial.runs)
        run = session.serial(serial.operations, (0, 1))
        assert serial.judge(run).kind == "serial"
        assert {limits for _, limits in set(serial.runs) - known} == {(None, 0)}
        assert set(serial.orders) == {(0, 1), (1, 0)}


def test_what_no_order_gives_is_a_race(shelf: Shelf) -> None:
    with shelf.session("sell") as session:
        serial = outcomes(session, 0, 0)
        run = session.replay(serial.operations, ((0, 1), (1, 2), (0, 1)))
        judgement = serial.judge(run)
    assert (judgement.kind, judgement.rows_differ) == ("race", True)


def test_a_hang_in_an_order_is_told(shelf: Shelf) -> None:
    with (
        shelf.session("hang_the_third_time", hang_s=0.5) as session,
        pytest.raises(Inconclusive, match="one after another: "),
    ):
        outcomes(session, 0, 0)
