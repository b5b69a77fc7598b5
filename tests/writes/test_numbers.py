"""``next_number`` and ``number_block``: no number twice, and none missing where none may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from tests.writes.callers import Call, Outcome, calls, errors, from_tasks, values
from tests.writes.conftest import Crowd
from tests.writes.models import Invoice

from crowdsafe import Store, next_number, number_block
from crowdsafe.errors import InvalidInput, Refused


def invoice(session: Session, fails: bool) -> int:
    number = next_number(session, "invoice", scope="2026")
    session.add(Invoice(number=number))
    if fails:
        raise Refused("no invoice after all")
    return number


def naive_invoice(session: Session, fails: bool) -> int:
    number = (session.scalar(select(func.max(Invoice.number))) or 0) + 1
    time.sleep(0.1)
    session.add(Invoice(number=number))
    if fails:
        raise Refused("no invoice after all")
    return number


def read_numbers(session: Session) -> list[int]:
    return list(session.scalars(select(Invoice.number).order_by(Invoice.number)))


def check_no_gap_and_none_twice(crowd: Crowd, outcomes: list[Outcome]) -> None:
    """Of 16 callers every fourth fails after it took its number."""
    assert len(errors(outcomes, Refused)) == 4
    assert sorted(values(outcomes)) == list(range(1, 13))
    assert crowd.do(read_numbers) == list(range(1, 13))


TODO = [(n % 4 == 3,) for n in range(16)]


def test_failures_leave_no_gap(crowd: Crowd) -> None:
    check_no_gap_and_none_twice(crowd, crowd.run(calls(invoice, TODO)))


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    outcomes = naive.run(calls(naive_invoice, TODO))
    with pytest.raises(AssertionError):
        check_no_gap_and_none_twice(naive, outcomes)


def a_number(session: Session) -> range:
    number = next_number(session, "mixed")
    return range(number, number + 1)


def a_block(session: Session, size: int) -> range:
    return number_block(session, "mixed", size)


def test_blocks_and_numbers_do_not_overlap(crowd: Crowd) -> None:
    todo = [Call(a_number), Call(a_block, (10,)), Call(a_block, (3,))] * 4
    outcomes = crowd.run(todo)
    assert not errors(outcomes, Refused)
    given = sorted(number for block in values(outcomes) for number in block)
    assert given == list(range(1, 4 * 14 + 1))
    assert [len(block) for block in values(outcomes)] == [1, 10, 3] * 4


def naive_block(session: Session, size: int) -> range:
    last = session.scalar(select(func.max(Invoice.number))) or 0
    time.sleep(0.1)
    session.add(Invoice(number=last + size))
    return range(last + 1, last + size + 1)


def test_naive_blocks_do_overlap(naive: Crowd) -> None:
    given = [
        number for block in values(naive.run(calls(naive_block, [(5,)] * 6))) for number in block
    ]
    assert len(given) != len(set(given))


def test_calls_together_are_numbered_in_their_order(db_url: str, store: Store) -> None:
    names = ["ab"[n // 8 % 2] for n in range(64)]  # on SQLite neighbours alone are done together
    todo = [Call(next_number, (name,), {"scope": "x"}) for name in names]
    outcomes = list(zip(names, from_tasks(db_url, None, todo), strict=True))
    for name in "ab":
        assert values([each for of, each in outcomes if of == name]) == list(range(1, 33))
    assert store.write(next_number, "a") == 1, "another scope counts for itself"


def test_from_processes_with_combined_calls(crowd: Crowd) -> None:
    outcomes = crowd.run([Call(next_number, ("direct",))] * 16)
    assert sorted(values(outcomes)) == list(range(1, 17))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda session: next_number(session, ""),
        lambda session: next_number(session, "x" * 81),
        lambda session: next_number(session, None),  # type: ignore[arg-type]
        lambda session: next_number(session, "x", scope="y" * 81),
        lambda session: next_number(session, "x", scope=2026),  # type: ignore[arg-type]
        lambda session: number_block(session, "x", 0),
        lambda session: number_block(session, "x", -1),
        lambda session: number_block(session, "x", 10**6 + 1),
        lambda session: number_block(session, "x", True),
        lambda session: number_block(session, "x", 2.0),  # type: ignore[arg-type]
    ],
)
def test_bad_input(store: Store, wrong: Callable[[Session], Any]) -> None:
    with pytest.raises(InvalidInput):
        store.write(wrong)


def test_bad_input_of_a_combined_call(store: Store) -> None:
    with pytest.raises(InvalidInput):
        store.write(next_number, "")
    assert store.write(next_number, "x" * 80, scope="y" * 80) == 1


def test_a_deleted_row_does_not_bring_its_number_back(store: Store) -> None:
    assert store.write(invoice, False) == 1
    store.write(lambda session: session.query(Invoice).delete())
    assert store.write(invoice, False) == 2
