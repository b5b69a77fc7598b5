"""Slots that processes share through Valkey or Redis."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from crowdsafe.traffic.arguments import check_client
from crowdsafe.traffic.keys import check_key, check_name
from crowdsafe.traffic.scripts import Script, check_timeout
from crowdsafe.traffic.slots.leases import hold
from crowdsafe.traffic.slots.slot import Slot, check_lease, check_limit, check_wait

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

__all__ = ["ValkeySlots"]

# The key holds a sorted set: holders by the end of their lease in microseconds.
_BEGIN = """
local key, id, lease, limit = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local last = string.format('%.0f', now + lease)
local function store()
  redis.call('ZADD', key, last, id)
  local ms = math.ceil(lease / 1000) + 1
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
  return 1
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
local held = redis.call('ZSCORE', key, id)
"""

# No lease ends later than one that begins now, unless the clock has gone back.
_TAKE = Script(
    _BEGIN
    + """
for _, other in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. last, '+inf')) do
  redis.call('ZADD', key, last, other)
end
if not held and redis.call('ZCARD', key) >= limit then return 0 end
return store()
"""
)
_RENEW = Script(
    _BEGIN
    + """
if not held then return 0 end
return store()
"""
)
_GIVE = Script("return redis.call('ZREM', KEYS[1], ARGV[1])")


class ValkeySlots:
    """At most ``limit`` (1 to 1000) holders of a key at a time, over all processes of one Valkey
    or Redis server.

    ``async with slots.hold(key) as slot:`` takes a slot, or raises NoSlot at once; with ``wait_s``
    it asks again until so long. A slot is a lease of ``lease_s`` seconds, renewed while it is
    held; the lease of a holder that was killed ends by itself.

    Holds: never more than ``limit`` leases of a key at a time; a slot comes back when its block
    ends, also by a cancel, and after ``lease_s`` when its process was killed; a holder whose lease
    ended under it (frozen, or the server away or restarted) is told by ``slot.lost`` and
    ``slot.check()``.
    Does not hold: after the server forgot its data (a restart without persistence, an eviction)
    others are let in at once, and the old holders learn it at their next renewal, up to a third of
    ``lease_s`` later; that a holder who was told stops; the order of those who wait.
    Proved by ``tests/traffic/test_slots_shared.py``, ``tests/traffic/test_slots_valkey.py``.

    ``client`` is an asyncio client of the caller's, who closes it. ``name`` (1 to 80 characters)
    tells slots apart: those of one name need one limit and lease. ``lease_s`` is 0.1 to 3600; one
    call to the server takes at most ``timeout_s`` seconds (at most 60). Raises ConfigError.
    """

    def __init__(
        self,
        client: Valkey | Any,
        limit: int,
        *,
        name: str,
        lease_s: float = 30.0,
        timeout_s: float = 1.0,
    ) -> None:
        self.limit = check_limit(limit)
        self.name = check_name(name)
        self.lease_s = check_lease(lease_s)
        self._timeout_s = check_timeout(timeout_s)
        self._client = check_client("ValkeySlots", client)

    def hold(self, key: str, *, wait_s: float = 0.0) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot of ``key`` (1 to 200 characters) for the block; wait at most ``wait_s`` (up
        to 300) seconds for it.

        Raises NoSlot, InvalidInput, and ValkeyUnavailable (503) when the server does not answer.
        """
        return hold(self, check_key(key), check_wait(wait_s))

    async def take(self, key: str, id: str) -> bool:
        """Begin a lease, by hand; false when all are held. ``hold`` does this and the rest."""
        return await self._run(_TAKE, key, id)

    async def renew(self, key: str, id: str) -> bool:
        """Begin the lease anew; false when it has ended."""
        return await self._run(_RENEW, key, id)

    async def give(self, key: str, id: str) -> None:
        """End the lease."""
        await self._run(_GIVE, key, id)

    async def _run(self, script: Script, key: str, id: str) -> bool:
        answer = await script.run(
            self._client,
            [f"crowdsafe:slots:{self.name}:{key}"],
            id,
            round(self.lease_s * 1_000_000),
            self.limit,
            timeout_s=self._timeout_s,
        )
        return bool(answer)
