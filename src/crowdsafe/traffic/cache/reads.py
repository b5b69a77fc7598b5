"""Many reads at once share a few questions to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Reads"]

V = TypeVar("V")

TOGETHER_MAX = 50


class Reads(Generic[V]):
    """One read goes out alone; those that come meanwhile are gathered, each address once, and asked
    for together. A read never gets the answer to a question that was asked before it came."""

    def __init__(
        self, look: Callable[[Sequence[str]], Awaitable[dict[str, V]]], wait_s: float
    ) -> None:
        self._look = look
        self._wait_s = wait_s
        self._busy = False
        self._waiting: dict[str, list[asyncio.Future[V | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, address: str) -> V | None:
        """What is stored for an address, or None; within twice ``wait_s``.

        Raises TimeoutError, and what the server's answer raised.
        """
        if not self._busy:
            self._busy = True
            try:
                async with asyncio.timeout(self._wait_s):
                    return (await self._look((address,))).get(address)
            finally:
                self._busy = False
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        same = self._waiting.get(address)
        if same is None:
            self._waiting[address] = [future]
        else:
            same.append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._ask(), name="crowdsafe-cache-reads")
        return await future

    def reset(self) -> None:
        """Forget what an event loop that is closed has left."""
        self._busy = False
        self._waiting = {}
        self._task = None

    async def _ask(self) -> None:
        asked: dict[str, list[asyncio.Future[V | None]]] = {}
        try:
            while self._waiting:
                names = list(self._waiting)[:TOGETHER_MAX]
                asked = {name: self._waiting.pop(name) for name in names}
                async with asyncio.timeout(self._wait_s):
                    found = await self._look(names)
                for name, futures in asked.items():
                    value = found.get(name)
                    for future in futures:
                        if not future.done():
                            future.set_result(value)
        except Exception as error:
            self._end(asked, error)
        finally:
            self._task = None
            self._end(asked, None)

    def _end(
        self, asked: dict[str, list[asyncio.Future[V | None]]], error: Exception | None
    ) -> None:
        """Answer all who wait with the error, or by cancelling where the loop itself ends."""
        for futures in (*asked.values(), *self._waiting.values()):
            for future in futures:
                if not future.done() and error is not None:
                    future.set_exception(error)
                else:
                    future.cancel()
        self._waiting.clear()
