"""The limiter in the database: its rows, its clock, and a database that is away."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session
from tests.support.patience import with_more_time
from tests.support.pg_server import PgServer
from tests.traffic.windows import Model, bursts

from crowdsafe.errors import ConfigError, DatabaseUnavailable, DeadlineExceeded
from crowdsafe.store import AsyncStore, Settings, Store
from crowdsafe.traffic import DatabaseLimiter, Rate, check_rate
from crowdsafe.traffic.rates.database import _together, peek_rate
from crowdsafe.traffic.rows import RateRow, drop_idle, save_rows

TABLE: Any = RateRow.__table__


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    with Store(db_url) as opened:
        opened.create_all()
        yield opened


def check(store: Store, rate: Rate, key: str = "a") -> Any:
    return store.write(check_rate, rate, name="test", key=key)


def put(store: Store, times_us: list[int], key: str = "a") -> None:
    """A row as it would be after requests at these moments."""

    def write(session: Session) -> None:
        session.add(RateRow(name="test", key=key, state=b"", ends_us=0))
        session.flush()
        save_rows(session, TABLE, "test", {key: (array("q", times_us).tobytes(), times_us[-1])})

    store.write(write)


def rows(store: Store) -> int:
    return store.read(lambda session: session.scalar(select(func.count()).select_from(TABLE)) or 0)


def test_threads_and_scripts_have_it_as_a_function(store: Store) -> None:
    rate = Rate(2, 60.0)
    assert [check(store, rate).allowed for _ in range(3)] == [True, True, False]


def test_to_peek_counts_nothing(store: Store) -> None:
    rate = Rate(2, 60.0)
    for said in (True, True, False, False):
        looked = [store.read(peek_rate, rate, name="test", key="a") for _ in range(3)]
        assert [one.allowed for one in looked] == [said] * 3
        decision = check(store, rate)
        assert decision.allowed == said
        assert looked[-1].remaining == decision.remaining
        assert looked[-1].retry_after_s == pytest.approx(decision.retry_after_s, abs=30)


def test_an_async_limiter_on_a_plain_store_works_in_threads(store: Store) -> None:
    async def run() -> None:
        limiter = DatabaseLimiter(store, Rate(10, 60.0), name="test")
        decisions = await asyncio.gather(*(limiter.check("a") for _ in range(40)))
        assert sum(decision.allowed for decision in decisions) == 10

    asyncio.run(run())


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_decisions_are_those_of_the_rule(
    limit: int, sqlite_url: str, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Rate(limit, 2.0)
    model = Model(rate)
    with Store(sqlite_url, Settings(synchronous="NORMAL")) as store:
        store.create_all()
        for now in bursts(rng, rate, 400):
            now_us = round(now * 1e6)
            monkeypatch.setattr("crowdsafe.traffic.rows.time.time_ns", lambda us=now_us: us * 1000)
            key = rng.choice("aab")
            found, wanted = check(store, rate, key), model.check(key, now_us / 1e6)
            assert (found.allowed, found.remaining) == (wanted.allowed, wanted.remaining)
            assert found.reset_s == pytest.approx(wanted.reset_s, abs=1e-5)
            assert found.retry_after_s == pytest.approx(wanted.retry_after_s, abs=1e-5)


def test_a_request_whose_transaction_is_undone_does_not_count(store: Store) -> None:
    rate = Rate(1, 60.0)

    def undone(session: Session) -> None:
        assert check_rate(session, rate, name="test", key="a").allowed
        raise ValueError("undo")

    with pytest.raises(ValueError, match="undo"):
        store.write(undone)
    assert check(store, rate).allowed


def test_it_works_in_a_session_that_no_store_drives(store: Store) -> None:
    engine = create_engine(store.url)
    allowed = []
    for _ in range(3):
        with Session(engine) as session:
            allowed.append(check_rate(session, Rate(2, 60.0), name="test", key="a").allowed)
            session.commit()
    engine.dispose()
    assert allowed == [True, True, False]


def test_a_clock_that_goes_back_neither_lets_more_in_nor_shuts_out_for_longer(
    store: Store,
) -> None:
    """Times from an hour ahead are what a clock leaves that has gone back by an hour."""

    def goes_back(window_s: float) -> None:
        ahead_us = int((time.time() + 3600) * 1e6)
        rate, key = Rate(4, window_s), f"{window_s}"
        put(store, [ahead_us - n * 1000 for n in (3, 2, 1)], key)
        assert check(store, rate, key).allowed
        refused = check(store, rate, key)
        assert not refused.allowed
        assert 0.4 * window_s < refused.retry_after_s <= window_s
        time.sleep(refused.retry_after_s + 0.01)
        assert check(store, rate, key).allowed

    with_more_time(goes_back, 0.5, 8.0)


def test_a_row_holds_no_more_than_its_limit(store: Store) -> None:
    rate = Rate(5, 0.05)
    for _ in range(60):
        check(store, rate)
        time.sleep(0.002)
    states = store.read(lambda session: list(session.scalars(select(TABLE.c.state))))
    assert len(states) == 1
    assert len(states[0]) <= 5 * 8


def test_rows_whose_window_has_passed_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five at once: no check tidies before, as one in 500 would."""
    monkeypatch.setattr("crowdsafe.traffic.rates.database._TIDY_EVERY", 10**12)
    for n in range(5):
        check(store, Rate(1, 0.01), key=f"idle {n}")
    check(store, Rate(1, 60.0), key="busy")
    time.sleep(0.05)
    now_us = int((time.time() + 1) * 1e6)
    assert store.write(drop_idle, TABLE, "test", now_us) == 5
    assert store.write(drop_idle, TABLE, "other", now_us) == 0
    assert rows(store) == 1
    assert not check(store, Rate(1, 60.0), key="busy").allowed


