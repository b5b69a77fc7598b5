"""PostgreSQL restarts, or drops its connections, under load: nothing acknowledged is lost, and the
store heals by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
from tests.store.conftest import prepare
from tests.store.models import balance, deposit, note, notes
from tests.store.worker import both
from tests.support.pg_server import PgServer

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.errors import DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown

pytestmark = pytest.mark.postgres
ALLOWED = (DatabaseUnavailable, OutcomeUnknown, DeadlineExceeded)
SETTINGS = Settings(deadline_s=6, pool_size=6)


class Load:
    """Writers in threads, or tasks, that note what was acknowledged and what failed how."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.unknown: list[str] = []
        self.errors: Counter[str] = Counter()
        self.stop = threading.Event()

    def failed(self, name: str, error: Exception) -> None:
        self.errors[type(error).__name__ if isinstance(error, ALLOWED) else repr(error)] += 1
        if isinstance(error, OutcomeUnknown):
            self.unknown.append(name)

    def in_threads(self, url: str, disturb: Any) -> None:
        with Store(url, SETTINGS) as store:

            def loop(writer: int) -> None:
                n = 0
                while not self.stop.is_set():
                    name, n = f"t{writer}-{n}", n + 1
                    try:
                        store.write(both, name, lane=writer % 2 or None)
                        self.said.append(name)
                    except Exception as error:
                        self.failed(name, error)

            threads = [threading.Thread(target=loop, args=(writer,)) for writer in range(6)]
            for thread in threads:
                thread.start()
            self.disturbed(disturb)
            for thread in threads:
                thread.join(30)
            self.check(store)

    def in_tasks(self, url: str, disturb: Any) -> None:
        async def loop(store: AsyncStore, writer: int) -> None:
            n = 0
            while not self.stop.is_set():
                name, n = f"t{writer}-{n}", n + 1
                try:
                    await store.write(both, name, lane=writer % 2 or None)
                    self.said.append(name)
                except Exception as error:
                    self.failed(name, error)

        async def main() -> None:
            async with AsyncStore(url, SETTINGS) as store:
                tasks = [asyncio.create_task(loop(store, writer)) for writer in range(6)]
                await asyncio.to_thread(self.disturbed, disturb)
                async with asyncio.timeout(30):
                    await asyncio.gather(*tasks)
                assert await store.read(balance) >= len(self.said)

        asyncio.run(main())
        with Store(url) as store:
            self.check(store)

    def disturbed(self, disturb: Any) -> None:
        try:
            self.until(len(self.said) + 30)
            disturb()
            self.until(len(self.said) + 30)  # it has healed
        finally:
            self.stop.set()

    def until(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.said) < count:
            assert time.monotonic() < deadline, (len(self.said), self.errors)
            time.sleep(0.02)

    def check(self, store: Store) -> None:
        assert not [name for name in self.errors if name not in {e.__name__ for e in ALLOWED}], (
            self.errors
        )
        stored, counted = store.read(lambda session: (notes(session), balance(session)))
        assert not set(self.said) - set(stored), "acknowledged writes are missing"
        assert set(stored) <= set(self.said) | set(self.unknown), "a failed write was stored"
        assert counted == len(stored), "a write was stored by half or twice"


@pytest.mark.parametrize("caller", ["threads", "tasks"])
@pytest.mark.parametrize("mode", ["fast", "immediate", "kill-9"])
def test_a_restart_under_load(own_pg_server: PgServer, caller: str, mode: str) -> None:
    own_pg_server.execute("CREATE DATABASE app")
    url = own_pg_server.url("app")
    prepare(url)
    load = Load()
    run = load.in_threads if caller == "threads" else load.in_tasks

    def disturb() -> None:
        if mode != "kill-9":
            own_pg_server.restart(mode)
            return
        own_pg_server.kill9()
        own_pg_server.start()

    run(url, disturb)


@pytest.mark.parametrize("caller", ["threads", "tasks"])
def test_all_connections_are_ended_under_load(
    pg_server: PgServer, pg_url: str, caller: str
) -> None:
    prepare(pg_url)
    name = pg_url.rpartition("/")[2]
    load = Load()

    def disturb() -> None:
        for _ in range(5):
            pg_server.kill_connections(name)
            time.sleep(0.1)

    run = load.in_threads if caller == "threads" else load.in_tasks
    run(pg_url, disturb)


def test_while_it_is_away_the_error_is_clear_and_afterwards_all_is_well(
    own_pg_server: PgServer,
) -> None:
    url = own_pg_server.url()
    prepare(url)
    with Store(url, Settings(deadline_s=1)) as store:
        store.write(deposit, 1, deadline_s=30)
        own_pg_server.stop()
        started = time.monotonic()
        for call in (lambda: store.write(note, "lost"), lambda: store.read(notes)):
            # A machine that stalls in the last wait learns of its deadline before the next refusal.
            with pytest.raises((DatabaseUnavailable, DeadlineExceeded)) as caught:
                call()
            assert caught.value.status == 503
            assert caught.value.retry_after_s
        assert time.monotonic() - started < 15, "two of the usual deadlines would be twenty"
        assert not store.health().ok
        own_pg_server.start()
        assert store.write(deposit, 1, deadline_s=30) == 2
        assert store.read(notes, deadline_s=30) == []
        assert store.health().ok
