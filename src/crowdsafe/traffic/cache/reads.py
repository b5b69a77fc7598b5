"""Many reads at once share a few questions to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

__all__ = ["Reads", "in_time"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
V = TypeVar("V")

TOGETHER_MAX = 50
STALL_S = 0.05


async def in_time(step: Callable[[], Awaitable[R]], wait_s: float) -> R:
    """The step's answer within ``wait_s``. Raises TimeoutError.

    When the timer goes off late, this process itself stood still (it was stopped, or its event loop
    blocked), and the answer may be there unread: then the step gets as long again.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + wait_s
    more: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as limit:

        def ring() -> None:
            nonlocal more
            if loop.time() - due < STALL_S:
                limit.reschedule(due)
            else:
                more = loop.call_later(wait_s, limit.reschedule, loop.time())

        timer = loop.call_at(due, ring)
        try:
            return await step()
        finally:
            timer.cancel()
            if more is not None:
                more.cancel()


class Reads(Generic[K, V]):
    """One read goes out alone; those that come meanwhile are gathered, each key once, and asked for
    together. A read never gets the answer to a question that was asked before it came."""

    def __init__(self, look: Callable[[Sequence[K]], Awaitable[dict[K, V]]], wait_s: float) -> None:
        self._look = look
        self._wait_s = wait_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy = False
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """What the server has for a key, or None; within twice ``wait_s``.

        Raises TimeoutError, and what the server's answer raised.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the one before is closed
            self._loop, self._busy, self._waiting, self._task = loop, False, {}, None
        if not self._busy:
            self._busy = True
            try:
                return (await in_time(lambda: self._look((key,)), self._wait_s)).get(key)
            finally:
                self._busy = False
        future: asyncio.Future[V | None] = loop.create_future()
        same = self._waiting.get(key)
        if same is None:
            self._waiting[key] = [future]
        else:
            same.append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._ask(), name="crowdsafe-cache-reads")
        return await future

    async def _ask(self) -> None:
        asked: dict[K, list[asyncio.Future[V | None]]] = {}
        try:
            while self._waiting:
                names = list(self._waiting)[:TOGETHER_MAX]
                asked = {name: self._waiting.pop(name) for name in names}
                found = await in_time(partial(self._look, names), self._wait_s)
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

    def _end(self, asked: dict[K, list[asyncio.Future[V | None]]], error: Exception | None) -> None:
        """Answer all who wait with the error, or by cancelling where the loop itself ends."""
        for futures in (*asked.values(), *self._waiting.values()):
            for future in futures:
                if not future.done() and error is not None:
                    future.set_exception(error)
                else:
                    future.cancel()
        self._waiting.clear()
