"""What a store is given wrongly is refused at once, in words; nothing is lost without one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.store.models import Base, Note

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.errors import ConfigError, DeadlineExceeded, TransactionMisuse


def with_session(session: Session) -> None:
    with session:
        session.add(Note(text="lost"))


def close(session: Session) -> None:
    session.add(Note(text="lost"))
    session.close()


def reset(session: Session) -> None:
    session.add(Note(text="lost"))
    session.reset()


@pytest.mark.parametrize("work", [with_session, close, reset])
def test_a_session_with_changes_is_not_closed(
    open_store: Callable[..., Store], work: Callable[[Session], None]
) -> None:
    with pytest.raises(TransactionMisuse, match="Return to commit"):
        open_store().write(work)


def test_a_session_without_changes_may_be_closed(open_store: Callable[..., Store]) -> None:
    def work(session: Session) -> int:
        with session:
            session.add(Note(text="kept"))
            session.flush()
        return session.query(Note).count()

    store = open_store()
    assert store.write(work) == 1
    assert store.read(work_count) == 1


def work_count(session: Session) -> int:
    with session:
        return session.query(Note).count()


@pytest.mark.parametrize("level", ["READ COMMITTED", "snapshot"])
def test_an_unknown_isolation_of_one_call(url: str, level: Any) -> None:
    with Store(url) as store, pytest.raises(ConfigError, match="is not one of"):
        store.write(work_count, isolation=level)

    async def run() -> None:
        async with AsyncStore(url) as store:
            with pytest.raises(ConfigError, match="is not one of"):
                await store.write(work_count, isolation=level)

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [Base, Note])
def test_create_all_takes_metadata(sqlite_url: str, wrong: Any) -> None:
    with Store(sqlite_url) as store, pytest.raises(ConfigError, match=r"Base\.metadata"):
        store.create_all(wrong)


@pytest.mark.parametrize("wrong", [{"deadline_s": "3"}, {"pool_size": None}, {"readers": True}])
def test_settings_are_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be a number"):
        Settings(**wrong)


@pytest.mark.parametrize("after", [True, False], ids=["between", "at-the-end"])
def test_a_slow_call_inside_a_write_is_named(pg_url: str, after: bool) -> None:
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        session.add(Note(text="lost"))
        session.flush()
        time.sleep(1.5)
        if after:
            session.query(Note).count()

    with Store(pg_url, Settings(deadline_s=0.5, grace_s=0.2)) as store:
        store.create_all(Base.metadata)
        with pytest.raises(DeadlineExceeded, match="slow calls"):
            store.write(work)
        assert runs == [1]
        assert store.read(work_count) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_an_async_store_that_was_made_before_a_fork(url: str, used: bool) -> None:
    store = AsyncStore(url)

    async def write_one(who: str) -> int:
        await store.write(lambda session: session.add(Note(text=who)))
        return await store.read(work_count)

    with asyncio.Runner() as runner:
        if used:
            runner.run(write_one("before"))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if asyncio.run(write_one("child")) == 1 + used else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert runner.run(write_one("after")) == 2 + used
        runner.run(store.close())
