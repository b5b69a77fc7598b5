"""The cache in the database: for those who have no Valkey, and for values that are dear."""

from __future__ import annotations

from collections.abc import Sequence

from crowdsafe.errors import ConfigError
from crowdsafe.store.stores import AsyncStore
from crowdsafe.traffic.arguments import check_async_store, check_whole
from crowdsafe.traffic.cache import steps
from crowdsafe.traffic.cache.backend import Claim, Found
from crowdsafe.traffic.cache.reads import Reads
from crowdsafe.traffic.cache.shared import OnOutage, SharedCache
from crowdsafe.traffic.cache.timing import COUNT_MAX
from crowdsafe.traffic.keys import check_name

__all__ = ["DatabaseCache"]

SWEEPS_MAX = 20


class DatabaseCache(SharedCache):
    """Values in the database, for all processes that use the same ``name``.

    Holds, over all processes: for one scope and key, ``make`` runs once at a time, outside of any
    transaction, and all who ask meanwhile get what it gives, or its error (one that is not
    crowdsafe's is ExecutionFailed in the other processes); errors are not kept. A caller that is
    cancelled leaves the others untouched; when nobody waits in the process that makes it, the
    execution is cancelled, and one of those who wait elsewhere takes over. When that process dies,
    or its event loop stands still, the lease runs out after ``lease_s`` and exactly one other takes
    over; one that comes back stores nothing over what is newer. A stale value is refreshed by one
    execution in all. Two scopes never share a value, whatever the keys. Callers who wait in one
    process share one poll a key, every 10 to 250 ms, and the polls of many keys one query. No wait
    is without a limit.
    Does not hold: the transaction of whoever asks: a value is stored in a transaction of its own;
    ``items_max`` and ``bytes_max`` at each moment: every 100 stored values of a process are swept,
    those first that end soonest; anything for a ``make`` that asks for its own key through another
    process or another cache object: that ends with ExecutionTimedOut.
    Proved by ``tests/traffic/test_cache_shared.py`` and ``tests/traffic/test_cache_processes.py``.

    While the database does not answer within ``wait_s``, a call raises CacheUnavailable: what is
    behind a cache is slow or costs money, and without it every caller would go there at once.
    ``on_outage="run"`` makes the value all the same, once in each process and without storing it:
    for what is cheap. An execution that runs already goes on, and its callers get the value.
    Proved by ``tests/traffic/test_cache_away.py``.

    Values are JSON of at most ``value_bytes_max`` bytes. Belongs to the store's event loop.
    """

    def __init__(
        self,
        store: AsyncStore,
        *,
        name: str,
        items_max: int = 100_000,
        bytes_max: int = 1_000_000_000,
        lease_s: float = 10.0,
        wait_s: float = 5.0,
        value_bytes_max: int = 1_000_000,
        flights_max: int = 10_000,
        refreshes_max: int = 32,
        jitter: float = 0.1,
        on_outage: OnOutage = "raise",
    ) -> None:
        check_async_store("DatabaseCache", store)
        check_whole("items_max", items_max, 1, COUNT_MAX)
        check_whole("bytes_max", bytes_max, 1, COUNT_MAX)
        super().__init__(
            DatabaseBackend(store, check_name(name), items_max, bytes_max, wait_s),
            lease_s=lease_s,
            wait_s=wait_s,
            value_bytes_max=value_bytes_max,
            flights_max=flights_max,
            refreshes_max=refreshes_max,
            jitter=jitter,
            on_outage=on_outage,
        )
        if bytes_max < value_bytes_max:
            raise ConfigError(f"bytes_max is {bytes_max}, less than value_bytes_max")


class DatabaseBackend:
    """The steps of a shared cache as reads and writes of a store."""

    def __init__(
        self, store: AsyncStore, name: str, items_max: int, bytes_max: int, wait_s: float
    ) -> None:
        self._store = store
        self._name = name
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._polls = Reads(self._peek, wait_s)

    async def look(self, addresses: Sequence[str]) -> dict[str, Found]:
        return await self._store.read(steps.look, self._name, addresses)

    async def claim(self, address: str, lease_ms: int, waiting: int) -> Claim:
        if waiting:  # a poll: most of them find that it is still being made
            found = await self._polls.get((address, waiting))
            if found is not None:
                return found
        return await self._store.write(steps.claim, self._name, address, lease_ms, waiting)

    async def _peek(self, asked: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Claim]:
        return await self._store.read(steps.peek, self._name, asked)

    async def renew(self, address: str, token: int, lease_ms: int) -> bool:
        return await self._store.write(steps.renew, self._name, address, token, lease_ms)

    async def publish(
        self, address: str, token: int, text: str, fresh_ms: int, stale_ms: int
    ) -> bool:
        return await self._store.write(
            steps.publish, self._name, address, token, text, fresh_ms, stale_ms
        )

    async def fail(self, address: str, token: int, error: str) -> None:
        await self._store.write(steps.free, self._name, address, token, error)

    async def release(self, address: str, token: int) -> None:
        await self._store.write(steps.free, self._name, address, token, None)

    async def forget(self, address: str) -> None:
        await self._store.write(steps.forget, self._name, address)

    async def sweep(self) -> None:
        for _ in range(SWEEPS_MAX):
            gone = await self._store.write(
                steps.sweep, self._name, self._items_max, self._bytes_max
            )
            if gone < steps.SWEEP_MAX:
                return
