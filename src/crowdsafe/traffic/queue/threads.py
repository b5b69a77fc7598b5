"""Threads for jobs whose code is not async."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crowdsafe.traffic.queue.running import RunningJob

__all__ = ["Threads"]

GRACE_S = 5.0


class Threads:
    """At most ``most`` threads, made when they are first needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, fn: Callable[[RunningJob], Any], job: RunningJob) -> Any:
        """Run ``fn(job)`` in a thread. When the caller is cancelled, the thread is told by
        ``job.cancelled`` and has five seconds to return by itself, since it cannot be stopped;
        then it is no longer waited for."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most, thread_name_prefix=self._name)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, context.run, fn, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            job.cancelled.set()
            await asyncio.wait([future], timeout=GRACE_S)
            job.left_running = not future.done()
            raise

    def close(self) -> None:
        """Wait for nothing: what still runs ends with its own code."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
