"""A breaker whose circuit is one key in Valkey."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from crowdsafe.errors import Overloaded
from crowdsafe.traffic.arguments import check_client
from crowdsafe.traffic.breaker.circuit import Circuit, Decide
from crowdsafe.traffic.breaker.guard import Breaker
from crowdsafe.traffic.breaker.settings import BreakerSettings, check_settings
from crowdsafe.traffic.scripts import Script

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

__all__ = ["ValkeyBreaker"]

T = TypeVar("T")

_TRIES = 200
_KEPT_S_MIN = 3600.0

_READ = Script("""
local time = redis.call('TIME')
return {1, time[1], time[2], redis.call('GET', KEYS[1]) or ''}
""")

_SWAP = Script("""
local time = redis.call('TIME')
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then
    return {0, time[1], time[2], found}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1, time[1], time[2], ARGV[2]}
""")


class ValkeyBreaker(Breaker):
    """A breaker that all processes share through Valkey (see ``InProcessBreaker``).

    ``client`` is a ``valkey.asyncio.Valkey`` of the caller's own. A call that is let through and
    succeeds costs one read in half a second and no write. A failure and a probe are one
    compare-and-set each, run again when somebody else came first.

    Holds and does not hold what ``DatabaseBreaker`` does, by the clock of the server; besides, a
    server that loses its data, or fails over to a replica that lags, forgets that it was open.
    Proved by ``tests/traffic/test_breaker_shared.py``, ``tests/traffic/test_arguments.py``.
    Raises ConfigError for a client that is not an asyncio one.
    """

    def __init__(
        self,
        client: Valkey,
        name: str,
        settings: BreakerSettings | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        settings = check_settings(settings)
        check_client("ValkeyBreaker", client)
        keeper = _ValkeyKeeper(client, f"crowdsafe:breaker:{name}", settings)
        super().__init__(name, settings, keeper=keeper, rng=rng)


class _ValkeyKeeper:
    def __init__(self, client: Any, key: str, settings: BreakerSettings) -> None:
        self._client = client
        self._key = key
        self._limit_s = settings.backend_s
        longest_s = settings.window_s + settings.cooldown_max_s + settings.probe_s
        self._kept_ms = int(1000 * max(_KEPT_S_MIN, 10 * longest_s))

    async def read(self) -> tuple[Circuit, float]:
        _, now, text = await self._run(_READ)
        return _decoded(text), now

    async def change(self, decide: Decide[T]) -> tuple[Circuit, float, T]:
        _, now, text = await self._run(_READ)
        for _ in range(_TRIES):
            before = _decoded(text)
            circuit, answer = decide(before, now)
            if circuit == before:
                return circuit, now, answer
            wanted = json.dumps(asdict(circuit), separators=(",", ":"))
            swapped, now, text = await self._run(_SWAP, text, wanted, self._kept_ms)
            if swapped:
                return circuit, now, answer
        raise Overloaded(f"the breaker {self._key} changed {_TRIES} times meanwhile")

    async def _run(self, script: Script, *args: str | int) -> tuple[bool, float, str]:
        done, seconds, micros, text = await script.run(
            self._client, [self._key], *args, timeout_s=self._limit_s
        )
        text = text.decode() if isinstance(text, bytes) else text
        return bool(done), int(seconds) + int(micros) / 1e6, text


def _decoded(text: str) -> Circuit:
    if not text:
        return Circuit()
    fields: dict[str, Any] = json.loads(text)
    return Circuit(**{**fields, "failed_at": tuple(fields["failed_at"])})
