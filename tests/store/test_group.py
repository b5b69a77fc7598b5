"""Writes that share a transaction: each has its own outcome, whatever its neighbours do."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from tests.store.conftest import Gate
from tests.store.models import Claim, Note, deposit, note, notes

from crowdsafe import AsyncStore, Settings, Store, after_commit
from crowdsafe.errors import DeadlineExceeded, OutcomeUnknown, Refused, TransactionMisuse
from crowdsafe.store import LostRace
from crowdsafe.store.sqlite import CONTROL as SQLITE

Job = tuple[Callable[..., Any], Any]


def together(url: str, jobs: list[Job], **settings: Any) -> list[Any]:
    """Run jobs in one lane from tasks that start at once: what each gave, or its exception."""

    async def main() -> list[Any]:
        async with AsyncStore(url, Settings(**settings)) as store:
            # The first holds the lane while the others gather behind it.
            hold = asyncio.create_task(store.write(_hold, lane="one"))
            await asyncio.sleep(0.02)
            return await asyncio.gather(
                *(store.write(fn, arg, lane="one") for fn, arg in jobs),
                hold,
                return_exceptions=True,
            )

    return asyncio.run(main())[:-1]


def _hold(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_sleep(0.1)"))
    else:
        time.sleep(0.1)


def _waiting(store: Store) -> int:
    """Writes behind the one that runs."""
    backend: Any = store._open_backend
    return int(backend._waiting.qsize() if store.dialect == "sqlite" else backend._waiting - 1)


def together_in_threads(store: Store, jobs: list[Job]) -> list[Any]:
    """The same from threads."""

    def one(job: Job) -> Any:
        here.wait(30)
        try:
            return store.write(job[0], job[1], lane="one")
        except BaseException as error:
            return error

    held, here, go_on = threading.Event(), threading.Barrier(len(jobs) + 1), threading.Event()

    def hold(session: Session) -> None:
        held.set()
        assert go_on.wait(60)

    holder = threading.Thread(target=store.write, args=(hold,), kwargs={"lane": "one"})
    holder.start()
    assert held.wait(30)
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(one, job) for job in jobs]
        here.wait(30)
        end = time.monotonic() + 30
        while _waiting(store) < len(jobs) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        go_on.set()
        done = [each.result() for each in running]
    holder.join()
    return done


def refuse(session: Session, text: str) -> None:
    note(session, text)
    raise Refused(text)


def break_rule(session: Session, text: str) -> None:
    note(session, text)
    note(session, text)


def break_rule_late(session: Session, text: str) -> None:
    note(session, text)
    session.add(Claim(account_id=404))


def forget_savepoint(session: Session, text: str) -> None:
    session.begin_nested()
    note(session, text)


def hide_error(session: Session, text: str) -> None:
    try:
        break_rule(session, text)
    except IntegrityError:
        return


def exit_process(session: Session, text: str) -> None:
    note(session, text)
    raise SystemExit(text)


def kinds(done: list[Any]) -> list[Any]:
    return [type(r).__name__ if isinstance(r, BaseException) else "ok" for r in done]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (refuse, "Refused"),
        (break_rule, "IntegrityError"),
        (hide_error, "TransactionMisuse"),
        (break_rule_late, None),
    ],
)
@pytest.mark.parametrize("caller", ["threads", "tasks"])
def test_a_failing_write_hurts_no_neighbour(
    url: str, store: Store, bad: Callable[..., Any], error: str | None, caller: str
) -> None:
    jobs: list[Job] = [(note, "a"), (note, "b"), (bad, "bad"), (note, "c"), (bad, "bad2")]
    done = together(url, jobs) if caller == "tasks" else together_in_threads(store, jobs)
    found = kinds(done)
    assert [found[0], found[1], found[3]] == ["ok"] * 3
    assert found[2] != "ok"
    assert found[4] != "ok"
    assert error is None or found[2] == found[4] == error
    assert sorted(store.read(notes)) == ["a", "b", "c"]


def test_a_savepoint_left_open_is_closed_with_the_write(url: str, store: Store) -> None:
    done = together(url, [(note, "a"), (forget_savepoint, "b"), (refuse, "x"), (note, "c")])
    assert kinds(done) == ["ok", "ok", "Refused", "ok"]
    assert store.read(notes) == ["a", "b", "c"]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("caller", ["threads", "tasks"])
def test_ending_the_transaction_under_the_others_doubles_and_hides_nothing(
    url: str, store: Store, end: str, caller: str
) -> None:
    def ends(session: Session, statement: str) -> None:
        session.execute(text(statement))

    jobs: list[Job] = [(deposit, 1), (deposit, 1), (ends, end), (deposit, 1)]
    done = together(url, jobs) if caller == "tasks" else together_in_threads(store, jobs)
    assert not [r for r in done if isinstance(r, BaseException) and not _honest(r)]
    stored = store.write(deposit, 0)
    sure = sum(isinstance(r, int) for r in done)
    unknown = sum(isinstance(r, OutcomeUnknown) for r in done)
    assert sure <= stored <= min(3, sure + unknown)


def _honest(error: BaseException) -> bool:
    return isinstance(error, OutcomeUnknown | TransactionMisuse)


def test_an_exit_in_one_write_is_no_success_in_its_neighbours(store: Store) -> None:
    done = together_in_threads(store, [(note, "a"), (exit_process, "x"), (note, "b")])
    assert isinstance(done[1], SystemExit)
    assert kinds(done) == ["ok", "SystemExit", "ok"]
    assert sorted(store.read(notes)) == ["a", "b"]


class Interrupt(BaseException):
    """Such as KeyboardInterrupt."""


def test_an_interrupt_is_no_success_in_the_neighbours(store: Store) -> None:
    def interrupted(session: Session, text: str) -> None:
        raise Interrupt

    done = together_in_threads(store, [(note, "a"), (interrupted, "x"), (note, "b")])
    stored = store.read(notes)
    for result, name in ((done[0], "a"), (done[2], "b")):
        assert (name in stored) or isinstance(result, BaseException), (done, stored)
    assert store.write(note, "after")


def test_each_sees_what_those_before_it_did(url: str) -> None:
    assert together(url, [(deposit, 1)] * 50) == list(range(1, 51))


def test_a_group_shares_one_commit(store: Store) -> None:
    commits: list[int] = []
    target: Any = SQLITE if store.dialect == "sqlite" else store._open_backend.control
    real = target.commit
    target.commit = lambda raw: (commits.append(1), real(raw))[1]
    try:
        done = together_in_threads(store, [(deposit, 1)] * 30)
    finally:
        del target.commit
    assert sorted(done) == list(range(1, 31))
    assert len(commits) < 15


@pytest.mark.parametrize("caller", ["threads", "tasks"])
def test_a_commit_of_unknown_outcome_is_not_run_again(
    url: str, monkeypatch: pytest.MonkeyPatch, caller: str
) -> None:
    """The database has committed, and the connection breaks before it could say so."""
    from crowdsafe.store.postgres import PostgresControl
    from crowdsafe.store.sqlite import SqliteControl

    broken: list[int] = []

    def breaks(real: Any) -> Any:
        def commit(self: Any, raw: Any) -> None:
            real(self, raw)
            if armed and not broken:
                broken.append(1)
                import psycopg

                raise psycopg.OperationalError("server closed the connection unexpectedly")

        return commit

    armed: list[int] = []
    for control in (PostgresControl, SqliteControl):
        monkeypatch.setattr(control, "commit", breaks(control.commit))

    def arm(session: Session, amount: int) -> int:
        armed.append(1)
        return deposit(session, amount)

    with Store(url) as store:
        jobs: list[Job] = [(arm, 1), (deposit, 1), (deposit, 1)]
        done = together(url, jobs) if caller == "tasks" else together_in_threads(store, jobs)
        assert broken
        unknown = [r for r in done if isinstance(r, OutcomeUnknown)]
        assert unknown, done
        assert store.write(deposit, 0) == 3, "each deposit was made once"


class TestLosers:
    """A write that loses a race of its own is run again, and nobody waits for it."""

    @pytest.mark.parametrize("caller", ["threads", "tasks"])
    @pytest.mark.parametrize("error", [LostRace, StaleDataError])
    def test_it_is_run_again(
        self, url: str, store: Store, caller: str, error: type[Exception]
    ) -> None:
        attempts: list[int] = []
        called: list[int] = []

        def loses_thrice(session: Session, text: str) -> int:
            attempts.append(1)
            after_commit(session, lambda: called.append(len(attempts)))
            note(session, text)
            if len(attempts) < 4:
                raise error("lost")
            return len(attempts)

        jobs: list[Job] = [(note, "a"), (loses_thrice, "x"), (note, "b")]
        done = together(url, jobs) if caller == "tasks" else together_in_threads(store, jobs)
        assert done[1] == 4
        assert called == [4]
        assert sorted(store.read(notes)) == ["a", "b", "x"]

    def test_it_is_not_run_twice_when_its_thread_is_quick(
        self, url: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread apart may have begun the write again before its group goes on."""
        start = threading.Thread.start

        def start_quickly(thread: threading.Thread) -> None:
            start(thread)
            if thread.daemon:
                time.sleep(0.2)

        running: list[int] = []
        at_once: list[int] = []

        def loses_twice(session: Session, text: str) -> None:
            running.append(1)
            at_once.append(len(running))
            try:
                note(session, text)
                if len(at_once) < 3:
                    raise LostRace
                time.sleep(0.3)
            finally:
                running.pop()

        monkeypatch.setattr(threading.Thread, "start", start_quickly)
        done = together_in_threads(store, [(note, "a"), (loses_twice, "x"), (note, "b")])
        assert kinds(done) == ["ok"] * 3
        assert max(at_once) == 1
        assert sorted(store.read(notes)) == ["a", "b", "x"]

    @pytest.mark.parametrize("caller", ["threads", "tasks"])
    def test_one_that_always_loses_holds_nobody_up(
        self, url: str, open_store: Callable[..., Store], caller: str
    ) -> None:
        committed: dict[str, float] = {}
        lost: list[float] = []

        def always_loses(session: Session, text: str) -> None:
            lost.append(time.monotonic())
            note(session, text)
            raise LostRace

        def timed(session: Session, text: str) -> None:
            note(session, text)
            after_commit(session, lambda: committed.setdefault(text, time.monotonic()))

        jobs: list[Job] = [(timed, "a"), (always_loses, "x"), (timed, "b")]
        settings = {"deadline_s": 60.0, "attempts_max": 12}
        if caller == "tasks":
            done = together(url, jobs, **settings)
        else:
            done = together_in_threads(open_store(**settings), jobs)
        assert kinds(done) == ["ok", "DeadlineExceeded", "ok"]
        assert max(committed.values()) < lost[-1], "the neighbours were done long before"
        with Store(url) as store:
            assert sorted(store.read(notes)) == ["a", "b"]


