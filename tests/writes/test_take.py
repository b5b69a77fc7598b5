"""``take`` and ``give``: never past the limit, and the ledger tells every change."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from tests.writes.callers import Call, Outcome, calls, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Bin, Movement, Order, Stock

from crowdsafe import AsyncStore, Insufficient, OverLimit, Store, give, take
from crowdsafe.errors import ConfigError, InvalidInput, NotFound
from crowdsafe.writes.counters import QUANTITY_MAX
from crowdsafe.writes.tables import LedgerEntry


def stock_row(on_hand: int = 100, id: int = 7) -> Stock:
    return Stock(id=id, on_hand=on_hand)


def take_some(session: Session, stock_id: int, quantity: int) -> int:
    return take(
        session, Stock.on_hand, quantity, where=Stock.id == stock_id, entry={"kind": "use"}
    ).balance


def give_some(session: Session, stock_id: int, quantity: int, ceiling: int) -> int:
    return give(
        session,
        Stock.on_hand,
        quantity,
        where=Stock.id == stock_id,
        ceiling=ceiling,
        entry={"kind": "return"},
    ).balance


def naive_take(session: Session, stock_id: int, quantity: int) -> int:
    stock = session.get_one(Stock, stock_id)
    if stock.on_hand < quantity:
        raise Insufficient(available=stock.on_hand)
    time.sleep(0.1)
    stock.on_hand -= quantity
    session.add(
        Movement(stock_id=stock_id, quantity=-quantity, balance_after=stock.on_hand, kind="use")
    )
    return stock.on_hand


def read_books(session: Session) -> tuple[int, int, list[int]]:
    on_hand = session.scalars(select(Stock.on_hand)).one()
    moved = session.scalar(select(func.coalesce(func.sum(Movement.quantity), 0)))
    balances = list(session.scalars(select(Movement.balance_after)))
    return on_hand, int(moved or 0), balances


def check_nothing_was_oversold(crowd: Crowd, outcomes: list[Outcome]) -> None:
    """16 callers took 10 each from 100."""
    on_hand, moved, balances = crowd.do(read_books)
    got = values(outcomes)
    refused = errors(outcomes, Insufficient)
    assert (len(got), len(refused)) == (10, 6)
    assert sorted(got) == sorted(balances) == list(range(0, 100, 10))
    assert [error.available for error in refused] == [0] * 6
    assert (on_hand, moved) == (0, -100)


def test_of_calls_at_once_each_gets_all_or_nothing(crowd: Crowd) -> None:
    crowd.add(stock_row())
    check_nothing_was_oversold(crowd, crowd.run(calls(take_some, [(7, 10)] * 16)))


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    naive.add(stock_row())
    outcomes = naive.run(calls(naive_take, [(7, 10)] * 16))
    with pytest.raises(AssertionError):
        check_nothing_was_oversold(naive, outcomes)
    assert not [outcome.error for outcome in outcomes if isinstance(outcome.error, Insufficient)]


def test_takes_and_gives_at_once_keep_both_limits(crowd: Crowd) -> None:
    crowd.add(stock_row(50))
    todo = [Call(take_some, (7, 30)), Call(give_some, (7, 30, 100))] * 8
    outcomes = crowd.run(todo)
    errors(outcomes, (Insufficient, OverLimit))  # type: ignore[arg-type]
    on_hand, moved, balances = crowd.do(read_books)
    assert on_hand == 50 + moved
    assert all(0 <= balance <= 100 for balance in balances)
    assert len(balances) == len(values(outcomes))


@pytest.mark.parametrize("quantity", [0, -5, 2**53, 10**30, True, 1.5, math.nan, "80", None])
@pytest.mark.parametrize("part", [take, give])
def test_a_quantity_that_is_none_is_refused_and_nothing_is_stored(
    store: Store, part: Any, quantity: Any
) -> None:
    store.write(lambda session: session.add(stock_row()))
    for write in (
        lambda session: part(session, Stock.on_hand, quantity, where=7, entry={"kind": "use"}),
        None,
    ):
        with pytest.raises(InvalidInput) as caught:
            if write:
                store.write(write)
            else:
                store.write(part, Stock.on_hand, quantity, where=7, entry={"kind": "use"})
        assert caught.value.field == "quantity"
        assert len(caught.value.message) <= 200
    assert store.read(read_books) == (100, 0, [])


def test_the_largest_quantity_and_balance(store: Store) -> None:
    store.write(lambda session: session.add(stock_row(0)))
    assert store.write(give, Stock.on_hand, QUANTITY_MAX, where=7, entry={"kind": "x"})
    with pytest.raises(OverLimit) as caught:
        store.write(give, Stock.on_hand, 1, where=7, entry={"kind": "x"})
    assert caught.value.room == 0
    taken = store.write(take, Stock.on_hand, QUANTITY_MAX, where=7, entry={"kind": "x"})
    assert taken.balance == 0


def test_refusals_say_what_is_there(store: Store) -> None:
    store.write(lambda session: session.add(stock_row(100)))
    with pytest.raises(Insufficient) as short:
        store.write(take, Stock.on_hand, 90, where=7, floor=20, entry={"kind": "use"})
    assert (short.value.available, short.value.status) == (80, 400)
    with pytest.raises(OverLimit) as over:
        store.write(give, Stock.on_hand, 30, where=7, ceiling=120, entry={"kind": "use"})
    assert over.value.room == 20
    below = store.write(take, Stock.on_hand, 150, where=7, floor=-60, entry={"kind": "use"})
    assert below.balance == -50
    with pytest.raises(Insufficient) as empty:
        store.write(take, Stock.on_hand, 1, where=7, entry={"kind": "use"})
    assert empty.value.available == 0
    assert store.read(read_books)[:2] == (-50, -150)


def test_rows_that_are_not_there_or_not_one(store: Store) -> None:
    store.write(lambda session: session.add_all([stock_row(5, 1), stock_row(5, 2)]))
    for where in (404, Stock.id == 404, Stock.on_hand == 99):
        with pytest.raises(NotFound):
            store.write(take, Stock.on_hand, 1, where=where, entry={"kind": "use"})
    with pytest.raises(InvalidInput, match="more than one row"):
        store.write(take, Stock.on_hand, 1, where=Stock.on_hand == 5, entry={"kind": "use"})
    for where in (None, True, 1.5, [1]):
        with pytest.raises(InvalidInput):
            store.write(take, Stock.on_hand, 1, where=where, entry={"kind": "use"})
    assert store.read(lambda session: session.scalars(select(Movement)).all()) == []


def test_a_condition_may_name_the_row(store: Store) -> None:
    store.write(lambda session: session.add_all([stock_row(5, 1), stock_row(9, 2)]))
    taken = store.write(take, Stock.on_hand, 4, where=Stock.on_hand > 5, entry={"kind": "use"})
    assert (taken.key, taken.balance, taken.quantity) == (2, 5, 4)


def test_a_column_without_a_ledger_is_kept_in_the_common_one(store: Store) -> None:
    store.write(lambda session: session.add(Bin(code="A-1", filled=3)))
    taken = store.write(take, Bin.filled, 2, where="A-1", entry={"why": "sale", "lines": [1, 2]})

    def read(session: Session) -> tuple[Any, ...]:
        entry = session.scalars(select(LedgerEntry)).one()
        row = (entry.counter, entry.row_key, entry.delta, entry.balance, entry.entry)
        return (entry.id, *row)

    assert store.read(read) == (
        taken.entry_id,
        "bins.filled",
        "A-1",
        -2,
        1,
        {"why": "sale", "lines": [1, 2]},
    )


def test_a_loaded_row_shows_the_new_balance(store: Store) -> None:
    def work(session: Session) -> tuple[int, int]:
        row = session.get_one(Stock, 7)
        before = row.on_hand
        row.on_hand = 60
        take(session, Stock.on_hand, 10, where=7, entry={"kind": "use"})
        return before, row.on_hand

    store.write(lambda session: session.add(stock_row()))
    assert store.write(work) == (100, 50)


def test_what_is_no_column_is_a_mistake_in_the_code(store: Store) -> None:
    with pytest.raises(ConfigError):
        store.write(take, "on_hand", 1, where=7)  # type: ignore[arg-type]


class TestTogether:
    """Calls that come at the same time are combined into a few statements."""

    @staticmethod
    def at_once(url: str, todo: list[Call]) -> list[Outcome]:
        from tests.writes.callers import from_tasks

        return from_tasks(url, None, todo)

    @staticmethod
    def call(quantity: int, where: Any = 7, part: Any = take, **kwargs: Any) -> Call:
        return Call(
            part,
            (Stock.on_hand, quantity),
            {"where": where, "entry": {"kind": "use"}, **kwargs},
        )

    def test_64_tasks_share_few_transactions(self, db_url: str, store: Store) -> None:
        store.write(lambda session: session.add(stock_row(1000)))
        outcomes = self.at_once(db_url, [self.call(10)] * 64)
        assert [outcome.value.balance for outcome in outcomes] == list(range(990, 350, -10))
        ids = [outcome.value.entry_id for outcome in outcomes]
        assert ids == sorted(set(ids))
        assert store.read(read_books)[:2] == (360, -640)

    def test_a_big_one_is_refused_and_a_later_small_one_gets_it(
        self, db_url: str, store: Store
    ) -> None:
        store.write(lambda session: session.add(stock_row(100)))
        outcomes = self.at_once(db_url, [self.call(q) for q in (60, 50, 40, 1)])
        assert [getattr(o.value, "balance", None) for o in outcomes] == [40, None, 0, None]
        assert [getattr(o.error, "available", None) for o in outcomes] == [None, 40, None, 0]

    def test_mixed_failures_hurt_nobody_else(self, db_url: str, store: Store) -> None:
        store.write(lambda session: session.add_all([stock_row(100, 7), stock_row(5, 8)]))
        outcomes = self.at_once(
            db_url,
            [
                self.call(10),
                self.call(10, 404),
                self.call(10, 8),
                self.call(3, 8, part=give, ceiling=9),
                self.call(2, 8, part=give, ceiling=9),
                self.call(-1),
                self.call(20),
            ],
        )
        found = [o.value.balance if o.value else type(o.error).__name__ for o in outcomes]
        assert found == [90, "NotFound", "Insufficient", 8, "OverLimit", "InvalidInput", 70]

    @pytest.mark.parametrize(
        ("entry", "kind"),
        [
            ({"kind": "forbidden"}, IntegrityError),
            ({}, IntegrityError),
            ({"kind": "use", "no_such_column": 1}, Exception),
        ],
    )
    def test_one_bad_entry_in_a_batch_hurts_no_neighbour(
        self, db_url: str, store: Store, entry: dict[str, Any], kind: type[Exception]
    ) -> None:
        store.write(lambda session: session.add(stock_row(100)))
        todo = [self.call(10) for _ in range(9)]
        todo[4] = Call(take, (Stock.on_hand, 10), {"where": 7, "entry": entry})
        outcomes = self.at_once(db_url, todo)
        assert isinstance(outcomes[4].error, kind)
        rest = outcomes[:4] + outcomes[5:]
        assert [o.value.balance for o in rest] == list(range(90, 10, -10))
        assert store.read(read_books)[:2] == (20, -80)

    def test_a_key_of_another_spelling_gets_the_same_answer_as_alone(
        self, db_url: str, store: Store
    ) -> None:
        store.write(lambda session: session.add(stock_row(100)))
        alone = store.write(take, Stock.on_hand, 1, where="7", entry={"kind": "use"})
        together = self.at_once(db_url, [self.call(1, "7") for _ in range(4)])
        assert alone.balance == 99
        assert [o.value and o.value.balance for o in together] == [98, 97, 96, 95]

    def test_with_other_writes_on_the_row_in_their_own_lanes(
        self, db_url: str, store: Store
    ) -> None:
        store.write(lambda session: session.add(stock_row(1000)))
        todo = [
            self.call(1) if n % 2 else Call(take_some, (7, 1), {"lane": n % 3}) for n in range(60)
        ]
        outcomes = self.at_once(db_url, todo)
        assert not errors(outcomes, Insufficient)
        assert store.read(read_books)[:2] == (940, -60)


amounts = st.integers(1, 60)
steps = st.lists(
    st.tuples(st.sampled_from(["take", "give"]), st.sampled_from([1, 2, 3]), amounts),
    min_size=1,
    max_size=20,
)


class Model:
    """What takes and gives do, in the plainest words: rows 1 and 2 exist, 3 does not."""

    def __init__(self) -> None:
        self.on_hand = {1: 50, 2: 100}

    def do(self, what: str, row: int, quantity: int) -> Any:
        if row not in self.on_hand:
            return "NotFound"
        after = self.on_hand[row] + (quantity if what == "give" else -quantity)
        if after < 0:
            return ("Insufficient", self.on_hand[row])
        if after > 120 and what == "give":
            return ("OverLimit", 120 - self.on_hand[row])
        self.on_hand[row] = after
        return after


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(todo=steps)
def test_any_sequence_does_what_the_model_does_alone_and_together(
    db_url: str, store: Store, todo: list[tuple[str, int, int]]
) -> None:
    model = Model()
    expected = [model.do(*step) for step in todo]
    for way in (_one_by_one, _together):
        store.write(_reset)
        assert asyncio.run(way(db_url, todo)) == expected
        after = store.read(_sums)
        assert after == {row: (on_hand, on_hand) for row, on_hand in model.on_hand.items()}


def _reset(session: Session) -> None:
    session.query(Movement).delete()
    session.query(Stock).delete()
    session.add_all([stock_row(50, 1), stock_row(100, 2)])


def _sums(session: Session) -> dict[int, tuple[int, int]]:
    """For each row what is on hand, and what the ledger says that there should be."""
    start = {1: 50, 2: 100}
    query = (
        select(Stock.id, Stock.on_hand, func.coalesce(func.sum(Movement.quantity), 0))
        .outerjoin(Movement)
        .group_by(Stock.id)
    )
    return {row: (on_hand, start[row] + int(sum_)) for row, on_hand, sum_ in session.execute(query)}


async def _one(store: AsyncStore, what: str, row: int, quantity: int) -> Any:
    kwargs: dict[str, Any] = {"where": row, "entry": {"kind": "use"}}
    part: Any = take if what == "take" else give
    if what == "give":
        kwargs["ceiling"] = 120
    try:
        return (await store.write(part, Stock.on_hand, quantity, **kwargs)).balance
    except NotFound:
        return "NotFound"
    except (Insufficient, OverLimit) as error:
        return type(error).__name__, next(iter(error.data.values()))


async def _one_by_one(url: str, todo: list[tuple[str, int, int]]) -> list[Any]:
    async with AsyncStore(url) as store:
        return [await _one(store, *step) for step in todo]


async def _together(url: str, todo: list[tuple[str, int, int]]) -> list[Any]:
    async with AsyncStore(url) as store:
        return list(await asyncio.gather(*(_one(store, *step) for step in todo)))


def test_an_unflushed_row_counts(store: Store) -> None:
    def work(session: Session) -> int:
        session.add(stock_row(10, 9))
        session.add(Order(id=1))
        return take_some(session, 9, 4)

    assert store.write(work) == 6


@pytest.mark.parametrize("key", [10**30, -(10**30), "seven", True])
def test_a_key_that_the_column_cannot_hold_is_refused(store: Store, key: Any) -> None:
    with pytest.raises(InvalidInput):
        store.write(take, Stock.on_hand, 1, where=key)
