"""The limiter that processes share through Valkey or Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from crowdsafe.traffic.arguments import check_client
from crowdsafe.traffic.keys import check_key, check_name
from crowdsafe.traffic.rates.rate import Decision, Rate, check_is_rate, refused
from crowdsafe.traffic.rates.refusals import Refusals
from crowdsafe.traffic.scripts import Script, check_timeout

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

__all__ = ["ValkeyLimiter"]

# The key holds a list: the times of the last accepted requests in microseconds, oldest first.
# Where the server's clock has gone back, they all move back with it, so that a window lasts no
# longer than it should. At most 32 expired times are dropped in a call, so that none takes long.
_CHECK = Script("""
local key, limit, window = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function at(index) return tonumber(redis.call('LINDEX', key, index) or nil) end

local newest = at(-1)
if newest and newest > now then
  local times = redis.call('LRANGE', key, 0, -1)
  redis.call('DEL', key)
  for _, time in ipairs(times) do
    redis.call('RPUSH', key, string.format('%.0f', time - newest + now))
  end
  newest = now
end

local count = redis.call('LLEN', key)
local oldest, dropped = at(0), 0
while oldest and oldest + window <= now and dropped < 32 do
  redis.call('LPOP', key)
  count, dropped, oldest = count - 1, dropped + 1, at(0)
end

if count < limit then
  redis.call('RPUSH', key, string.format('%.0f', now))
  redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1)
  return {1, limit - count - 1, window, 0}
end
local bar = count == limit and oldest or at(count - limit)
return {0, 0, newest + window - now, bar + window - now}
""")


class ValkeyLimiter:
    """A rate limit for each key, shared by every process that uses one Valkey or Redis server.

    A sliding log like ``InProcessLimiter``'s, kept by one Lua script with the server's clock: one
    round trip a decision, none for a client whom this process has just refused.

    Holds: never more than ``rate.limit`` accepted in any window of ``rate.window_s`` seconds for a
    key, over all processes, also after the server's clock went back; no refusal while fewer were
    accepted; nothing is allowed while the server does not answer.
    Does not hold: what the server forgets (a restart without persistence, an eviction, FLUSHALL)
    is not counted any more; a clock that jumps ahead ends windows early.
    Proved by ``tests/traffic/test_rates_shared.py``, ``tests/traffic/test_rates_valkey.py``.

    ``client`` is an asyncio client of the caller's, who closes it; give its pool a
    ``max_connections``. ``name`` (1 to 80 characters) tells limiters apart: those of one name need
    one rate. Decisions take at most ``timeout_s`` seconds (at most 60). Raises ConfigError.
    """

    def __init__(
        self, client: Valkey | Any, rate: Rate, *, name: str, timeout_s: float = 1.0
    ) -> None:
        self.rate = check_is_rate(rate)
        self.name = check_name(name)
        self._timeout_s = check_timeout(timeout_s)
        self._client = check_client("ValkeyLimiter", client)
        self._refusals = Refusals(rate)
        self._window_us = round(rate.window_s * 1_000_000)

    async def check(self, key: str) -> Decision:
        """Count a request for ``key`` (1 to 200 characters), if it is allowed.

        Raises InvalidInput, and ValkeyUnavailable (503) when the server does not answer in time.
        """
        check_key(key)
        asked_at = time.monotonic()
        if (standing := self._refusals.standing(key, asked_at)) is not None:
            return standing
        allowed, remaining, reset_us, retry_us = await _CHECK.run(
            self._client,
            [f"crowdsafe:rate:{self.name}:{key}"],
            self.rate.limit,
            self._window_us,
            timeout_s=self._timeout_s,
        )
        decision = Decision(bool(allowed), self.rate, remaining, reset_us / 1e6, retry_us / 1e6)
        self._refusals.note(key, asked_at, decision)
        return decision

    async def require(self, key: str) -> Decision:
        """As ``check``, but raises RateLimited when the request is not allowed."""
        decision = await self.check(key)
        if not decision.allowed:
            raise refused(decision)
        return decision
