"""Shared caches on each backend, and the slow function that the tests count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from valkey.asyncio import Valkey

from crowdsafe import AsyncStore, Settings
from crowdsafe.traffic import PUBLIC, DatabaseCache, ValkeyCache
from crowdsafe.traffic.cache.scope import address_of

SharedCache = DatabaseCache | ValkeyCache


class Maker:
    """A slow function that counts: it goes on when ``gate`` is set."""

    def __init__(self, value: Any = "value", *, open_gate: bool = False) -> None:
        self.value = value
        self.begun = self.ended = self.cancelled = self.together = 0
        self.running = 0
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()

    async def __call__(self) -> Any:
        self.begun += 1
        self.running += 1
        self.together = max(self.together, self.running)
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.ended += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class NaiveCache:
    """What everyone writes first: look, make, store."""

    def __init__(self, cache: SharedCache | None = None) -> None:
        self.values: dict[str, Any] = {}
        self.backend: Any = cache and cache._backend

    async def get_or_run(self, key: str, make: Callable[[], Awaitable[Any]], **_: Any) -> Any:
        if self.backend is None:
            if key not in self.values:
                self.values[key] = await make()
            return self.values[key]
        address = address_of(PUBLIC, key)
        found = await self.backend.look([address])
        if not found:
            value = await make()
            claim = await self.backend.claim(address, 1000, 0)
            await self.backend.publish(address, claim.token, json.dumps(value), 1000, 1000)
            return value
        return json.loads(found[address].text)


async def eventually(true: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def met(cache: SharedCache) -> asyncio.Event:
    """Set when this cache has learnt that another process makes a value, and waits for it."""
    learnt, claim, backend = asyncio.Event(), cache._backend.claim, cache._backend

    async def claimed(*args: Any) -> Any:
        answer = await claim(*args)
        if answer.busy:
            learnt.set()
        return answer

    backend.claim = claimed  # type: ignore[method-assign]
    return learnt


async def asking(
    cache: Any, make: Callable[[], Awaitable[Any]], many: int, key: str = "k", **more: Any
) -> list[asyncio.Task[Any]]:
    """Many callers that have begun to ask."""
    options = {"scope": PUBLIC, "ttl_s": 60.0} | more
    tasks = [asyncio.create_task(cache.get_or_run(key, make, **options)) for _ in range(many)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


@asynccontextmanager
async def two_caches(url: str, **options: Any) -> AsyncIterator[tuple[SharedCache, SharedCache]]:
    """Two caches of one name that know nothing of each other, as in two processes."""
    async with (
        one_cache(url, **options) as first,
        one_cache(url, **options) as second,
    ):
        yield first, second


@asynccontextmanager
async def one_cache(url: str, **options: Any) -> AsyncIterator[SharedCache]:
    options = {"name": "test"} | options
    if url.startswith(("redis", "valkey")):
        async with Valkey.from_url(url) as client:
            cache = ValkeyCache(client, **options)
            try:
                yield cache
            finally:
                await cache.close()
    else:
        async with AsyncStore(url, Settings(pool_timeout_s=30, deadline_s=30)) as store:
            kept = DatabaseCache(store, **options)
            try:
                yield kept
            finally:
                await kept.close()
