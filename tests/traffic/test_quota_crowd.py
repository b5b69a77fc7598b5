"""Quotas under callers at once, late ones and killed ones: used + reserved stays in the limit."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import DeadlockDetected
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from tests.support.pg_server import PgServer
from tests.traffic.quota_crowd import (
    NOW,
    NaiveQuota,
    after,
    books,
    hold,
    hold_slowly,
    later,
    naive_hold,
    new_key,
    plan_and_charge,
    plans_of,
    prepare,
    serve_until_killed,
    state,
)
from tests.writes.callers import (
    Call,
    Outcome,
    Pair,
    calls,
    errors,
    from_sessions,
    from_tasks,
    from_threads,
    values,
)
from tests.writes.conftest import CASES, Crowd

from crowdsafe import Store
from crowdsafe.errors import (
    QuotaExceeded,
    ReservationEnded,
)
from crowdsafe.store.database import parse_url
from crowdsafe.store.retry import LostRace
from crowdsafe.traffic.quota import (
    charge,
    ending,
    expire_reservations,
    extend,
    refund,
)

CALLERS = 50


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file for all tests here, each with keys of its own."""
    path: Path = tmp_path_factory.mktemp("quota") / "quota.db"
    prepare(f"sqlite:///{path}")
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def pg_database(pg_server: PgServer) -> Iterator[str]:
    name = f"quota_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    prepare(pg_server.url(name))
    yield pg_server.url(name)
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def processes() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_file" if request.param == "sqlite" else "pg_database"
    return str(request.getfixturevalue(name))


@pytest.fixture(
    params=[
        pytest.param(
            case,
            id="-".join(word.replace(" ", "_") for word in case if word),
            marks=[pytest.mark.postgres] if case[0] == "postgresql" else [],
        )
        for case in CASES
    ]
)
def crowd(request: pytest.FixtureRequest) -> Crowd:
    """Each kind of caller in turn."""
    database, kind, isolation = request.param
    url = request.getfixturevalue("sqlite_file" if database == "sqlite" else "pg_database")
    if kind == "processes":
        return Crowd(url, request.getfixturevalue("processes"), isolation)
    run = {"threads": from_threads, "tasks": from_tasks, "sessions": from_sessions}[kind]
    return Crowd(url, run, isolation)


# Callers at once


def check_no_more_than_the_limit(outcomes: list[Outcome], limit: int) -> None:
    refused = errors(outcomes, QuotaExceeded)
    assert (len(values(outcomes)), len(refused)) == (limit, CALLERS - limit)


def test_of_50_callers_as_many_as_the_limit_are_granted(crowd: Crowd) -> None:
    key = new_key()
    outcomes = crowd.run(calls(hold, [(key, 7)] * CALLERS))
    check_no_more_than_the_limit(outcomes, 7)
    assert crowd.do(books, key) == (0, 7, 0, 7)
    refused = errors(outcomes, QuotaExceeded)
    assert {(error.limit, error.used, error.reserved) for error in refused} == {(7, 0, 7)}


def test_the_check_catches_the_naive_version(url: str) -> None:
    key = new_key()
    crowd = Crowd(url, from_sessions, None)
    crowd.add(NaiveQuota(key=key, used=0))
    outcomes = crowd.run(calls(naive_hold, [(key, 7)] * CALLERS))
    granted = [outcome for outcome in outcomes if outcome.value == "granted"]
    assert len(granted) > 7
    with pytest.raises(AssertionError):
        check_no_more_than_the_limit(outcomes, 7)


def test_one_reservation_is_ended_once_in_one_way(crowd: Crowd) -> None:
    key = new_key()
    for _ in range(3):
        reserved = crowd.do(hold, key, 10)
        todo = [Call(plan_and_charge, (reserved, key)), Call(refund, (reserved,))] * 8
        outcomes = crowd.run(todo)
        assert len(errors(outcomes, ReservationEnded)) == 8
        assert sorted(values(outcomes)) == [False] * 7 + [True]
    used, reserved_units, charged, held = crowd.do(books, key)
    assert used == charged == crowd.do(plans_of, key)
    assert reserved_units == held == 0


def test_late_charges_and_new_reservations_share_the_room(crowd: Crowd) -> None:
    """Ten expired reservations are charged while ten others reserve: ten units in all."""
    key = new_key()
    late = [crowd.do(hold, key, 10, expires_s=0.001) for _ in range(10)]
    time.sleep(0.002)
    todo = [*calls(plan_and_charge, [(id, key) for id in late]), *calls(hold, [(key, 10)] * 10)]
    outcomes = crowd.run([*todo, Call(expire_reservations), Call(expire_reservations)])
    charged = values(outcomes[:10])
    held = values(outcomes[10:20])
    errors(outcomes[:10], ReservationEnded)
    errors(outcomes[10:20], QuotaExceeded)
    errors(outcomes[20:], ())  # type: ignore[arg-type]
    assert len(charged) + len(held) == 10
    assert crowd.do(books, key) == (len(charged), len(held), len(charged), len(held))
    assert crowd.do(plans_of, key) == len(charged)


def test_a_late_charge_and_a_late_refund_exclude_each_other(crowd: Crowd) -> None:
    key = new_key()
    reserved = crowd.do(hold, key, 10, expires_s=0.001)
    time.sleep(0.002)
    ways = [Call(charge, (reserved,)), Call(refund, (reserved,)), Call(expire_reservations)]
    outcomes = crowd.run(ways * 5)
    ended = [o for n, o in enumerate(outcomes) if n % 3 < 2]
    assert len(errors(ended, ReservationEnded)) == 5
    assert sorted(values(ended)) == [False] * 4 + [True]
    used, units, charged, held = crowd.do(books, key)
    assert used == charged
    assert units == held == 0


