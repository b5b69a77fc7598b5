"""What is told of runs made by hand: serial, a race, aborts, an error, and in which words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.judge import Oracle
from crowdsafe.find.model import Reply, Run, Step
from tests.find.judge.runs import BASE, SCHEMA, oracle_of, reply, run, state

FIRST = run(state(stock=[(1, 20, "x")]), reply(), reply(409))
SECOND = run(state(stock=[(1, 20, "x")]), reply(409), reply(), order=(1, 0))


def taken(left: int, *answers: Reply | Sequence[Reply] | None, **more: Any) -> Run:
    return run(state(stock=[(1, left, "x")]), *answers, **more)


def test_a_serial_outcome_is_serial_in_either_order() -> None:
    oracle = oracle_of(FIRST, SECOND)
    assert oracle.judge(taken(20, reply(), reply(409))).order == (0, 1)
    assert oracle.judge(taken(20, reply(409), reply())).order == (1, 0)


def test_both_won_is_a_race_even_if_the_rows_are_right() -> None:
    judgement = oracle_of(FIRST, SECOND).judge(taken(20, reply(), reply()))
    assert judgement.kind == "race"
    assert (judgement.rows_differ, judgement.answers_differ) == (False, True)
    assert judgement.differences[0] == (
        "both were answered 201; one after another at least one is refused"
    )
    assert not judgement.suspects_clock


def test_a_lost_update_is_told_with_its_values() -> None:
    oracle = oracle_of(taken(40, reply(), reply()), taken(40, reply(), reply()))
    judgement = oracle.judge(taken(70, reply(), reply()))
    assert judgement.differences == ("stock[id=1].on_hand is 70; one after another it is 40",)
    assert (judgement.tables, judgement.rows_differ) == (("stock",), True)
    assert (judgement.answers_differ, judgement.suspects_clock) == (False, False)


def test_numbers_that_a_byte_could_hide_are_told_apart() -> None:
    """-1 and -2 have the same hash in Python."""
    oracle = oracle_of(taken(-1, reply(), reply()), taken(-1, reply(), reply()))
    assert oracle.judge(taken(-2, reply(), reply())).kind == "race"


def test_a_row_too_many_is_counted() -> None:
    made = state(orders=[(1, 1, 7, "a", None)])
    oracle = oracle_of(run(made, reply(), reply()), run(made, reply(), reply()))
    twice = state(orders=[(1, 1, 7, "a", None), (2, 1, 7, "a", None)])
    judgement = oracle.judge(run(twice, reply(), reply()))
    assert judgement.differences == (
        "the number of new rows in orders is 2; one after another it is 1",
    )


# Refusals


def test_a_clean_refusal_counts_as_not_having_run() -> None:
    """Neither order refuses, but to be refused is allowed when it leaves no trace."""
    oracle = oracle_of(taken(40, reply(), reply()), taken(40, reply(), reply()))
    conflict = taken(70, reply(), reply(409))
    assert oracle.wants(conflict) == [((0,), (None, 0))]
    oracle.add_serial((0,), (None, 0), taken(70, reply(), None))
    assert oracle.wants(conflict) == []
    judgement = oracle.judge(conflict)
    assert (judgement.kind, judgement.refused) == ("serial", (None, 0))


def test_both_refused_is_allowed() -> None:
    oracle = oracle_of(FIRST, SECOND)
    both = taken(100, reply(409), reply(409))
    wanted = oracle.wants(both)
    assert ((), (0, 0)) in wanted
    for order, limits in wanted:
        left = 20 if order else 100
        answers = [None if limit == 0 else reply() for limit in limits]
        oracle.add_serial(order, limits, taken(left, *answers))
    assert oracle.judge(both).kind == "serial"


def test_a_refusal_that_left_a_trace_is_a_race() -> None:
    oracle = oracle_of(taken(40, reply(), reply()), taken(40, reply(), reply()))
    oracle.add_serial((0,), (None, 0), taken(70, reply(), None))
    judgement = oracle.judge(taken(40, reply(), reply(409)))
    assert (judgement.kind, judgement.rows_differ) == ("race", False)
    torn = oracle.judge(taken(60, reply(), reply(409)))
    assert (torn.kind, torn.rows_differ) == ("race", True)


def test_a_refusal_that_writes_in_serial_orders_as_well_may_write() -> None:
    first = run(state(plain=[("refused", 1)]), reply(), reply(409))
    second = run(state(plain=[("refused", 0)]), reply(409), reply())
    oracle = oracle_of(first, second)
    assert oracle.judge(first).kind == "serial"
    nothing = run(state(), reply(), reply(409))
    oracle.add_serial((0,), (None, 0), run(state(plain=[("other", 1)]), reply(), None))
    assert oracle.judge(nothing).kind == "race"


def test_an_operation_that_stopped_on_its_way_is_compared_up_to_there() -> None:
    whole = taken(40, (reply(200, 1), reply()), (reply(200, 1), reply()))
    oracle = oracle_of(whole, whole)
    stopped = taken(70, (reply(200, 1), reply()), (reply(200, 1), reply(409)))
    assert oracle.wants(stopped) == [((0, 1), (None, 1)), ((1, 0), (None, 1))]
    up_to = taken(70, (reply(200, 1), reply()), (reply(200, 1),))
    oracle.add_serial((0, 1), (None, 1), up_to)
    oracle.add_serial((1, 0), (None, 1), up_to)
    assert oracle.judge(stopped).kind == "serial"
    other = taken(70, (reply(200, 1), reply()), (reply(200, 2), reply(409)))
    assert oracle.judge(other).kind == "race"


def looked(seen: int, *, left: int = 40, status: int = 201) -> Run:
    """Each looks at a page, then acts; the second one's page says ``seen``."""
    pages = [Reply("GET /stock", 200, {"left": n}) for n in (100, seen)]
    return taken(left, (pages[0], reply()), (pages[1], reply(status)))


