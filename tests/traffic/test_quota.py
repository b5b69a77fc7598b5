"""Quotas as one caller meets them: what is reserved is charged or comes back; bad input."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import Session
from tests.traffic.quota_crowd import (
    NOW,
    after,
    books,
    hold,
    new_key,
    prepare,
    state,
)

from crowdsafe import Store
from crowdsafe.errors import (
    InvalidInput,
    KeyReused,
    NotFound,
    QuotaExceeded,
    ReservationEnded,
)
from crowdsafe.store.database import parse_url
from crowdsafe.traffic.quota import (
    Period,
    charge,
    day,
    expire_reservations,
    extend,
    forget_quotas,
    hour,
    month,
    quota_state,
    refund,
    reserve,
)
from crowdsafe.traffic.quota.tables import QuotaReservation


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    prepare(db_url)
    with Store(db_url) as opened:
        yield opened


def test_what_is_reserved_is_charged_or_comes_back(store: Store) -> None:
    key = new_key()
    first, second = store.write(hold, key, 3, 2), store.write(hold, key, 3)
    seen = store.read(state, key, 3)
    assert (seen.limit, seen.used, seen.reserved, seen.left) == (3, 0, 3, 0)
    assert {type(number) for number in (seen.used, seen.reserved, seen.left)} == {int}
    assert store.write(charge, first) is True
    assert store.write(refund, second) is True
    seen = store.read(state, key, 3)
    assert (seen.used, seen.reserved, seen.left) == (2, 0, 1)
    assert store.write(charge, first) is False
    assert store.write(refund, second) is False
    with pytest.raises(ReservationEnded, match="charged"):
        store.write(refund, first)
    with pytest.raises(ReservationEnded, match="refunded"):
        store.write(charge, second)
    for ended in (first, second):
        with pytest.raises(ReservationEnded):
            store.write(extend, ended, 60)
    assert store.read(books, key) == (2, 0, 2, 0)


def test_an_undone_write_leaves_nothing(store: Store) -> None:
    key = new_key()

    def work(session: Session) -> None:
        hold(session, key, 1)
        raise RuntimeError("the rest failed")

    with pytest.raises(RuntimeError):
        store.write(work)
    assert store.read(books, key) == (0, 0, 0, 0)
    assert store.write(hold, key, 1)


@pytest.mark.parametrize("swept", [False, True])
def test_an_expired_reservation_does_not_count(store: Store, swept: bool) -> None:
    key = new_key()
    late = store.write(hold, key, 1, now=NOW)
    with pytest.raises(QuotaExceeded) as caught:
        store.write(hold, key, 1, now=after(59.9))
    assert caught.value.retry_after_s == pytest.approx(0.1)
    if swept:
        assert store.write(expire_reservations, now=after(60)) >= 1
    seen = store.read(state, key, 1, now=after(60))
    assert (seen.used, seen.reserved, seen.left) == (0, 0, 1)
    assert store.write(hold, key, 1, now=after(60))
    with pytest.raises(ReservationEnded, match="no room"):
        store.write(charge, late, now=after(61))
    with pytest.raises(ReservationEnded, match="no room"):
        store.write(extend, late, 60, now=after(61))
    assert store.write(refund, late, now=after(62)) is True
    with pytest.raises(ReservationEnded):
        store.write(charge, late, now=after(500))
    assert store.read(books, key) == (0, 1, 0, 1)


@pytest.mark.parametrize("swept", [False, True])
def test_an_expired_reservation_is_charged_when_there_is_room(store: Store, swept: bool) -> None:
    key = new_key()
    late = store.write(hold, key, 2, now=NOW)
    other = store.write(hold, key, 2, now=after(30))
    if swept:
        store.write(expire_reservations, now=after(61))
    assert store.write(charge, late, now=after(61)) is True
    assert store.write(charge, late, now=after(62)) is False
    assert store.write(books, key) == (1, 1, 1, 1)
    assert store.write(refund, other, now=after(62)) is True


@pytest.mark.parametrize("swept", [False, True])
def test_extend_lengthens_and_brings_back(store: Store, swept: bool) -> None:
    key = new_key()
    held = store.write(hold, key, 1, now=NOW)
    assert store.write(extend, held, 10, now=NOW).expires_at == after(60)
    assert store.write(extend, held, 100, now=NOW).expires_at == after(100)
    with pytest.raises(QuotaExceeded):
        store.write(hold, key, 1, now=after(99))
    if swept:
        store.write(expire_reservations, now=after(101))
    back = store.write(extend, held, 100, now=after(101))
    assert (back.id, back.amount, back.expires_at) == (held, 1, after(201))
    with pytest.raises(QuotaExceeded):
        store.write(hold, key, 1, now=after(200))
    assert store.read(books, key) == (0, 1, 0, 1)


def test_without_a_limit_it_still_counts(store: Store) -> None:
    key = new_key()
    for _ in range(5):
        store.write(charge, store.write(hold, key, None, 100))
    store.write(hold, key, None, 7)
    seen = store.read(state, key)
    assert (seen.limit, seen.used, seen.reserved, seen.left) == (None, 500, 7, None)
    with pytest.raises(QuotaExceeded) as caught:
        store.write(hold, key, 100)
    assert (caught.value.limit, caught.value.used, caught.value.reserved) == (100, 500, 7)


def test_a_limit_that_shrinks_below_what_is_used(store: Store) -> None:
    key = new_key()
    store.write(charge, store.write(hold, key, 10, 4))
    held = store.write(hold, key, 10, 3)
    with pytest.raises(QuotaExceeded) as caught:
        store.write(hold, key, 2)
    assert (caught.value.limit, caught.value.used, caught.value.reserved) == (2, 4, 3)
    seen = store.read(state, key, 2)
    assert (seen.used, seen.reserved, seen.left) == (4, 3, 0)
    assert store.write(charge, held) is True
    with pytest.raises(QuotaExceeded):
        store.write(hold, key, 0)
    assert store.write(hold, key, 8)


def test_periods_count_apart(store: Store) -> None:
    key = new_key()
    today, tomorrow = day(NOW), day(after(86_400))
    held = store.write(reserve, key, limit=1, period=today, expires_s=86_400, now=NOW)
    assert store.write(reserve, key, limit=1, period=tomorrow, expires_s=60, now=after(86_000))
    assert store.write(charge, held.id, now=after(86_000)) is True
    assert store.read(quota_state, key, today, 1, now=NOW).used == 1
    assert store.read(quota_state, key, tomorrow, 1, now=after(86_000)).used == 0


def test_a_refusal_says_when_to_come_back(store: Store) -> None:
    key = new_key()
    take = {"limit": 1, "period": day(NOW), "expires_s": 60, "now": NOW}
    held = store.write(reserve, key, **take)
    with pytest.raises(QuotaExceeded) as blocked:
        store.write(reserve, key, **take)
    assert blocked.value.retry_after_s == 60
    store.write(charge, held.id, now=NOW)
    with pytest.raises(QuotaExceeded) as used_up:
        store.write(reserve, key, **take)
    assert used_up.value.data == {
        "limit": 1,
        "used": 1,
        "reserved": 0,
        "resets_at": "2026-11-23T00:00:00+00:00",
        "retry_after_s": 6 * 3600,
    }
    with pytest.raises(QuotaExceeded) as never:
        store.write(reserve, key, **{**take, "amount": 2})
    assert never.value.retry_after_s is None


def test_the_same_id_again(store: Store) -> None:
    key = new_key()
    id = f"{key}/7"
    first = store.write(reserve, key, limit=5, period="d", expires_s=60, id=id, now=NOW)
    again = store.write(reserve, key, limit=5, period="e", expires_s=60, id=id, now=after(30))
    assert again == first
    assert store.read(books, key)[1] == 1
    with pytest.raises(KeyReused):
        store.write(hold, key, 5, 2, id=id, now=NOW)
    with pytest.raises(KeyReused):
        store.write(hold, new_key(), 5, id=id, now=NOW)
    with pytest.raises(ReservationEnded):
        store.write(hold, key, 5, id=id, now=after(60))
    store.write(charge, id, now=NOW)
    assert store.write(hold, key, 1, id=id, now=after(60)) == id
    assert store.read(state, key).used == 1


def test_the_sweep_is_bounded_and_complete(store: Store) -> None:
    keys = [new_key() for _ in range(4)]
    store.write(expire_reservations, 10_000, now=after(10_000))

    def fill(session: Session) -> None:
        for key in keys:
            for _ in range(5):
                hold(session, key, None, now=NOW)

    store.write(fill)
    assert store.write(expire_reservations, now=after(59)) == 0
    done = [store.write(expire_reservations, 8, now=after(61)) for _ in range(4)]
    assert done == [8, 8, 4, 0]
    assert [store.read(books, key) for key in keys] == [(0, 0, 0, 0)] * 4


def test_what_is_long_over_is_forgotten(store: Store) -> None:
    key = new_key()
    old, new = day(datetime(2020, 1, 1, tzinfo=UTC)), day(NOW)
    for period in (old, new, Period("always")):
        take = {"limit": 5, "period": period, "now": NOW, "expires_s": 60}
        store.write(charge, store.write(reserve, key, **take).id, now=NOW)
    left = store.write(reserve, key, limit=5, period=old, now=NOW, expires_s=60).id
    before = datetime(2021, 1, 1, tzinfo=UTC)
    assert store.write(forget_quotas, before=before) == 0
    store.write(refund, left, now=NOW)
    assert store.write(forget_quotas, before=before) == 1
    assert store.read(quota_state, key, old, 5).used == 0
    assert store.read(quota_state, key, new, 5).used == 1
    assert store.read(quota_state, key, "always", 5).used == 1
    with pytest.raises(NotFound):
        store.write(charge, left)
    kept = select(QuotaReservation.period).where(QuotaReservation.key == key)
    assert set(store.read(lambda session: list(session.scalars(kept)))) == {new.name, "always"}


def test_what_they_cost(db_url: str) -> None:
    """In a session that is none of the store's, and in statements."""
    prepare(db_url)
    engine = create_engine(parse_url(db_url))
    key = new_key()
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def count(*args: Any) -> None:
        statements.append(args[2])

    def cost(fn: Any, *args: Any, **kwargs: Any) -> Any:
        before = len(statements)
        value = fn(session, *args, **kwargs)
        costs.append(len(statements) - before)
        return value

    costs: list[int] = []
    with Session(engine) as session:
        first = cost(hold, key, 3)
        second = cost(hold, key, 3)
        cost(extend, first, 60)
        cost(charge, first)
        cost(refund, second)
        cost(charge, first)
        cost(quota_state, key, "d", 3)
        with pytest.raises(QuotaExceeded):
            hold(session, key, 1)
        session.commit()
    engine.dispose()
    assert costs == [2, 2, 1, 2, 2, 2, 1]


