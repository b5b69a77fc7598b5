"""One set of operations, searched: what is a race, what is proven, and what cannot be told."""

from __future__ import annotations

from crowdsafe.find.confirm import confirm
from crowdsafe.find.model import Anomaly, Finding, Verdict
from tests.find.shelf import Shelf


def confirmed(shelf: Shelf, *names: str, schedules: int = 200, times: int = 1) -> Finding:
    with shelf.session(*names, hang_s=2.0) as session:
        operations = session.operations * times
        return confirm(session, operations, schedules=schedules, seconds=20)


def test_a_race_is_told_with_all_that_shows_it(shelf: Shelf) -> None:
    found = confirmed(shelf, "sell", times=2)
    assert (found.verdict, found.anomaly) == (Verdict.RACE, Anomaly.LOST_UPDATE)
    assert found.tables == ("stock",)
    assert found.schedule == ((0, 1), (1, 2), (0, 1))
    assert 0 < found.schedules_to_find <= found.schedules
    assert found.run is not None
    assert found.run.steps[0].rows == [(10,)]
    assert set(found.serial) == {(0, 1), (1, 0)}
    assert found.differences
    assert found.cures
    assert found.seconds > 0


def test_safe_operations_are_proven(shelf: Shelf) -> None:
    found = confirmed(shelf, "sell_safely", times=2)
    assert found.verdict is Verdict.PROVEN
    assert found.schedules >= 2
    assert found.reason == "every schedule gives what one after another gives"


def test_a_budget_that_ends_proves_nothing(shelf: Shelf) -> None:
    found = confirmed(shelf, "sell_safely", times=2, schedules=1)
    assert found.verdict is Verdict.NOT_FOUND
    assert "budget of 1 schedules" in found.reason


def test_one_who_is_refused_each_time_shows_nothing(shelf: Shelf) -> None:
    found = confirmed(shelf, "refuse", "sell")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "refuse is refused each time" in found.reason


def test_one_who_is_refused_after_another_is_no_reason(shelf: Shelf) -> None:
    assert confirmed(shelf, "sell_last", times=2).verdict is Verdict.PROVEN


def test_an_outcome_that_does_not_recur_is_no_race(shelf: Shelf) -> None:
    found = confirmed(shelf, "count_in_memory", times=2)
    assert found.verdict is not Verdict.RACE


def test_a_hang_is_told_and_does_not_raise(shelf: Shelf) -> None:
    found = confirmed(shelf, "hang_the_third_time", times=2)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith("one after another: ")
