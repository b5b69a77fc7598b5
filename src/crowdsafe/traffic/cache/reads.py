"""Many reads at once share a few questions to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Reads"]

V = TypeVar("V")

DIRECT_MAX = 4
TOGETHER_MAX = 50


class Reads(Generic[V]):
    """Up to four reads go out alone; those that come meanwhile are gathered, each address once,
    and asked for together. A read never gets an answer to a question from before it came."""

    def __init__(
        self, look: Callable[[Sequence[str]], Awaitable[dict[str, V]]], wait_s: float
    ) -> None:
        self._look = look
        self._wait_s = wait_s
        self._direct = 0
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, address: str) -> V | None:
        """What is stored for an address, or None. Raises what the server's answer raised."""
        if self._direct < DIRECT_MAX:
            self._direct += 1
            try:
                return (await self._look([address])).get(address)
            finally:
                self._direct -= 1
        future = self._waiting.get(address)
        if future is None:
            future = self._waiting[address] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._ask(), name="crowdsafe-cache-reads")
        return await asyncio.shield(future)

    def reset(self) -> None:
        """Forget what an event loop that is closed has left."""
        self._direct = 0
        self._waiting = {}
        self._task = None

    async def _ask(self) -> None:
        asked: dict[str, asyncio.Future[V | None]] = {}
        try:
            while self._waiting:
                names = list(self._waiting)[:TOGETHER_MAX]
                asked = {name: self._waiting.pop(name) for name in names}
                try:
                    async with asyncio.timeout(self._wait_s):
                        found = await self._look(names)
                except Exception as error:
                    for future in asked.values():
                        future.set_exception(error)
                        future.exception()  # whoever asked may have left
                else:
                    for name, future in asked.items():
                        future.set_result(found.get(name))
        finally:
            self._task = None
            for future in (*asked.values(), *self._waiting.values()):
                future.cancel()
            self._waiting = {}