def test_what_an_operation_looked_up_on_its_way_may_be_from_before() -> None:
    """Two have the form open at the same time: only what comes of it can be wrong."""
    oracle = oracle_of(looked(70), looked(70))
    assert oracle.judge(looked(100)).kind == "serial"
    assert oracle.judge(looked(100, left=70)).kind == "race"
    refused = looked(100, left=70, status=409)
    assert oracle.wants(refused) == [((0, 1), (None, 1)), ((1, 0), (None, 1))]
    page = Reply("GET /stock", 200, {"left": 70})
    up_to = taken(70, (page, reply()), (page,))
    oracle.add_serial((0, 1), (None, 1), up_to)
    assert oracle.judge(refused).kind == "serial"


def test_what_an_operation_looked_up_last_is_its_answer() -> None:
    def read(left: int) -> Run:
        page = Reply("GET /stock", 200, {"left": left})
        return taken(40, (reply(), page), (reply(), page))

    assert oracle_of(read(40), read(40)).judge(read(70)).kind == "race"


def test_what_a_refusal_says_is_not_compared() -> None:
    oracle = oracle_of(FIRST, SECOND)
    assert oracle.judge(taken(20, reply(), reply(409, {"left": 3}))).kind == "serial"


def failed(**more: Any) -> Reply:
    return Reply("POST /orders", 500, **more)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failed(error="SerializationFailure", sqlstate="40001"), "aborts"),
        (failed(error="DeadlockDetected", sqlstate="40P01"), "aborts"),
        (failed(error="OperationalError", message="database is locked"), "aborts"),
        (failed(error="OperationalError", sqlstate="SQLITE_BUSY_SNAPSHOT"), "aborts"),
        (failed(error="IntegrityError", sqlstate="23505"), "error"),
        (failed(), "error"),
        (Reply("POST /orders", 503), "error"),
        (Reply("POST /orders", 503, headers={"Retry-After": "1"}), "serial"),
        (Reply("POST /orders", 429), "serial"),
        (Reply("f", None, error="Insufficient"), "serial"),
        (Reply("f", None, error="IntegrityError", sqlstate="23505"), "error"),
        (Reply("f", None, error="OperationalError", sqlstate="55P03"), "aborts"),
    ],
    ids=range(12),
)
def test_how_an_operation_failed(answer: Reply, kind: str) -> None:
    oracle = oracle_of(taken(40, reply(), reply()), taken(40, reply(), reply()))
    oracle.add_serial((0,), (None, 0), taken(70, reply(), None))
    judgement = oracle.judge(taken(70, reply(), answer))
    assert judgement.kind == kind
    assert bool(judgement.differences) == (kind != "serial")
    assert oracle.judge(taken(60, reply(), answer)).kind == "race"


