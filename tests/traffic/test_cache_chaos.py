"""Caches under random callers who come, leave, fail and forget: what must hold at every moment."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from tests.traffic.cache_servers import BACKENDS, empty_cache
from tests.traffic.caches import eventually, two_caches

from crowdsafe.traffic import PUBLIC, ExecutionFailed, InProcessCache, for_user

KEYS = [(PUBLIC, "a"), (for_user(1), "a"), (for_user(2), "a"), (PUBLIC, "b")]


class Source:
    """What is cached: a number for each place that only grows, and a watch over executions."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.version = dict.fromkeys(KEYS, 0)
        self.forgotten = dict.fromkeys(KEYS, 0)
        self.running = dict.fromkeys(KEYS, 0)
        self.together = 0
        self.begun = 0

    async def make(self, place: Any) -> list[Any]:
        self.begun += 1
        self.running[place] += 1
        self.together = max(self.together, self.running[place])
        try:
            seen = self.version[place]
            await asyncio.sleep(self.rng.random() * 0.02)
            if self.rng.random() < 0.15:
                raise ValueError("failed")
            return [place[0].id, place[1], seen]
        finally:
            self.running[place] -= 1


async def ask(source: Source, cache: Any, place: Any, stale_s: float) -> None:
    """The value is of this place, and not older than what was forgotten before it was asked for."""
    scope, key = place
    oldest = source.forgotten[place]
    try:
        value = await cache.get_or_run(
            key, lambda: source.make(place), scope=scope, ttl_s=0.03, stale_s=stale_s
        )
    except (ValueError, ExecutionFailed) as error:
        assert "failed" in str(error)
        return
    assert value[:2] == [scope.id, key], "a value of another scope"
    assert value[2] >= oldest, "a value from before it was forgotten"


async def change(source: Source, cache: Any, place: Any) -> None:
    source.version[place] += 1
    written = source.version[place]
    await cache.forget(place[1], scope=place[0])
    source.forgotten[place] = max(written, source.forgotten[place])


async def crowd(source: Source, caches: list[Any], stale_s: float, forgetting: bool) -> None:
    rng = source.rng
    asked: list[asyncio.Task[None]] = []
    changed: list[asyncio.Task[None]] = []
    for _ in range(300):
        asked.append(
            asyncio.create_task(ask(source, rng.choice(caches), rng.choice(KEYS), stale_s))
        )
        if rng.random() < 0.7:
            await asyncio.sleep(rng.random() * 0.004)
        if rng.random() < 0.3:
            rng.choice(asked).cancel()
        if forgetting and rng.random() < 0.15:
            changing = change(source, rng.choice(caches), rng.choice(KEYS))
            changed.append(asyncio.create_task(changing))
    await asyncio.gather(*changed)
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert answer is None or isinstance(answer, asyncio.CancelledError), repr(answer)
    await eventually(lambda: all(cache.stats().flights == 0 for cache in caches))
    assert set(source.running.values()) == {0}
    assert source.begun < 300
    if not forgetting:
        assert source.together == 1


@pytest.mark.parametrize("forgetting", [False, True])
@pytest.mark.parametrize("stale_s", [0.0, 0.1])
def test_a_crowd_in_one_process(rng: random.Random, stale_s: float, forgetting: bool) -> None:
    asyncio.run(crowd(Source(rng), [InProcessCache()], stale_s, forgetting))


@pytest.mark.parametrize("forgetting", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crowd_over_two_processes(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    backend: str,
    rng: random.Random,
    forgetting: bool,
) -> None:
    url = empty_cache(request, tmp_path, backend)

    async def main() -> None:
        async with two_caches(url) as caches:
            await crowd(Source(rng), list(caches), rng.choice([0.0, 0.1]), forgetting)

    asyncio.run(asyncio.wait_for(main(), 60))