def test_tidying_keeps_pace_with_keys_that_come_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdsafe.traffic.rates.database._TIDY_EVERY", 10)
    for n in range(120):
        check(store, Rate(1, 0.001), key=f"key {n}")
    assert rows(store) < 100


def test_checks_of_many_keys_share_their_statements(db_url: str) -> None:
    runs: list[int] = []

    async def run(monkeypatch: pytest.MonkeyPatch) -> None:
        real = _together.run

        def counted(session: Session, calls: Any) -> Any:
            runs.append(len(calls))
            return real(session, calls)

        monkeypatch.setattr(_together, "run", counted)
        async with AsyncStore(db_url) as store:
            await store.create_all()
            limiter = DatabaseLimiter(store, Rate(7, 60.0), name="test")
            decisions = await asyncio.gather(*(limiter.check(f"key {n % 20}") for n in range(400)))
            assert sum(decision.allowed for decision in decisions) == 7 * 20

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(run(monkeypatch))
    assert sum(runs) >= 400
    assert len(runs) <= 60


def test_a_limit_that_makes_rows_too_large_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="use ValkeyLimiter"):
        DatabaseLimiter(store, Rate(10_001, 60.0), name="test")


@pytest.mark.postgres
def test_nothing_is_allowed_while_the_database_is_away(own_pg_server: PgServer) -> None:
    async def run() -> None:
        settings = Settings(deadline_s=1.5, connect_timeout_s=1)
        async with AsyncStore(own_pg_server.url(), settings) as store:
            await store.create_all()
            limiter = DatabaseLimiter(store, Rate(2, 600.0), name="test")
            assert (await limiter.check("a")).allowed
            await asyncio.to_thread(own_pg_server.kill9)
            start = time.monotonic()
            with pytest.raises((DatabaseUnavailable, DeadlineExceeded)) as away:
                await limiter.check("a")
            assert away.value.status == 503
            assert away.value.retry_after_s
            assert time.monotonic() - start < 20
            await asyncio.to_thread(own_pg_server.start)
            assert [(await limiter.check("a")).allowed for _ in range(2)] == [True, False]

    asyncio.run(run())