def test_a_500_is_known_for_an_abort_by_the_statement_that_failed() -> None:
    oracle = oracle_of(taken(40, reply(), reply()), taken(40, reply(), reply()))
    oracle.add_serial((0,), (None, 0), taken(70, reply(), None))
    step = Step(1, 0, "UPDATE stock", error="could not serialize access", sqlstate="40001")
    after = Step(1, 1, "SELECT 1", error="transaction is aborted", sqlstate="25P02")
    assert oracle.judge(taken(70, reply(), failed(), steps=[step, after])).kind == "aborts"


def test_a_500_that_a_serial_order_gives_too_is_serial() -> None:
    first = taken(20, reply(), failed(error="IntegrityError", sqlstate="23505"))
    second = taken(20, failed(error="IntegrityError", sqlstate="23505"), reply())
    assert oracle_of(first, second).judge(first).kind == "serial"


# Time and chance


def now(seconds: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def ordered(*rows: tuple[Any, ...], body: Any = None) -> Run:
    return run(state(orders=list(rows)), reply(201, body), reply(201, body))


def test_a_clock_that_stood_still_is_suspected_and_learned() -> None:
    """An expiry in an hour, told to the second: both repeats fell into the same one."""
    due = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    later = (datetime.now(UTC) + timedelta(hours=1, seconds=2)).isoformat(timespec="seconds")
    first = ordered((1, 1, 7, "a", due))
    oracle = oracle_of(first, first)
    judgement = oracle.judge(ordered((1, 1, 7, "a", later)))
    assert (judgement.kind, judgement.suspects_clock) == ("race", True)
    oracle.learn([first, ordered((1, 1, 7, "a", later))])
    assert oracle.judge(ordered((1, 1, 7, "a", later))).kind == "serial"
    number = oracle.judge(ordered((1, 1, 8, "a", later)))
    assert (number.kind, number.suspects_clock) == ("race", False)


@pytest.mark.parametrize("unit", [1, 1000], ids=["s", "ms"])
def test_a_clock_that_counts_the_seconds_is_suspected_and_learned(unit: int) -> None:
    """An expiry in an hour as seconds since 1970: both repeats fell into the same second."""
    due = (int(time.time()) + 3600) * unit
    first = ordered((1, 1, due, "a", None))
    later = ordered((1, 1, due + unit, "a", None))
    oracle = oracle_of(first, first)
    judgement = oracle.judge(later)
    assert (judgement.kind, judgement.suspects_clock) == ("race", True)
    oracle.learn([first, later])
    assert oracle.judge(later).kind == "serial"


def test_seconds_that_are_left_are_suspected_in_an_answer_alone() -> None:
    def told(left: int, quantity: int = 7) -> Run:
        return ordered((1, 1, quantity, "a", None), body={"expires_in": left})

    oracle = oracle_of(told(3600), told(3600))
    judgement = oracle.judge(told(3599))
    assert (judgement.kind, judgement.suspects_clock) == ("race", True)
    assert not oracle.judge(told(1800)).suspects_clock
    assert not oracle.judge(told(3599, 8)).suspects_clock
    oracle.learn([told(3600), told(3599)])
    assert oracle.judge(told(3598)).kind == "serial"


def test_a_number_that_is_no_time_is_not_blamed_on_the_clock() -> None:
    first = ordered((1, 1, int(time.time()) + 3600, "a", None))
    judgement = oracle_of(first, first).judge(ordered((1, 1, 17, "a", None)))
    assert (judgement.kind, judgement.suspects_clock) == ("race", False)


def test_a_time_is_that_of_the_run_from_the_second_on_in_which_it_began() -> None:
    """The runs that were learned from wrote the second that had begun long before them."""
    began = int(time.time())
    first, later = ((1, 1, now, "a", None) for now in (began, began + 1))
    learned = run(state(orders=[first]), reply(), reply(), seconds=0.1, ended_at=began + 0.9)
    oracle = oracle_of(learned, learned)
    found = run(state(orders=[later]), reply(), reply(), seconds=0.1, ended_at=began + 1.1)
    assert oracle.judge(found).kind == "serial"
    business = ordered((1, 1, began - 5, "a", None))
    assert oracle.judge(business).kind == "race"


def test_a_number_drawn_at_random_is_learned() -> None:
    oracle = oracle_of(
        ordered((1, 1, 4711, "a", now())),
        ordered((1, 1, 2222, "a", now())),
        ordered((1, 1, 815, "a", now())),
    )
    assert oracle.judge(ordered((1, 1, 1234, "a", now(1)))).kind == "serial"
    assert oracle.judge(ordered((1, 1, 1234, "b", now(1)))).kind == "race"


def test_a_number_that_is_stable_is_business() -> None:
    one = ordered((1, 1, 4711, "a", now()))
    oracle = oracle_of(one, one, ordered((9, 1, 4711, "a", now())))
    assert oracle.judge(ordered((5, 1, 4711, "a", now(1)))).kind == "serial"
    assert oracle.judge(ordered((5, 1, 4712, "a", now(1)))).kind == "race"


def test_a_reference_to_a_row_that_was_there_keeps_its_value() -> None:
    one = ordered((1, 1, 7, "a", None))
    oracle = oracle_of(one, one, ordered((9, 1, 7, "a", None)))
    assert oracle.judge(ordered((5, 2, 7, "a", None))).kind == "race"


def test_an_appointment_in_a_moment_is_no_time_of_the_run() -> None:
    """It was there before: in the window of the second run, but not in that of the first."""
    soon = datetime.now(UTC) + timedelta(seconds=30)
    body = {"starts": soon.isoformat(timespec="seconds")}
    oracle = oracle_of(ordered(body=body), ordered(body=body))
    late = run(state(), reply(201, body), reply(201, body), ended_at=time.time() + 60)
    assert oracle.judge(late).kind == "serial"


def test_a_target_that_gives_something_else_each_time_is_told() -> None:
    oracle = Oracle(SCHEMA, base=BASE)
    oracle.learn([ordered((1, 1, 7, "a", None)), ordered()])
    assert oracle.unstable is not None
    assert oracle.unstable.rows_differ
    assert "orders" in oracle.unstable.as_repeated()
    oracle = Oracle(SCHEMA, base=BASE)
    oracle.learn([ordered((1, 1, 7, "a", None)), ordered((8, 1, 7, "a", None))])
    assert oracle.unstable is None


@pytest.mark.parametrize("signed", ["y", ".eJxVjDsOwyAQRO9CHSExkDK9:1tDPxz:q3Wm8"])
def test_a_session_that_is_signed_anew_each_second_is_no_change(signed: str) -> None:
    """Saved in the second in which it was made, it is as before; a second later it is not."""
    first = run(state(stock=[(1, 40, "x")]), reply(), reply())
    later = run(state(stock=[(1, 40, signed)]), reply(), reply())
    oracle = oracle_of(first, first)
    judgement = oracle.judge(later)
    assert (judgement.kind, judgement.suspects_clock) == ("race", True)
    oracle.learn([first, later])
    assert oracle.judge(later).kind == "serial"
    assert oracle.judge(run(state(stock=[(1, 41, signed)]), reply(), reply())).kind == "race"


def test_a_row_that_is_only_touched_is_as_before() -> None:
    """Last seen: equal to what was there if the clock has not moved on since."""
    untouched = run(state(), reply(), reply())
    oracle = oracle_of(untouched, untouched)
    assert oracle.judge(run(state(stock=[(1, 100, now())]), reply(), reply())).kind == "serial"
    token = run(state(stock=[(1, 100, "y")]), reply(), reply())
    assert oracle.judge(token).suspects_clock
    oracle.learn([untouched, token])
    assert oracle.judge(token).kind == "serial"
    assert oracle.judge(taken(99, reply(), reply())).kind == "race"
    oracle.learn([untouched, taken(99, reply(), reply())])
    assert oracle.judge(taken(99, reply(), reply())).kind == "race"


# Invariants


def never_below_50(rows: dict[str, list[dict[str, Any]]]) -> bool:
    return all(row["on_hand"] >= 50 for row in rows["stock"])


def no_orders(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert not rows["orders"], f"{len(rows['orders'])} orders"


def test_an_invariant_that_only_a_schedule_breaks_is_a_race() -> None:
    fine = taken(70, reply(), reply())
    oracle = oracle_of(fine, fine, invariants=[never_below_50, no_orders])
    judgement = oracle.judge(taken(40, reply(), reply()))
    assert (judgement.kind, judgement.suspects_clock) == ("race", False)
    assert judgement.differences[0] == "the invariant never_below_50 is broken"
    judgement = oracle.judge(ordered((1, 1, 7, "a", None)))
    assert judgement.differences[0] == "the invariant no_orders is broken: 1 orders"
    assert oracle.judge(fine).kind == "serial"


def test_an_invariant_that_is_broken_in_order_too_is_told_as_that() -> None:
    below = taken(40, reply(), reply())
    judgement = oracle_of(below, below, invariants=[never_below_50]).judge(below)
    assert judgement.kind == "invariant-serial"
    assert judgement.differences == ("the invariant never_below_50 is broken",)


def test_an_invariant_sees_the_tables_that_no_run_touched() -> None:
    oracle = Oracle(SCHEMA, [never_below_50], base=BASE)
    untouched = run({"orders": BASE["orders"]}, reply(), reply())
    oracle.add_serial((0, 1), (None, None), untouched)
    assert oracle.judge(untouched).kind == "serial"


def test_an_invariant_that_cannot_be_checked_is_an_error_of_the_caller() -> None:
    def wrong(rows: dict[str, list[dict[str, Any]]]) -> bool:
        return bool(rows["no such table"])

    with pytest.raises(ConfigError, match=r"invariant wrong raised KeyError"):
        Oracle(SCHEMA, [wrong], base=BASE).add_serial((0, 1), (None, None), FIRST)


# Three


def test_three_operations_are_compared_with_all_orders() -> None:
    oracle = Oracle(SCHEMA, base=BASE)
    refused = run(state(), reply(), reply(409), reply(409))
    wanted = oracle.wants(refused)
    assert len([key for key in wanted if key[1] == (None, None, None)]) == 6
    assert ((0,), (None, 0, 0)) in wanted
    assert len(wanted) == len(set(wanted)) == 6 + 2 + 2 + 1
    with pytest.raises(ValueError, match="no serial run"):
        oracle.judge(refused)


def test_a_run_without_a_state_is_not_judged() -> None:
    with pytest.raises(ValueError, match="without a state"):
        oracle_of(FIRST, SECOND).judge(Run((), [], FIRST.answers, None, problem="it hung"))
