"""One write: committed before it returns, or not at all."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from tests.store.conftest import Gate
from tests.store.models import Account, Claim, Note, deposit, note, notes

from crowdsafe import AsyncStore, Store, after_commit, write
from crowdsafe.errors import (
    ConfigError,
    DatabaseUnavailable,
    DeadlineExceeded,
    InvalidInput,
    TransactionMisuse,
)


def count_notes(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM notes")).scalar_one())


def test_it_is_committed_before_it_returns(store: Store, outsider: Engine) -> None:
    for n in range(1, 6):
        store.write(note, f"n{n}")
        assert count_notes(outsider) == n


def test_what_the_function_raises_undoes_it_and_reaches_the_caller(
    store: Store, outsider: Engine
) -> None:
    def fails(session: Session) -> None:
        note(session, "a")
        raise InvalidInput("no", field="text")

    with pytest.raises(InvalidInput) as caught:
        store.write(fails)
    assert caught.value.field == "text"
    assert count_notes(outsider) == 0


def test_rows_are_readable_after_the_write_and_unflushed_ones_are_stored(store: Store) -> None:
    def work(session: Session) -> Note:
        row = Note(text="kept")
        session.add(row)
        return row

    row = store.write(work)
    assert (row.id, row.text) == (1, "kept")


def test_arguments_are_passed_on(store: Store) -> None:
    def work(session: Session, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert store.write(work, 1, "two", three=3) == ((1, "two"), {"three": 3})
    assert store.read(work, 1, fn=2) == ((1,), {"fn": 2})


@pytest.mark.parametrize("what", ["commit", "rollback", "begin"])
def test_the_transaction_belongs_to_the_store(store: Store, what: str) -> None:
    def work(session: Session) -> None:
        note(session, "a")
        getattr(session, what)()

    with pytest.raises(TransactionMisuse, match=what):
        store.write(work)
    assert store.read(notes) == []


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
def test_ending_the_transaction_by_sql_is_noticed(store: Store, statement: str) -> None:
    def work(session: Session) -> None:
        session.execute(text(statement))

    with pytest.raises(TransactionMisuse):
        store.write(work)
    assert store.write(note, "after") == 1


def test_an_error_that_is_caught_without_a_savepoint_undoes_the_write(store: Store) -> None:
    """The flush has inserted one row of two when it fails: half of it must not be stored."""

    def work(session: Session) -> str:
        session.add_all([Note(id=5, text="half"), Note(id=6, text="taken")])
        try:
            session.flush()
        except IntegrityError:
            return "hidden"
        return "stored"

    store.write(note, "taken")
    with pytest.raises(TransactionMisuse, match="begin_nested"):
        store.write(work)
    assert store.read(notes) == ["taken"]


def test_an_error_inside_a_savepoint_is_the_functions_own_affair(store: Store) -> None:
    def work(session: Session) -> str:
        note(session, "before")
        try:
            with session.begin_nested():
                note(session, "undone")
                note(session, "taken")
        except IntegrityError:
            note(session, "after")
        return "went on"

    store.write(note, "taken")
    assert store.write(work) == "went on"
    assert store.read(notes) == ["taken", "before", "after"]


def test_an_error_at_the_commit_is_the_writes_failure(store: Store) -> None:
    called = []

    def work(session: Session) -> None:
        session.add(Claim(account_id=404))
        note(session, "with it")
        after_commit(session, lambda: called.append(1))

    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.write(work)
    assert store.read(notes) == []
    assert called == [], "it was not committed"


async def _async_work(session: Session) -> None:
    pass


def _generator(session: Session) -> Iterator[int]:
    yield note(session, "never run")


async def _async_generator(session: Session) -> Any:
    yield 1


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("wrong", [_async_work, _generator, _async_generator])
def test_only_plain_functions_run(store: Store, wrong: Any) -> None:
    for run in (store.write, store.read):
        with pytest.raises(TypeError, match="plain one"):
            run(wrong)
    assert store.read(notes) == []


def test_a_function_that_raises_stop_iteration_does_not_hang_its_caller(url: str) -> None:
    def work(session: Session) -> None:
        next(iter([]))

    async def main() -> None:
        async with AsyncStore(url) as store, asyncio.timeout(10):
            for run in (store.write, store.read):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await run(work)
            assert await store.write(note, "after") == 1

    asyncio.run(main())


def test_writes_do_not_nest(store: Store) -> None:
    for outer in (store.write, store.read):
        for inner in (store.write, store.read):
            with pytest.raises(TransactionMisuse, match="pass it the session"):
                outer(lambda session, inner=inner: inner(notes))


def test_writes_do_not_nest_in_asyncio(url: str) -> None:
    async def main() -> None:
        async with AsyncStore(url) as store:

            def work(session: Session) -> None:
                coroutine = store.write(notes)
                try:
                    coroutine.send(None)
                finally:
                    coroutine.close()

            with pytest.raises(TransactionMisuse):
                await store.write(work)

    asyncio.run(main())


class TestAfterCommit:
    def test_called_once_after_the_commit(self, store: Store, outsider: Engine) -> None:
        seen: list[int] = []

        def work(session: Session) -> None:
            note(session, "a")
            after_commit(session, lambda: seen.append(count_notes(outsider)))
            assert not seen

        store.write(work)
        assert seen == [1]

    def test_not_after_a_failure_and_not_for_a_lost_attempt(self, store: Store) -> None:
        from crowdsafe.store import LostRace

        seen: list[int] = []
        attempts: list[int] = []

        def work(session: Session, fails: bool) -> None:
            attempts.append(1)
            after_commit(session, lambda: seen.append(len(attempts)))
            if fails:
                raise InvalidInput("no")
            if len(attempts) < 4:
                raise LostRace

        with pytest.raises(InvalidInput):
            store.write(work, True)
        assert seen == []
        store.write(work, False)
        assert seen == [4]

    def test_what_it_raises_is_logged_and_harms_nobody(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(session: Session, text: str, error: BaseException) -> None:
            def callback() -> None:
                raise error

            note(session, text)
            after_commit(session, callback)

        store.write(work, "a", ValueError("bad nudge"))
        store.write(work, "b", SystemExit(3))
        assert store.write(note, "c") == 3
        assert "bad nudge" in caplog.text

    def test_it_cannot_write_by_the_store_that_waits_for_it(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(session: Session) -> None:
            note(session, "a")
            after_commit(session, lambda: store.write(note, "b"))

        store.write(work, lane="one")
        assert "TransactionMisuse" in caplog.text
        assert store.read(notes) == ["a"]

    def test_in_asyncio(self, url: str) -> None:
        seen: list[str] = []

        def work(session: Session, text: str) -> None:
            note(session, text)
            after_commit(session, lambda: seen.append(text))

        async def main() -> None:
            async with AsyncStore(url) as store:
                await asyncio.gather(*(store.write(work, f"n{n}") for n in range(5)))
                assert sorted(seen) == [f"n{n}" for n in range(5)]

        asyncio.run(main())


class TestReads:
    def test_a_read_sees_no_later_write_and_does_not_hold_it_up(self, store: Store) -> None:
        store.write(note, "before")

        def look_twice(session: Session) -> tuple[list[str], list[str]]:
            from concurrent.futures import ThreadPoolExecutor

            first = notes(session)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(store.write, note, "meanwhile").result(5)
            session.expire_all()
            return first, notes(session)

        assert store.read(look_twice) == (["before"], ["before"])
        assert store.read(notes) == ["before", "meanwhile"]

    @pytest.mark.parametrize(
        "writes",
        [
            lambda session: note(session, "a"),
            lambda session: session.add(Note(text="a")),
            lambda session: session.execute(text("INSERT INTO notes (text) VALUES ('a')")),
            lambda session: deposit(session, 5),
            lambda session: session.execute(text("CREATE TABLE t (id INTEGER)")),
        ],
    )
    def test_a_read_cannot_write(self, store: Store, writes: Callable[[Session], Any]) -> None:
        with pytest.raises(DBAPIError, match=r"(?i)read-?only"):
            store.read(writes)
        assert store.read(notes) == []
        assert store.write(deposit, 1) == 1

    def test_a_read_after_a_write_sees_it(self, store: Store) -> None:
        for n in range(20):
            store.write(note, f"n{n}")
            assert len(store.read(notes)) == n + 1

    def test_an_error_of_the_functions_own_is_not_taken_for_a_deadline(self, url: str) -> None:
        def work(session: Session) -> None:
            raise TimeoutError("mine")

        async def main() -> None:
            async with AsyncStore(url) as store:
                with pytest.raises(TimeoutError, match="mine"):
                    await store.read(work)

        asyncio.run(main())


user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def who(session: Session) -> str:
    return user.get()


class TestContext:
    """A function sees its own caller's context variables, whichever thread or task runs it."""

    @pytest.mark.parametrize("lane", [None, "one"])
    def test_from_threads(self, store: Store, lane: str | None) -> None:
        from concurrent.futures import ThreadPoolExecutor

        def call(name: str) -> str:
            user.set(name)
            return store.write(who, lane=lane)

        names = [f"user{n}" for n in range(24)]
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(call, names)) == names

    @pytest.mark.parametrize("lane", [None, "one"])
    def test_from_tasks(self, url: str, lane: str | None) -> None:
        async def call(store: AsyncStore, name: str) -> str:
            user.set(name)
            return await store.write(slowly_who, lane=lane)

        async def main() -> None:
            async with AsyncStore(url) as store:
                names = [f"user{n}" for n in range(24)]
                assert await asyncio.gather(*(call(store, name) for name in names)) == names

        asyncio.run(main())