def test_slow_writes_do_not_make_one_endless_transaction(url: str) -> None:
    """Eight writes of 0.1 s in one group: the first need not wait for the last."""

    def slow(session: Session, text: str) -> float:
        note(session, text)
        _hold(session)
        after_commit(session, lambda: took.append(time.monotonic()))
        return 0.0

    took: list[float] = []
    done = together(url, [(slow, f"n{n}") for n in range(8)])
    assert kinds(done) == ["ok"] * 8
    assert took[-1] - took[0] > 0.3
    with Store(url) as store:
        assert store.read(notes) == [f"n{n}" for n in range(8)]


def test_one_whose_deadline_passed_in_the_queue_is_not_run(url: str, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncStore(url) as store:
            first = asyncio.create_task(store.write(gate.stop, lane="one"))
            await asyncio.to_thread(gate.reached)
            late = asyncio.create_task(store.write(note, "late", lane="one", deadline_s=0.1))
            await asyncio.sleep(0.3)
            gate.open()
            with pytest.raises(DeadlineExceeded):
                await late
            await first
            assert await store.write(note, "next", lane="one")
            assert await store.read(notes) == ["next"]

    asyncio.run(main())


def test_one_that_waits_behind_a_long_one_is_answered_at_its_deadline(url: str, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncStore(url) as store:
            first = asyncio.create_task(store.write(gate.stop, lane="one"))
            await asyncio.to_thread(gate.reached)
            with pytest.raises(DeadlineExceeded):
                await store.write(note, "late", lane="one", deadline_s=0.1)
            gate.open()
            await first
            assert await store.read(notes) == []

    asyncio.run(main())


def test_what_failed_in_a_lost_transaction_may_succeed_in_the_next(url: str, gate: Gate) -> None:
    lost = False

    def at_first_refused(session: Session) -> str:
        if not lost:
            raise Refused
        note(session, "done")
        return "done"

    def loses_once(session: Session) -> None:
        nonlocal lost
        if not lost:
            lost = True
            cause = sqlite3.OperationalError("busy")
            cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise OperationalError("COMMIT", {}, cause)

    async def main() -> None:
        async with AsyncStore(url) as store:
            first = asyncio.create_task(store.write(gate.stop, lane="one"))
            await asyncio.to_thread(gate.reached)
            writes = (store.write(fn, lane="one") for fn in (at_first_refused, loses_once))
            both = asyncio.gather(*writes)
            await asyncio.sleep(0.1)
            gate.open()
            await first
            assert await both == ["done", None]
            assert await store.read(notes) == ["done"]

    asyncio.run(main())


def test_order_in_a_lane_is_that_of_the_calls(url: str) -> None:
    together(url, [(note, f"n{n:02}") for n in range(40)])
    with Store(url) as store:
        assert store.read(notes) == [f"n{n:02}" for n in range(40)]


def test_hundreds_in_many_lanes(url: str) -> None:
    async def main() -> None:
        async with AsyncStore(url, Settings(pool_size=4, deadline_s=60)) as store:
            jobs = [store.write(note if n % 5 else refuse, f"n{n}", lane=n % 7) for n in range(300)]
            done = await asyncio.gather(*jobs, return_exceptions=True)
            assert [kinds([r])[0] for r in done] == [
                "ok" if n % 5 else "Refused" for n in range(300)
            ]
            rows = await store.read(lambda session: session.query(Note).count())
            assert rows == 240

    asyncio.run(main())
