"""The caches that processes share, while what they share is away, frozen or killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.support.pg_server import PgServer
from tests.support.valkey_server import ValkeyServer
from tests.traffic.cache_servers import BACKENDS, empty_cache
from tests.traffic.caches import Maker, asking, eventually, one_cache

from crowdsafe import Store
from crowdsafe.traffic import PUBLIC, CacheUnavailable

WAIT_S_MAX = 40.0


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_cache(request, tmp_path, request.param)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT_S_MAX))


def test_while_the_server_is_away_nothing_hangs(
    own_valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_valkey_server.url(0)

    async def main() -> None:
        async with (
            one_cache(url, wait_s=0.3) as strict,
            one_cache(url, wait_s=0.3, on_outage="run") as lenient,
        ):
            await strict.get_or_run("k", Maker("old", open_gate=True), scope=PUBLIC, ttl_s=60)
            during = Maker("made during the outage")
            tasks = await asking(strict, during, 5, key="during")
            await during.started.wait()
            await eventually(lambda: strict.stats().misses == 6)
            own_valkey_server.pause()
            for _ in range(3):
                with pytest.raises(CacheUnavailable) as caught:
                    await strict.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60)
                assert caught.value.retry_after_s == 1
            with pytest.raises(CacheUnavailable):
                await strict.forget("k", scope=PUBLIC)
            make = Maker("made here")
            asked = await asking(lenient, make, 100)
            await eventually(lambda: lenient.stats().misses == 100)
            make.gate.set()
            assert await asyncio.gather(*asked) == ["made here"] * 100
            assert make.begun == 1, "one execution in a process, with or without the server"
            during.gate.set()
            assert await asyncio.gather(*tasks) == ["made during the outage"] * 5
            own_valkey_server.resume()
            await asyncio.sleep(1.1)
            async with asyncio.timeout(10):
                assert await strict.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60) == "old"
                assert await lenient.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60) == "old"
            own_valkey_server.kill9()
            with pytest.raises(CacheUnavailable):
                await strict.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60)
            own_valkey_server.start()
            await asyncio.sleep(1.1)
            make = Maker("new", open_gate=True)
            assert await strict.get_or_run("fresh", make, scope=PUBLIC, ttl_s=60) == "new"

    run(main())
    assert "does not answer" in caplog.text


@pytest.mark.postgres
def test_while_the_database_is_away_nothing_hangs(own_pg_server: PgServer) -> None:
    url = own_pg_server.url("postgres")
    with Store(url) as store:
        store.create_all()

    async def main() -> None:
        async with (
            one_cache(url, wait_s=0.5) as strict,
            one_cache(url, wait_s=0.5, on_outage="run") as lenient,
        ):
            await strict.get_or_run("k", Maker("old", open_gate=True), scope=PUBLIC, ttl_s=60)
            during, make = Maker("made during the outage"), Maker("made here")
            (caller,) = await asking(strict, during, 1, key="during")
            await during.started.wait()
            await asyncio.to_thread(own_pg_server.kill9)
            with pytest.raises(CacheUnavailable):
                await strict.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60)
            asked = await asking(lenient, make, 50)
            await eventually(lambda: lenient.stats().misses == 50)
            make.gate.set()
            assert await asyncio.gather(*asked) == ["made here"] * 50
            assert make.begun == 1
            during.gate.set()
            assert await caller == "made during the outage"
            await asyncio.to_thread(own_pg_server.start)
            await eventually(lambda: strict._away_until < asyncio.get_running_loop().time())
            assert await strict.get_or_run("k", Maker(), scope=PUBLIC, ttl_s=60) == "old"

    run(main())


def test_a_process_that_stood_still_does_not_take_the_server_for_away(url: str) -> None:
    async def main() -> None:
        async with one_cache(url, lease_s=30, wait_s=0.3) as cache:
            make = Maker(open_gate=True)
            for n in range(4):
                (caller,) = await asking(cache, make, 1, key=f"{n}")
                for _ in range(2 * n):
                    await asyncio.sleep(0)
                time.sleep(0.4)  # noqa: ASYNC251  the event loop stands still
                assert await caller == "value"
            assert cache.stats().outages == 0

    run(main())
