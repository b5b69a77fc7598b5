"""``once``: for one scope and key the effects happen once."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from tests.writes.callers import Call, Outcome, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Payment

from crowdsafe import KeyReused, Store, once
from crowdsafe.errors import CrowdsafeError, InvalidInput, Refused
from crowdsafe.store import utcnow
from crowdsafe.writes import forget_once
from crowdsafe.writes.tables import OnceRecord


def pay(session: Session, key: str, cents: int, scope: str = "user:1") -> tuple[Any, bool]:
    def effect() -> dict[str, Any]:
        payment = Payment(reference=key, cents=cents)
        session.add(payment)
        session.flush()
        return {"payment": payment.id, "cents": cents, "note": None}

    done = once(session, key, effect, request={"cents": cents}, scope=scope)
    return done.answer, done.replayed


def naive_pay(session: Session, key: str, cents: int) -> tuple[Any, bool]:
    """Look whether it was done, do it, write down that it was done."""
    found = session.scalars(select(Payment).where(Payment.reference == key)).first()
    if found is not None:
        return {"payment": found.id, "cents": found.cents, "note": None}, True
    time.sleep(0.1)
    payment = Payment(reference=key, cents=cents)
    session.add(payment)
    session.flush()
    return {"payment": payment.id, "cents": cents, "note": None}, False


def count(session: Session) -> tuple[int, int]:
    return len(session.scalars(select(Payment)).all()), len(
        session.scalars(select(OnceRecord)).all()
    )


def check_paid_once(crowd: Crowd, outcomes: list[Outcome]) -> None:
    assert not errors(outcomes, CrowdsafeError)
    answers = [answer for answer, _ in values(outcomes)]
    assert answers == [answers[0]] * len(outcomes)
    assert [replayed for _, replayed in values(outcomes)].count(False) == 1
    assert crowd.do(count)[0] == 1


def test_calls_at_once_pay_once_and_answer_alike(crowd: Crowd) -> None:
    check_paid_once(crowd, crowd.run([Call(pay, ("k1", 500))] * 12))
    assert crowd.do(pay, "k1", 500)[1]


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    outcomes = naive.run([Call(naive_pay, ("k1", 500))] * 8)
    with pytest.raises(AssertionError):
        check_paid_once(naive, outcomes)


def test_another_request_under_the_key_is_refused_at_once_too(crowd: Crowd) -> None:
    outcomes = crowd.run([Call(pay, ("k1", 500)), Call(pay, ("k1", 900))] * 5)
    errors(outcomes, KeyReused)
    assert len(values(outcomes)) == 5
    assert len({answer["cents"] for answer, _ in values(outcomes)}) == 1
    assert crowd.do(count) == (1, 1)


def test_other_scopes_and_keys_do_not_meet(crowd: Crowd) -> None:
    todo = [Call(pay, (f"k{n % 2}", n), {"scope": f"user:{n // 2}"}) for n in range(8)]
    outcomes = crowd.run(todo)
    assert [answer["cents"] for answer, _ in values(outcomes)] == list(range(8))
    assert not any(replayed for _, replayed in values(outcomes))


def fail_then_pay(session: Session, key: str) -> Any:
    def effect() -> None:
        session.add(Payment(reference=key, cents=1))
        raise Refused("no money")

    return once(session, key, effect, request={"cents": 1}, scope="user:1")


def test_a_call_that_raises_leaves_nothing_and_the_next_one_runs(store: Store) -> None:
    with pytest.raises(Refused, match="no money"):
        store.write(fail_then_pay, "k1")
    assert store.read(count) == (0, 0)
    assert store.write(pay, "k1", 1)[1] is False


def test_a_caught_failure_leaves_nothing_either(store: Store) -> None:
    """The write goes on after the failure and commits: the key must not be stuck for ever."""

    def work(session: Session) -> str:
        with pytest.raises(Refused):
            fail_then_pay(session, "k1")
        return "went on"

    assert store.write(work) == "went on"
    assert store.read(count) == (0, 0)
    assert store.write(pay, "k1", 1)[1] is False


@pytest.mark.parametrize(
    "answer",
    [None, 0, "", [], {}, "ä\n☃", {"b": 1, "a": [None, True, 2.5]}, 2**53, "x" * 900_000],
    ids=lambda answer: str(answer)[:12],
)
def test_answers_come_back_as_they_were(store: Store, answer: Any) -> None:
    def work(session: Session) -> Any:
        return once(session, "k", lambda: answer, request=[1], scope="s")

    first, second = store.write(work), store.write(work)
    assert (first.answer, first.replayed) == (answer, False)
    assert (second.answer, second.replayed) == (answer, True)


@pytest.mark.parametrize("answer", [object(), {1, 2}, math.nan, "x" * 1_000_001])
def test_answers_that_cannot_be_stored_are_refused(store: Store, answer: Any) -> None:
    def work(session: Session) -> Any:
        session.add(Payment(reference="k", cents=1))
        return once(session, "k", lambda: answer, request=[1], scope="s")

    with pytest.raises(InvalidInput):
        store.write(work)
    assert store.read(count) == (0, 0)


@pytest.mark.parametrize(
    ("key", "scope", "request_"),
    [
        ("", "s", 1),
        ("k" * 256, "s", 1),
        ("k", "", 1),
        ("k", "s" * 201, 1),
        ("k", "s", math.inf),
        ("k", "s", object()),
        (7, "s", 1),
        ("k", None, 1),
        ("k\x00", "s", 1),
    ],
)
def test_bad_input(store: Store, key: Any, scope: Any, request_: Any) -> None:
    with pytest.raises(InvalidInput):
        store.write(lambda s: once(s, key, lambda: 1, request=request_, scope=scope))
    assert store.read(count) == (0, 0)


def test_the_longest_key_and_scope(store: Store) -> None:
    key, scope = "k" * 255, "s" * 200
    done = store.write(lambda s: once(s, key, lambda: 1, request=1, scope=scope))
    assert done.answer == 1


def test_the_order_of_the_requests_fields_does_not_matter(store: Store) -> None:
    def work(session: Session, request: Any) -> bool:
        return once(session, "k", lambda: 1, request=request, scope="s").replayed

    assert store.write(work, {"a": 1, "b": 2}) is False
    assert store.write(work, {"b": 2, "a": 1}) is True


def test_inside_itself_is_refused(store: Store) -> None:
    def work(session: Session) -> Any:
        return once(
            session, "k", lambda: pay(session, "k", 1), request={"cents": 1}, scope="user:1"
        )

    with pytest.raises(InvalidInput):
        store.write(work)
    assert store.read(count) == (0, 0)


def test_forgetting_old_records(store: Store) -> None:
    for n in range(5):
        store.write(pay, f"k{n}", 1)
    assert store.write(forget_once, before=utcnow() - timedelta(days=1)) == 0
    assert store.write(forget_once, before=utcnow() + timedelta(seconds=1), limit=3) == 3
    assert store.write(forget_once, before=utcnow() + timedelta(seconds=1)) == 2
    assert store.read(count) == (5, 0)
