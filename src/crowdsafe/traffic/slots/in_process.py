"""Slots that live in one process."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from crowdsafe.traffic.keys import check_key
from crowdsafe.traffic.slots.slot import Slot, check_limit, check_wait, no_slot

__all__ = ["InProcessSlots"]

WAITING_MAX = 10_000


class _Key:
    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class InProcessSlots:
    """At most ``limit`` (1 to 1000) holders of a key at a time, among the tasks of one event loop.

    ``async with slots.hold(key):`` takes a slot, or raises NoSlot at once; with ``wait_s`` it waits
    so long for its turn, first come first served.

    Holds: never more than ``limit`` holders of a key; a slot comes back when its block ends,
    however it ends; memory for held keys and at most 10,000 waiting tasks only.
    Does not hold: anything across processes or event loops (``DatabaseSlots``, ``ValkeySlots``).
    Proved by ``tests/traffic/test_slots.py``.

    Raises ConfigError.
    """

    def __init__(self, limit: int) -> None:
        self.limit = check_limit(limit)
        self._keys: dict[str, _Key] = {}
        self._waiting = 0

    def hold(self, key: str, *, wait_s: float = 0.0) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot of ``key`` (1 to 200 characters) for the block; wait at most ``wait_s`` (up
        to 300) seconds for it. Raises NoSlot, InvalidInput, ConfigError."""
        return self._hold(check_key(key), check_wait(wait_s))

    def held(self, key: str) -> int:
        """How many hold a slot of ``key`` now."""
        state = self._keys.get(key)
        return state.held if state else 0

    @asynccontextmanager
    async def _hold(self, key: str, wait_s: float) -> AsyncIterator[Slot]:
        state = self._keys.setdefault(key, _Key())
        if state.held < self.limit:
            state.held += 1
        else:
            await self._wait(key, state, wait_s)
        try:
            yield Slot(key, uuid.uuid4().hex)
        finally:
            self._give(key, state)

    async def _wait(self, key: str, state: _Key, wait_s: float) -> None:
        if not wait_s or self._waiting >= WAITING_MAX:
            raise no_slot(self.limit)
        turn = asyncio.get_running_loop().create_future()
        state.waiting.append(turn)
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came together with the end of the wait
                self._give(key, state)
            else:
                with suppress(ValueError):  # whoever gives a slot may have passed it over already
                    state.waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise no_slot(self.limit) from None
            raise
        finally:
            self._waiting -= 1

    def _give(self, key: str, state: _Key) -> None:
        """Hand a slot to whoever waits longest, else free it."""
        while state.waiting:
            turn = state.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        state.held -= 1
        if not state.held:
            del self._keys[key]