def slowly_who(session: Session) -> str:
    before = user.get()
    session.execute(text("SELECT 1"))
    assert user.get() == before
    return before


class TestMissingTables:
    def test_one_of_crowdsafes_says_who_makes_it(self, db_url: str) -> None:
        with Store(db_url) as store:
            for run in (store.write, store.read):
                with pytest.raises(ConfigError, match="crowdsafe_gate is missing: call create_all"):
                    run(lambda session: session.execute(text("SELECT * FROM crowdsafe_gate")))
            store.create_all()
            store.write(lambda session: session.execute(text("SELECT * FROM crowdsafe_gate")))

    def test_one_of_the_callers_is_the_drivers_error(self, url: str) -> None:
        with Store(url) as store:
            for table in ("orders", "orders, crowdsafe_gate"):
                query = text(f"SELECT * FROM {table}")
                with pytest.raises(DBAPIError, match="orders"):
                    store.write(lambda session, query=query: session.execute(query))


class TestClosed:
    def test_a_closed_store_refuses(self, store: Store) -> None:
        store.write(note, "a")
        store.close()
        store.close()
        with pytest.raises(DatabaseUnavailable, match="closed"):
            store.write(note, "b")
        with pytest.raises(DatabaseUnavailable, match="closed"):
            store.read(notes)
        assert not store.health().ok

    def test_a_closed_async_store_refuses(self, url: str) -> None:
        async def main() -> None:
            store = AsyncStore(url)
            await store.write(note, "a")
            await store.close()
            with pytest.raises(DatabaseUnavailable, match="closed"):
                await store.write(note, "b")
            with pytest.raises(DatabaseUnavailable, match="closed"):
                await store.read(notes)

        asyncio.run(main())

    def test_what_a_closed_async_store_refused_is_over(self, url: str) -> None:
        async def main() -> None:
            heard: list[Any] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: heard.append(context))
            store = AsyncStore(url)
            await store.start()
            await store.close()
            with pytest.raises(DatabaseUnavailable, match="closed"):
                await store.write(note, "b", deadline_s=0.01)
            await asyncio.sleep(0.1)
            gc.collect()
            assert heard == []

        asyncio.run(main())

    def test_closing_finishes_what_was_accepted(self, url: str) -> None:
        async def main() -> int:
            store = AsyncStore(url)
            await store.write(note, "first")
            tasks = [asyncio.create_task(store.write(note, f"n{n}")) for n in range(20)]
            await asyncio.sleep(0)
            await store.close()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [r for r in done if isinstance(r, BaseException)]
            assert all(isinstance(r, DatabaseUnavailable) for r in refused), refused
            return len(done) - len(refused)

        stored = asyncio.run(main())
        with Store(url) as store:
            assert len(store.read(notes)) == stored + 1


