"""PostgreSQL goes away under load: the pool heals, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from tests.store.conftest import prepare
from tests.store.models import note, notes
from tests.support.pg_server import PgServer

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.errors import DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown

pytestmark = pytest.mark.postgres

SETTINGS = Settings(deadline_s=20, pool_size=4, connect_timeout_s=2)
EXPECTED = (DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown)

FAULTS: dict[str, Callable[[PgServer], object]] = {
    "restart": lambda server: server.restart(),
    "kill-9": lambda server: (server.kill9(), server.start()),
    "terminated": lambda server: server.kill_connections("postgres"),
}


async def run_async(
    url: str, lane: str | None, fault: Callable[[], object]
) -> tuple[int, list[str]]:
    """Write from eight tasks while the fault happens; what was acknowledged, before and after."""
    acknowledged: list[str] = []
    unexpected: list[BaseException] = []
    stop = asyncio.Event()

    async with AsyncStore(url, SETTINGS) as store:

        async def write(name: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                text = f"{name}-{number}"
                try:
                    await store.write(note, text, lane=lane)
                    acknowledged.append(text)
                except EXPECTED:
                    await asyncio.sleep(0.05)
                except Exception as error:
                    unexpected.append(error)
                    return

        tasks = [asyncio.create_task(write(name)) for name in range(8)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(fault)
        before = len(acknowledged)
        await asyncio.sleep(2.0)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert not unexpected, unexpected
        assert (await store.health()).ok
        return before, acknowledged


def run_sync(url: str, lane: str | None, fault: Callable[[], object]) -> tuple[int, list[str]]:
    """The same from eight threads."""
    acknowledged: list[str] = []
    unexpected: list[BaseException] = []
    stop = threading.Event()

    with Store(url, SETTINGS) as store:

        def write(name: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                text = f"{name}-{number}"
                try:
                    store.write(note, text, lane=lane)
                    acknowledged.append(text)
                except EXPECTED:
                    time.sleep(0.05)
                except Exception as error:
                    unexpected.append(error)
                    return

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        fault()
        before = len(acknowledged)
        time.sleep(2.0)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not unexpected, unexpected
        assert store.health().ok
        return before, acknowledged


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("lane", [None, "one"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_pool_heals_and_nothing_acknowledged_is_lost(
    own_pg_server: PgServer, kind: str, lane: str | None, fault: str
) -> None:
    url = own_pg_server.url("postgres")
    prepare(url)

    def happen() -> object:
        return FAULTS[fault](own_pg_server)

    if kind == "async":
        before, acknowledged = asyncio.run(run_async(url, lane, happen))
    else:
        before, acknowledged = run_sync(url, lane, happen)
    assert 0 < before < len(acknowledged), "it wrote before the fault, and goes on after it"
    with Store(url) as store:
        written = store.read(notes)
    assert len(written) == len(set(written))
    assert set(acknowledged) <= set(written)
