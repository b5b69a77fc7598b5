"""Rate limiters, each opened with one limit: ask whether a key may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from time import monotonic

import limits
import limits.aio
import pyrate_limiter
import redis.asyncio
import valkey.asyncio

from crowdsafe.store import AsyncStore
from crowdsafe.traffic import DatabaseLimiter, InProcessLimiter, Rate, ValkeyLimiter

Ask = Callable[[str], bool]
AskAsync = Callable[[str], Awaitable[bool]]
Opened = AbstractContextManager[Ask]
OpenedAsync = AbstractAsyncContextManager[AskAsync]

CONNECTIONS = 64

GCRA_LUA = """
local now = redis.call('TIME')
local now_s = now[1] + now[2] / 1e6
local window_s, emission_s = tonumber(ARGV[1]), tonumber(ARGV[1]) / tonumber(ARGV[2])
local due_s = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now_s) + emission_s
if due_s - now_s > window_s then return 0 end
redis.call('SET', KEYS[1], string.format('%.6f', due_s), 'PX', math.ceil(window_s * 1000))
return 1
"""


class Gcra:
    """The generic cell rate algorithm: one number a key. A burst of `limit` and a refill."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.window_s = window_s
        self.emission_s = window_s / limit
        self.due_s: dict[str, float] = {}

    def allow(self, key: str) -> bool:
        now_s = monotonic()
        due_s = self.due_s.get(key, 0.0)
        due_s = (max(now_s, due_s)) + self.emission_s
        if due_s - now_s > self.window_s:
            return False
        self.due_s[key] = due_s
        return True


@contextmanager
def ours_allow(limit: int) -> Iterator[Ask]:
    yield InProcessLimiter(Rate(limit, 1.0)).allow


@contextmanager
def ours_check(limit: int) -> Iterator[Ask]:
    limiter = InProcessLimiter(Rate(limit, 1.0))
    yield lambda key: limiter.check(key).allowed


@contextmanager
def bare_gcra(limit: int) -> Iterator[Ask]:
    yield Gcra(limit, 1.0).allow


@contextmanager
def limits_memory(limit: int) -> Iterator[Ask]:
    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(limit)
    yield lambda key: limiter.hit(item, key)


@contextmanager
def pyrate_memory(limit: int) -> Iterator[Ask]:
    bucket = pyrate_limiter.InMemoryBucket([pyrate_limiter.Rate(limit, 1000)])
    limiter = pyrate_limiter.Limiter(bucket)
    yield lambda key: bool(limiter.try_acquire(key, blocking=False))
    limiter.close()


@asynccontextmanager
async def ours_valkey(limit: int, url: str) -> AsyncIterator[AskAsync]:
    async with valkey.asyncio.Valkey.from_url(url, max_connections=CONNECTIONS) as client:
        limiter = ValkeyLimiter(client, Rate(limit, 1.0), name="bench")

        async def ask(key: str) -> bool:
            return (await limiter.check(key)).allowed

        yield ask


@asynccontextmanager
async def ours_database(limit: int, url: str) -> AsyncIterator[AskAsync]:
    async with AsyncStore(url) as store:
        await store.create_all()
        limiter = DatabaseLimiter(store, Rate(limit, 1.0), name="bench")

        async def ask(key: str) -> bool:
            return (await limiter.check(key)).allowed

        yield ask


@asynccontextmanager
async def lua_gcra(limit: int, url: str) -> AsyncIterator[AskAsync]:
    async with valkey.asyncio.Valkey.from_url(url, max_connections=CONNECTIONS) as client:
        script = client.register_script(GCRA_LUA)

        async def ask(key: str) -> bool:
            return bool(await script(keys=[key], args=[1, limit]))

        yield ask


@asynccontextmanager
async def limits_valkey(limit: int, url: str) -> AsyncIterator[AskAsync]:
    storage = limits.aio.storage.RedisStorage(f"async+{url}", max_connections=CONNECTIONS)
    limiter = limits.aio.strategies.MovingWindowRateLimiter(storage)
    item = limits.RateLimitItemPerSecond(limit)
    yield lambda key: limiter.hit(item, key)
    await storage.bridge.storage.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def pyrate_valkey(limit: int, url: str) -> AsyncIterator[AskAsync]:
    address = url.replace("valkey://", "redis://")
    async with redis.asyncio.Redis.from_url(address, max_connections=CONNECTIONS) as client:
        rates = [pyrate_limiter.Rate(limit, 1000)]
        bucket = await pyrate_limiter.RedisBucket.init(rates, client, "bench")
        limiter = pyrate_limiter.Limiter(bucket)
        yield lambda key: limiter.try_acquire_async(key, blocking=False)
        limiter.close()