class TestCancelled:
    def test_a_waiting_write_is_dropped_and_a_running_one_goes_on(
        self, url: str, gate: Gate
    ) -> None:
        def slow(session: Session) -> None:
            note(session, "running")
            gate.stop(session)

        async def main() -> None:
            async with AsyncStore(url) as store:
                first = asyncio.create_task(store.write(slow, lane="one"))
                await asyncio.to_thread(gate.reached)
                second = asyncio.create_task(store.write(note, "dropped", lane="one"))
                await asyncio.sleep(0.02)
                first.cancel()
                second.cancel()
                done = await asyncio.gather(first, second, return_exceptions=True)
                assert [type(r) for r in done] == [asyncio.CancelledError] * 2
                gate.open()
                await store.write(note, "last", lane="one")
                assert await store.read(notes) == ["running", "last"]

        asyncio.run(main())

    def test_cancelled_reads_leak_no_connection(self, url: str) -> None:
        from crowdsafe import Settings

        def slow(session: Session) -> None:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SELECT pg_sleep(2)"))

        async def main() -> None:
            async with AsyncStore(url, Settings(pool_size=2, pool_timeout_s=20)) as store:
                for _ in range(6):
                    with pytest.raises((TimeoutError, DeadlineExceeded)):
                        async with asyncio.timeout(0.05):
                            await store.read(slow)
                            await asyncio.sleep(1)
                async with asyncio.timeout(30):
                    assert await store.read(notes, deadline_s=30) == []

        asyncio.run(main())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestForked:
    def test_a_store_works_in_a_child_and_still_in_the_parent(self, store: Store) -> None:
        store.write(note, "parent")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.write(note, "child")
                code = 0 if store.read(notes) == ["parent", "child"] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.write(note, "parent again") == 3
        assert store.read(notes) == ["parent", "child", "parent again"]

    def test_many_children_at_once_count_right(self, store: Store) -> None:
        store.write(deposit, 1)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for _ in range(20):
                        store.write(deposit, 1)
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for _ in range(20):
            store.write(deposit, 1)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert codes == [0, 0, 0]
        assert store.write(deposit, 0) == 81


def test_a_function_may_say_how_it_runs() -> None:
    with pytest.raises(ConfigError, match="isolation"):
        write(isolation="snapshot")  # type: ignore[arg-type]


@pytest.mark.postgres
def test_the_isolation_level_is_the_one_that_was_asked_for(pg_url: str) -> None:
    def level(session: Session) -> str:
        return str(session.execute(text("SHOW transaction_isolation")).scalar_one())

    with Store(pg_url) as store:
        assert store.write(level) == "serializable"
        assert store.write(write(isolation="read committed")(level)) == "read committed"
        assert store.write(level, isolation="repeatable read") == "repeatable read"
        assert store.read(level) == "repeatable read"


def test_a_session_of_one_write_leaves_nothing_to_the_next(store: Store) -> None:
    def first(session: Session) -> None:
        session.info["tenant"] = "a"
        session.add(Account(id=9, balance=9))

    def second(session: Session) -> Any:
        return session.info.get("tenant"), len(session.identity_map)

    async def main() -> None:
        async with AsyncStore(store.url) as astore:
            done = await asyncio.gather(
                astore.write(first, lane="one"), *(astore.write(second, lane="one") for _ in "abc")
            )
            assert done[1:] == [(None, 0)] * 3

    asyncio.run(main())