def test_the_same_id_reserves_once(crowd: Crowd) -> None:
    key = new_key()
    outcomes = crowd.run([Call(hold, (key, 1), {"id": f"{key}/job"})] * 16)
    assert values(outcomes) == [f"{key}/job"] * 16
    assert crowd.do(books, key) == (0, 1, 0, 1)


def test_everything_at_once_by_clocks_that_differ_keeps_the_books(
    crowd: Crowd, rng: random.Random
) -> None:
    """Clocks a minute apart see different reservations as expired; the limit holds all the same."""
    key = new_key()
    limit = 6
    ids = [crowd.do(hold, key, limit, now=NOW) for _ in range(5)]

    def some_time() -> dict[str, Any]:
        return {"now": after(rng.choice([-60, 0, 59, 61, 120]))}

    todo = []
    for _ in range(4):
        todo += [Call(reserve_some, (key, limit, rng.randrange(1, 4)), some_time())]
        todo += [Call(charge, (rng.choice(ids),), some_time())]
        todo += [Call(refund, (rng.choice(ids),), some_time())]
        todo += [Call(extend, (rng.choice(ids), 60), some_time())]
        todo += [Call(expire_reservations, (3,), some_time())]
    outcomes = crowd.run(todo)
    # LostRace and deadlocks reach only those whose sessions are not the store's, which would run
    # again. Clocks that differ disagree about which row is locked first.
    answered = [o for o in outcomes if crowd.by_store or not is_deadlock(o.error)]
    errors(answered, (QuotaExceeded, ReservationEnded, LostRace))  # type: ignore[arg-type]
    used, reserved, charged, held = crowd.do(books, key)
    assert (used, reserved) == (charged, held)
    assert used + reserved <= limit


def is_deadlock(error: BaseException | None) -> bool:
    """Whether PostgreSQL undid a transaction to end a circle of waits."""
    return isinstance(error, OperationalError) and isinstance(error.orig, DeadlockDetected)


def reserve_some(session: Session, key: str, limit: int, amount: int, now: datetime) -> str:
    return hold(session, key, limit, amount, now=now)


@pytest.mark.postgres
def test_a_late_charge_that_finds_it_extended_again_meets_no_deadlock(
    pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A has locked the quota's row for an expired reservation when B, which was extending it, ends,
    and C begins to charge it: C then waits for A, so A must not wait for C."""
    engine = create_engine(parse_url(pg_database))
    with Store(pg_database) as store, Session(engine) as b, Session(engine) as c:
        held = store.write(hold, new_key(), 1, now=NOW)
        extend(b, held, 1000, now=NOW)
        charged: list[Any] = []

        def charge_by_c() -> None:
            try:
                charged.append(charge(c, held, now=after(1)))
                c.commit()
            except OperationalError as error:
                charged.append(error.orig)

        third = threading.Thread(target=charge_by_c)
        bring_back = ending._bring_back

        def interrupted(*args: Any) -> bool:
            back = bring_back(*args)
            if not third.ident:
                b.commit()
                third.start()
                wait_for_a_lock(engine)
            return back

        monkeypatch.setattr(ending, "_bring_back", interrupted)
        assert store.write(charge, held, now=after(61)) is False
        third.join(30)
        assert charged == [True]
    engine.dispose()


def wait_for_a_lock(engine: Engine) -> None:
    """Return when somebody in this database waits for somebody else's row."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    end = time.monotonic() + 30
    while True:
        with engine.connect() as connection:
            if connection.execute(waiting).scalar_one():
                return
        assert time.monotonic() < end, "nobody came to wait"
        time.sleep(0.01)


def test_keys_do_not_stand_in_each_others_way(crowd: Crowd) -> None:
    keys = [new_key() for _ in range(16)]
    outcomes = crowd.run(calls(hold_slowly, [(key, 1) for key in keys]))
    assert len(values(outcomes)) == 16


# Death


def test_killed_callers_leave_no_unit_behind(url: str, rng: random.Random) -> None:
    kill_and_check(url, rng, 1)


@pytest.mark.slow
def test_callers_killed_again_and_again_leave_no_unit_behind(url: str, rng: random.Random) -> None:
    kill_and_check(url, rng, 8)


def kill_and_check(url: str, rng: random.Random, kills: int) -> None:
    """Two processes reserve, charge, refund and forget, until both are killed by -9."""
    limit = 400
    context = multiprocessing.get_context("spawn")
    with Store(url) as store:
        for _ in range(kills):
            key = new_key()
            pair = [
                context.Process(
                    target=serve_until_killed, args=(url, key, limit, rng.randrange(2**32))
                )
                for _ in range(2)
            ]
            for process in pair:
                process.start()
            deadline = time.monotonic() + 20
            while store.read(books, key)[0] == 0:
                assert time.monotonic() < deadline, "nothing was charged"
                time.sleep(0.02)
            time.sleep(rng.uniform(0.05, 0.4))
            for process in pair:
                process.kill()
                process.join(10)
            used, reserved, charged, held = store.write(books, key)
            assert used + reserved <= limit
            assert used == charged == store.read(plans_of, key)
            assert reserved == held
            free = store.read(state, key, limit, now=later(10))
            assert (free.used, free.reserved) == (used, 0)
