"""The cache on Valkey or Redis: one GET for a hit, Lua scripts for the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from crowdsafe.traffic.arguments import check_client
from crowdsafe.traffic.cache.backend import HANDOVER_MS, Claim, Found
from crowdsafe.traffic.cache.shared import OnOutage, SharedCache
from crowdsafe.traffic.keys import check_name
from crowdsafe.traffic.scripts import Script

__all__ = ["ValkeyCache"]

RECORD_MS = 3_600_000
TOLD_MS = 60_000

# Two keys for an address, in one slot of a cluster. The value: "fresh stale token json", the times
# in milliseconds of the server's clock. The lease, a hash: token and until (both in microseconds),
# failed (the token of the last execution that raised) and its error. Tokens come from the clock and
# never go back while the hash lives, so a leader that was paused holds an older one, or none.
_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local lease = redis.call('HMGET', KEYS[2], 'token', 'until', 'failed', 'error')
local newest = tonumber(lease[1] or '0')
local function number(n) return string.format('%.0f', n) end
"""
_CLAIM = Script(
    _NOW
    + """
local waiting = tonumber(ARGV[2])
local value = redis.call('GET', KEYS[1])
if value then
  local fresh, token = string.match(value, '^(%d+) %d+ (%d+) ')
  if now < tonumber(fresh) * 1000 or (waiting > 0 and tonumber(token) >= waiting) then
    return {'value', value}
  end
end
if waiting > 0 and tonumber(lease[3] or '0') >= waiting then return {'error', lease[4]} end
if now < tonumber(lease[2] or '0') then return {'busy', number(newest)} end
local token = math.max(now, newest + 1)
redis.call('HSET', KEYS[2], 'token', number(token), 'until', number(now + ARGV[1] * 1000))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {'token', number(token)}
"""
)
_RENEW = Script(
    _NOW
    + """
if newest ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[2], 'until', number(now + ARGV[2] * 1000))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""
)
_PUBLISH = Script(
    _NOW
    + """
if newest ~= tonumber(ARGV[1]) then return 0 end
local ms = math.floor(now / 1000)
local head = number(ms + ARGV[3]) .. ' ' .. number(ms + ARGV[4]) .. ' ' .. ARGV[1] .. ' '
redis.call('SET', KEYS[1], head .. ARGV[2], 'PX', ARGV[5])
redis.call('DEL', KEYS[2])
return 1
"""
)
_FREE = Script(
    _NOW
    + """
if newest ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[2], 'until', '0')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], 'failed', ARGV[1], 'error', ARGV[2]) end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""
)


class ValkeyCache(SharedCache):
    """Values on a Valkey or Redis server, for all processes that use the same ``name``.

    ``client`` is a ``valkey.asyncio.Valkey`` (or ``redis.asyncio.Redis``) of the caller's.

    Holds, over all processes: for one scope and key, ``make`` runs once at a time, and all who ask
    meanwhile get what it gives, or its error (one that is not crowdsafe's is ExecutionFailed in
    the other processes); errors are not kept. A caller that is cancelled leaves the others
    untouched; when nobody waits in the process that makes it, the execution is cancelled, and one
    of those who wait elsewhere takes over. When that process dies, or its event loop stands still,
    the lease runs out after ``lease_s`` and exactly one other takes over; one that comes back
    stores nothing over what is newer. A stale value is refreshed by one execution in all. Two
    scopes never share a value, whatever the keys. A hit is one GET; no wait is without a limit.
    Does not hold: one execution when the server forgets (a restart without persistence, eviction
    under ``maxmemory``, failover to a replica that lags); a bound on the server's memory, which is
    ``maxmemory``'s; anything for a ``make`` that asks for its own key through another process or
    another cache object: that ends with ExecutionTimedOut. Whether a value is stale is told by
    this process's clock; that it has ended, by the server's.
    Proved by ``tests/traffic/test_cache_shared.py`` and ``tests/traffic/test_cache_processes.py``.

    While the server does not answer within ``wait_s``, a call raises CacheUnavailable: what is
    behind a cache is slow or costs money, and without it every caller would go there at once.
    ``on_outage="run"`` makes the value all the same, once in each process and without storing it:
    for what is cheap. An execution that runs already goes on, and its callers get the value.
    Proved by ``tests/traffic/test_cache_away.py``.

    Values are JSON of at most ``value_bytes_max`` bytes. Belongs to one event loop.
    """

    def __init__(
        self,
        client: Any,
        *,
        name: str,
        lease_s: float = 10.0,
        wait_s: float = 2.0,
        value_bytes_max: int = 1_000_000,
        flights_max: int = 10_000,
        refreshes_max: int = 32,
        jitter: float = 0.1,
        on_outage: OnOutage = "raise",
    ) -> None:
        check_client("ValkeyCache", client)
        super().__init__(
            ValkeyBackend(client, check_name(name), wait_s),
            lease_s=lease_s,
            wait_s=wait_s,
            value_bytes_max=value_bytes_max,
            flights_max=flights_max,
            refreshes_max=refreshes_max,
            jitter=jitter,
            on_outage=on_outage,
        )


class ValkeyBackend:
    """The steps of a shared cache on Valkey."""

    def __init__(self, client: Any, name: str, wait_s: float) -> None:
        self._client = client
        self._prefix = f"crowdsafe:cache:{name}:"
        self._wait_s = wait_s

    async def look(self, addresses: Sequence[str]) -> dict[str, Found]:
        if len(addresses) == 1:
            stored = [await self._client.get(self._keys(addresses[0])[0])]
        else:
            stored = await self._client.mget([self._keys(address)[0] for address in addresses])
        now_ms = time.time() * 1000
        found = {}
        for address, value in zip(addresses, stored, strict=True):
            if value is None:
                continue
            fresh_ms, stale_ms, _, text = _text(value).split(" ", 3)
            if now_ms < int(stale_ms):
                found[address] = Found(text, now_ms < int(fresh_ms))
        return found

    async def claim(self, address: str, lease_ms: int, waiting: int) -> Claim:
        answer, told = await self._run(_CLAIM, address, lease_ms, waiting, RECORD_MS + lease_ms)
        match _text(answer):
            case "value":
                return Claim(text=_text(told).split(" ", 3)[3])
            case "error":
                return Claim(error=_text(told))
            case "busy":
                return Claim(busy=int(told))
            case _:
                return Claim(token=int(told))

    async def renew(self, address: str, token: int, lease_ms: int) -> bool:
        return bool(await self._run(_RENEW, address, token, lease_ms, RECORD_MS + lease_ms))

    async def publish(
        self, address: str, token: int, text: str, fresh_ms: int, stale_ms: int
    ) -> bool:
        keep_ms = max(stale_ms, HANDOVER_MS)
        return bool(await self._run(_PUBLISH, address, token, text, fresh_ms, stale_ms, keep_ms))

    async def fail(self, address: str, token: int, error: str) -> None:
        await self._run(_FREE, address, token, error, TOLD_MS)

    async def release(self, address: str, token: int) -> None:
        await self._run(_FREE, address, token, "", TOLD_MS)

    async def forget(self, address: str) -> None:
        await self._client.delete(*self._keys(address))

    async def sweep(self) -> None:
        return

    def _keys(self, address: str) -> tuple[str, str]:
        return f"{self._prefix}{{{address}}}", f"{self._prefix}{{{address}}}:lease"

    async def _run(self, script: Script, address: str, *arguments: str | int) -> Any:
        return await script.run(
            self._client, self._keys(address), *arguments, timeout_s=self._wait_s
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
