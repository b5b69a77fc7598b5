"""Threads for jobs whose code is not async."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from crowdsafe.traffic.queue.running import RunningJob

__all__ = ["GRACE_S", "Threads"]

GRACE_S = 5.0
_LOOK_S = 0.25


class Threads:
    """At most ``most`` threads, made when they are first needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._leave_at: float | None = None

    async def run(self, fn: Callable[[RunningJob], Any], job: RunningJob) -> Any:
        """Run ``fn(job)`` in a thread, and return or raise when that has ended.

        A thread cannot be stopped: when the caller is cancelled it is told by ``job.cancelled``,
        and waited for, however long it takes. Only after ``end`` that is five seconds more; then
        ``job.left_running`` says that it still runs.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most, thread_name_prefix=self._name)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, context.run, fn, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            job.cancelled.set()
            while not future.done() and (self._leave_at or math.inf) > time.monotonic():
                await _look_at(future)
            job.left_running = not future.done()
            raise

    def begin(self) -> None:
        """Wait for threads as long as they take, from here on."""
        self._leave_at = None

    def end(self) -> None:
        """Wait for threads that were told to stop no longer than five seconds from here on."""
        self._leave_at = time.monotonic() + GRACE_S

    def close(self) -> None:
        """Wait for nothing: what still runs ends with its own code."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


async def _look_at(future: asyncio.Future[Any]) -> None:
    """Wait a moment for it. The caller is being cancelled already; once more changes nothing."""
    with suppress(asyncio.CancelledError):
        await asyncio.wait([future], timeout=_LOOK_S)
