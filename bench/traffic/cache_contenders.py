"""Caches, each opened around one function that is slow or not: call it with a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import valkey.asyncio
from async_lru import alru_cache
from cashews import Cache

from crowdsafe.store import AsyncStore
from crowdsafe.traffic import PUBLIC, DatabaseCache, InProcessCache, ValkeyCache

Make = Callable[[str], Coroutine[Any, Any, str]]
Opened = AbstractAsyncContextManager[Make]

TTL_S = 4.0
"""Everybody's time to live. cashews holds its lock as long, and crowdsafe is given a lease of the
same length, so it is what a dead leader costs."""
CONNECTIONS = 16


@asynccontextmanager
async def ours_in_process(make: Make, _url: str) -> AsyncIterator[Make]:
    cache = InProcessCache()

    async def call(key: str) -> str:
        return await cache.get_or_run(key, lambda: make(key), scope=PUBLIC, ttl_s=TTL_S)

    yield call


@asynccontextmanager
async def ours_decorated(make: Make, _url: str) -> AsyncIterator[Make]:
    cache = InProcessCache()

    @cache.cached(ttl_s=TTL_S, key=lambda key: key, scope=PUBLIC)
    async def call(key: str) -> str:
        return await make(key)

    yield call


@asynccontextmanager
async def ours_database(make: Make, url: str) -> AsyncIterator[Make]:
    async with AsyncStore(url) as store:
        await store.create_all()
        cache = DatabaseCache(store, name="bench", lease_s=TTL_S)

        async def call(key: str) -> str:
            return await cache.get_or_run(key, lambda: make(key), scope=PUBLIC, ttl_s=TTL_S)

        yield call


@asynccontextmanager
async def ours_valkey(make: Make, url: str) -> AsyncIterator[Make]:
    async with valkey.asyncio.Valkey.from_url(url, max_connections=CONNECTIONS * 4) as client:
        cache = ValkeyCache(client, name="bench", lease_s=TTL_S)

        async def call(key: str) -> str:
            return await cache.get_or_run(key, lambda: make(key), scope=PUBLIC, ttl_s=TTL_S)

        yield call


@asynccontextmanager
async def async_lru(make: Make, _url: str) -> AsyncIterator[Make]:
    cached = alru_cache(maxsize=10_000, ttl=TTL_S)(make)
    yield cached
    await cached.cache_close()


@asynccontextmanager
async def bare_dict(make: Make, _url: str) -> AsyncIterator[Make]:
    held: dict[str, str] = {}

    async def call(key: str) -> str:
        if (value := held.get(key)) is None:
            value = held[key] = await make(key)
        return value

    yield call


@asynccontextmanager
async def cashews(make: Make, url: str) -> AsyncIterator[Make]:
    async with _cashews(url) as cache:
        yield cache(ttl=TTL_S, key="{key}")(_named(make))


@asynccontextmanager
async def cashews_locked(make: Make, url: str) -> AsyncIterator[Make]:
    async with _cashews(url) as cache:
        yield cache(ttl=TTL_S, key="{key}", lock=True)(_named(make))


@asynccontextmanager
async def naive_valkey(make: Make, url: str) -> AsyncIterator[Make]:
    """GET, else run and SET: what one writes first."""
    async with valkey.asyncio.Valkey.from_url(url, decode_responses=True) as client:

        async def call(key: str) -> str:
            value: str | None = await client.get(key)
            if value is None:
                value = await make(key)
                await client.set(key, value, px=int(TTL_S * 1000))
            return value

        yield call


@asynccontextmanager
async def _cashews(url: str) -> AsyncIterator[Cache]:
    cache = Cache()
    cache.setup(url.replace("valkey://", "redis://"))
    yield cache
    await cache.close()


def _named(make: Make) -> Make:
    """cashews reads the parameter's name from the signature."""

    async def call(key: str) -> str:
        return await make(key)

    return call


CACHES: dict[str, Callable[[Make, str], Opened]] = {
    "ours-in-process": ours_in_process,
    "ours-decorated": ours_decorated,
    "ours-database": ours_database,
    "ours-valkey": ours_valkey,
    "async-lru": async_lru,
    "bare-dict": bare_dict,
    "cashews": cashews,
    "cashews-locked": cashews_locked,
    "naive-valkey": naive_valkey,
}
