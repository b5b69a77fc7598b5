"""What the store runs again, how long it waits, and when it gives up."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from tests.store.conftest import Gate
from tests.store.models import Account, Counted, balance, deposit, note, notes

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.errors import (
    CrowdsafeError,
    DeadlineExceeded,
    Overloaded,
    StaleVersion,
)
from crowdsafe.store import LostRace
from crowdsafe.store.retry import Failure, Losses, classify


@pytest.mark.postgres
class TestRealConflicts:
    @pytest.fixture
    def db_url(self, pg_url: str) -> str:
        return pg_url

    def test_a_serialization_failure_is_run_again(self, store: Store, outsider: Engine) -> None:
        attempts: list[int] = []

        def work(session: Session) -> int:
            attempts.append(1)
            row = session.get_one(Account, 1)
            if len(attempts) == 1:
                with outsider.begin() as other:
                    other.execute(text("UPDATE accounts SET balance = 100 WHERE id = 1"))
            row.balance += 1
            return row.balance

        assert store.write(work) == 101
        assert len(attempts) == 2

    def test_without_the_retry_it_would_be_lost(self, store: Store, outsider: Engine) -> None:
        """The same at read committed, where nothing notices: so the test above can fail."""
        attempts: list[int] = []

        def work(session: Session) -> int:
            attempts.append(1)
            row = session.get_one(Account, 1)
            with outsider.begin() as other:
                other.execute(text("UPDATE accounts SET balance = 100 WHERE id = 1"))
            row.balance += 1
            return row.balance

        assert store.write(work, isolation="read committed") == 1
        assert store.read(balance) == 1

    def test_write_skew_is_run_again(self, store: Store) -> None:
        """Two accounts may not be empty together: each withdrawal looks at both."""
        store.write(lambda s: s.execute(text("UPDATE accounts SET balance = 1")))
        barrier = threading.Barrier(2)
        attempts: list[int] = []

        def withdraw(session: Session, account: int) -> bool:
            attempts.append(1)
            together = sum(row.balance for row in session.query(Account))
            if len(attempts) <= 2:
                barrier.wait(10)
            if together < 2:
                return False
            session.get_one(Account, account).balance -= 1
            return True

        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda account: store.write(withdraw, account), (1, 2)))
        assert sorted(done) == [False, True]

    def test_a_deadlock_is_run_again(self, open_store: Callable[..., Store]) -> None:
        store = open_store(lock_timeout_s=8)
        barrier = threading.Barrier(2)
        attempts: list[int] = []

        def move(session: Session, first: int, second: int) -> None:
            attempts.append(1)
            for n, account in enumerate((first, second)):
                session.execute(
                    text("UPDATE accounts SET balance = balance + 1 WHERE id = :id"),
                    {"id": account},
                )
                if n == 0 and len(attempts) <= 2:
                    barrier.wait(10)

        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda pair: store.write(move, *pair, isolation="read committed"),
                    [(1, 2), (2, 1)],
                )
            )
        assert len(attempts) >= 3
        assert store.read(balance) == 2

    def test_a_row_that_stays_locked_ends_with_a_clear_error(
        self, open_store: Callable[..., Store], outsider: Engine
    ) -> None:
        store = open_store(deadline_s=1.5, lock_timeout_s=0.5)
        with outsider.begin() as other:
            other.execute(text("SELECT 1 FROM accounts WHERE id = 1 FOR UPDATE"))
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                store.write(deposit, 5)
            assert time.monotonic() - started < 8, "far below the usual deadline"
            assert caught.value.status == 503
            assert caught.value.retry_after_s
            store.write(deposit, 1, 2, deadline_s=30)
        assert store.read(balance, deadline_s=30) == 0
        assert store.write(deposit, 5, deadline_s=30) == 5

    @pytest.mark.parametrize("lane", [None, "one"])
    def test_a_deadline_shorter_than_the_timeouts_holds(
        self, store: Store, outsider: Engine, lane: str | None
    ) -> None:
        with outsider.begin() as other:
            other.execute(text("SELECT 1 FROM accounts WHERE id = 1 FOR UPDATE"))
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                store.write(deposit, 5, lane=lane, deadline_s=0.5)
            with pytest.raises(DeadlineExceeded):
                store.write(
                    lambda session: session.execute(text("SELECT pg_sleep(9)")),
                    lane=lane,
                    deadline_s=0.5,
                )
            assert time.monotonic() - started < 8, "neither took the usual deadline"
        assert store.write(deposit, 5, lane=lane) == 5

    def test_a_statement_that_runs_too_long_is_cut(self, open_store: Callable[..., Store]) -> None:
        store = open_store(statement_timeout_s=0.3)

        def long(session: Session) -> None:
            note(session, "half")
            session.execute(text("SELECT pg_sleep(5)"))

        started = time.monotonic()
        for run in (store.write, store.read):
            with pytest.raises((DeadlineExceeded, Exception)) as caught:
                run(long if run == store.write else lambda s: s.execute(text("SELECT pg_sleep(5)")))
            assert isinstance(caught.value, DeadlineExceeded)
        assert time.monotonic() - started < 8, "two sleeps would take ten"
        store.close()
        assert open_store().read(notes) == []

    def test_a_flood_of_short_writes_starves_no_long_one(
        self, open_store: Callable[..., Store]
    ) -> None:
        store = open_store(escalate_after=2, attempts_max=6, deadline_s=60)
        assert _long_write_among_short_ones(store, lambda done: False) == "done"

    def test_without_the_gate_it_starves(self, open_store: Callable[..., Store]) -> None:
        store = open_store(escalate_after=10**6, attempts_max=6, deadline_s=60)
        # Of four short writes by three threads, one began after the long one had read its row.
        assert _long_write_among_short_ones(store, lambda done: done < 4) == "starved"


def _long_write_among_short_ones(store: Store, goes_on: Callable[[int], bool]) -> str:
    """A write of 0.15 s, or longer as long as so many short ones beside it want it to go on."""
    stop = threading.Event()
    done: list[int] = []

    def flood() -> None:
        while not stop.is_set():
            try:
                store.write(deposit, 1, isolation="read committed")
            except CrowdsafeError:
                continue
            done.append(1)

    def long(session: Session) -> None:
        row, before = session.get_one(Account, 1), len(done)
        end = time.monotonic() + 20
        session.execute(text("SELECT pg_sleep(0.15)"))
        while goes_on(len(done) - before) and time.monotonic() < end:
            session.execute(text("SELECT pg_sleep(0.01)"))
        row.balance += 1000

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(flood)
        time.sleep(0.1)
        try:
            store.write(long)
            outcome = "done"
        except DeadlineExceeded:
            outcome = "starved"
        finally:
            stop.set()
    assert done
    return outcome


def test_a_stale_version_is_run_again(store: Store, outsider: Engine) -> None:
    attempts: list[int] = []

    def work(session: Session) -> int:
        row = session.get_one(Counted, 1)
        attempts.append(1)
        if len(attempts) == 1:
            # As if another process had been quicker: the version that was read is not current.
            session.execute(text("UPDATE counted SET version = version + 1"))
        row.n += 1
        session.flush()
        return row.n

    assert store.write(work, isolation="read committed") == 1
    assert len(attempts) == 2


def test_a_lost_race_that_never_ends_is_given_up(open_store: Callable[..., Store]) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        raise LostRace("again and again")

    with pytest.raises(DeadlineExceeded):
        open_store(attempts_max=5).write(work)
    assert len(attempts) == 5
    attempts.clear()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        open_store().write(work, deadline_s=1.5)
    assert time.monotonic() - started < 8, "far below the usual deadline"
    assert len(attempts) > 1


def test_the_functions_own_failure_is_not_run_again(store: Store) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        store.write(work)
    assert attempts == [1]


class TestJitter:
    def test_each_wait_is_anything_up_to_a_bound_that_doubles(self, rng: random.Random) -> None:
        settings = Settings(backoff_base_s=0.01, backoff_cap_s=0.3, attempts_max=1000)
        waits = [self.waits(settings) for _ in range(300)]
        for loss in range(8):
            bound = min(0.3, 0.01 * 2 ** (loss + 1))
            seen = sorted(many[loss] for many in waits)
            assert 0 <= seen[0] < bound * 0.1
            assert bound * 0.9 < seen[-1] <= bound
            assert 0.4 * bound < sum(seen) / len(seen) < 0.6 * bound

    @staticmethod
    def waits(settings: Settings) -> list[float]:
        losses = Losses(settings, time.monotonic() + 100)
        return [losses.after(LostRace()) for _ in range(8)]

    def test_no_wait_goes_past_the_deadline(self) -> None:
        losses = Losses(Settings(), time.monotonic() + 0.001)
        with pytest.raises(DeadlineExceeded):
            for _ in range(50):
                losses.after(LostRace())

    def test_it_escalates_after_the_losses_that_the_settings_say(self) -> None:
        losses = Losses(Settings(escalate_after=2), time.monotonic() + 10)
        seen = [losses.escalate]
        for _ in range(3):
            losses.after(LostRace())
            seen.append(losses.escalate)
        assert seen == [False, False, True, True]


class TestClassify:
    @pytest.mark.parametrize(
        ("state", "failure"),
        [
            ("40001", Failure.CONFLICT),
            ("40P01", Failure.CONFLICT),
            ("55P03", Failure.CONFLICT),
            ("57P01", Failure.DISCONNECT),
            ("57P03", Failure.DISCONNECT),
            ("53300", Failure.DISCONNECT),
            ("08006", Failure.DISCONNECT),
            ("23505", Failure.FINAL),
            ("57014", Failure.FINAL),
            ("42P01", Failure.FINAL),
        ],
    )
    def test_by_the_sqlstate(self, state: str, failure: Failure) -> None:
        assert classify(psycopg.errors.lookup(state)("x")) is failure

    def test_others(self) -> None:
        from sqlalchemy.exc import TimeoutError as PoolTimeout
        from sqlalchemy.orm.exc import StaleDataError

        assert classify(StaleDataError()) is Failure.CONFLICT
        assert classify(LostRace()) is Failure.CONFLICT
        assert classify(StaleVersion()) is Failure.FINAL
        assert classify(PoolTimeout()) is Failure.BUSY
        assert classify(psycopg.OperationalError("the connection is closed")) is Failure.DISCONNECT
        assert classify(psycopg.ProgrammingError("wrong use")) is Failure.FINAL
        assert classify(ValueError()) is Failure.FINAL


class TestOverload:
    def test_one_write_too_many_is_refused_at_once(self, url: str, gate: Gate) -> None:
        async def main() -> None:
            async with AsyncStore(url, Settings(queue_max=5)) as store:
                first = asyncio.create_task(store.write(gate.stop, lane="one"))
                await asyncio.to_thread(gate.reached)
                tasks = [
                    asyncio.create_task(store.write(note, f"n{n}", lane="one")) for n in range(30)
                ]
                async with asyncio.timeout(30):
                    while sum(task.done() for task in tasks) < 25:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                gate.open()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                await first
                refused = [r for r in done if isinstance(r, Overloaded)]
                assert len(done) - len(refused) in (4, 5)
                assert all(r.status == 503 and r.retry_after_s for r in refused)
                assert await store.write(note, "later")
                assert len(await store.read(notes)) == len(done) - len(refused) + 1

        asyncio.run(main())

    @pytest.mark.postgres
    @pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
    def test_a_pool_that_stays_empty_is_overload(self, url: str, gate: Gate) -> None:
        async def main() -> None:
            settings = Settings(pool_size=1, pool_timeout_s=0.2)
            async with AsyncStore(url, settings) as store:
                first = asyncio.create_task(store.write(gate.stop))
                await asyncio.to_thread(gate.reached)
                with pytest.raises(Overloaded):
                    await store.write(note, "no room")
                with pytest.raises(Overloaded):
                    await store.read(notes)
                gate.open()
                await first

        asyncio.run(main())


def test_reads_have_a_limit_too(url: str, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncStore(url) as store:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await store.read(gate.stop, deadline_s=0.2)
            assert time.monotonic() - started < 8, "far below the usual deadline"
            gate.open()

    asyncio.run(main())
