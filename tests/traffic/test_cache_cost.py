"""What the caches that processes share cost their server: rows, connections, commands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from tests.traffic.cache_servers import BACKENDS, empty_cache
from tests.traffic.caches import Maker, one_cache
from valkey.asyncio import Valkey

from crowdsafe import AsyncStore
from crowdsafe.traffic import PUBLIC, DatabaseCache, ValkeyCache, for_user
from crowdsafe.traffic.cache.tables import CacheRow

WAIT_S_MAX = 40.0


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_cache(request, tmp_path, request.param)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT_S_MAX))


def rows(session: Session) -> tuple[int, int]:
    count, size = session.execute(select(func.count(), func.sum(CacheRow.size_bytes))).one()
    return int(count), int(size or 0)


@pytest.mark.parametrize("url", BACKENDS[:2], indirect=True)
def test_an_attacker_who_invents_keys_fills_the_table_no_further_than_its_limits(
    url: str,
) -> None:
    async def main() -> None:
        async with AsyncStore(url) as store:
            cache = DatabaseCache(
                store, name="n", items_max=50, bytes_max=20_000, value_bytes_max=1000
            )

            async def ask(n: int) -> None:
                size = 100 if n < 150 else 900
                make = Maker("x" * size, open_gate=True)
                await cache.get_or_run(f"{n}", make, scope=PUBLIC, ttl_s=60 + n)

            for start in range(0, 300, 50):
                await asyncio.gather(*(ask(n) for n in range(start, start + 50)))
            assert cache._sweep is not None
            await cache._sweep
            count, size = await store.read(rows)
            assert count <= 50
            assert size <= 20_000
            never = Maker(open_gate=True)
            assert await cache.get_or_run("299", never, scope=PUBLIC, ttl_s=60) == "x" * 900

    run(main())


def test_a_crowd_of_keys_takes_few_connections(valkey_url: str) -> None:
    async def main() -> None:
        async with Valkey.from_url(valkey_url, max_connections=12) as client:
            cache = ValkeyCache(client, name="few")
            makers = [Maker(n, open_gate=True) for n in range(500)]
            for _ in range(2):
                asked = [
                    cache.get_or_run(f"{n}", make, scope=for_user(n), ttl_s=60)
                    for n, make in enumerate(makers)
                ]
                assert await asyncio.gather(*asked) == list(range(500))
            assert [make.begun for make in makers] == [1] * 500
            await cache.close()

    run(main())


def test_a_hit_on_valkey_is_one_command(valkey_url: str) -> None:
    async def main() -> None:
        async with one_cache(valkey_url) as cache:
            assert isinstance(cache, ValkeyCache)
            make = Maker(open_gate=True)
            await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60)
            client = cache._backend._client  # type: ignore[attr-defined]
            before = await client.info("commandstats")
            for _ in range(10):
                await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60)
            after = await client.info("commandstats")
            calls = {
                name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
                for name in after
                if name != "cmdstat_info"
            }
            assert {name: many for name, many in calls.items() if many} == {"cmdstat_get": 10}

    run(main())