# Bad input


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("amount", [0, -1, True, 1.0, "1", None, 10**9 + 1]),
        ("limit", [-1, True, 1.5, "3", 2**53]),
        ("expires_s", [0, -1, float("nan"), float("inf"), True, None, "60", 31 * 86_400]),
        ("period", ["", "a" * 41, "a b", "é", "\x00", None, 7, "-x", "a\n"]),
        ("key", ["", "a" * 201, "a\x00", None, 7]),
        ("id", ["", "a" * 81, "\x00", 7]),
    ],
)
def test_bad_input_names_its_field_and_stores_nothing(
    store: Store, field: str, bad: list[Any]
) -> None:
    key = new_key()
    for value in bad:
        good = {"key": key, "limit": 3, "period": "d", "amount": 1, "expires_s": 60, field: value}
        with pytest.raises(InvalidInput) as caught:
            store.write(reserve, good.pop("key"), **good)
        assert caught.value.field == field
    assert store.read(books, key) == (0, 0, 0, 0)


def test_an_unknown_reservation(store: Store) -> None:
    for part in (charge, refund):
        with pytest.raises(NotFound):
            store.write(part, "nobody's")
        with pytest.raises(InvalidInput):
            store.write(part, "")
    with pytest.raises(NotFound):
        store.write(extend, "nobody's", 60)
    with pytest.raises(InvalidInput):
        store.write(extend, "nobody's", 0)


def test_names_of_periods() -> None:
    moment = datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC)
    midnight = datetime(2025, 1, 1, tzinfo=UTC)
    assert hour(moment) == Period("2024-12-31T23", midnight)
    assert day(moment) == Period("2024-12-31", midnight)
    assert month(moment) == Period("2024-12", midnight)
    assert month(datetime(2024, 2, 1, tzinfo=UTC)).ends_at == datetime(2024, 3, 1, tzinfo=UTC)
    assert day().ends_at is not None
    with pytest.raises(InvalidInput):
        Period("x", datetime(2024, 1, 1))  # noqa: DTZ001
