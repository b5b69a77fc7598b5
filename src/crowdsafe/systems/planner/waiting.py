"""Wait for jobs to end, wherever they run: one look at the database for all who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.queue import Job

__all__ = ["ENDED", "JobWatch"]

log = logging.getLogger("crowdsafe.planner")

ENDED = frozenset({"done", "failed", "cancelled"})
EVERY_S = 0.2
_GATHER_S = 0.02
_AT_ONCE_MAX = 500

Look = Callable[[Session, Collection[str]], Mapping[str, Job]]
"""Gives those of these jobs that have ended."""


class JobWatch:
    """Tells waiting requests that their job has ended.

    However many wait, the database is asked once every 0.2 s for all of them, and at once when a
    job of this process ends (``nudge``); nobody waits, nothing is asked. A waiter that is
    cancelled leaves nothing behind.
    """

    def __init__(self, store: AsyncStore, look: Look, *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._look = look
        self._every_s = every_s
        self._waiting: dict[str, set[asyncio.Future[Job | None]]] = {}
        self._released = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait just now."""
        return sum(len(each) for each in self._waiting.values())

    async def ended(self, job_id: str, within_s: float) -> Job | None:
        """The job once it has ended, or None when it has not within ``within_s`` seconds."""
        if self._released:
            return None
        self._start()
        future: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._woken.set()
        self._waiting.setdefault(job_id, set()).add(future)
        try:
            async with asyncio.timeout(within_s):
                return await future
        except TimeoutError:
            return None
        finally:
            others = self._waiting.get(job_id)
            if others is not None:
                others.discard(future)
                if not others:
                    del self._waiting[job_id]

    def nudge(self) -> None:
        """Look now; from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with suppress(RuntimeError):  # the loop ends just now, and with it who waits
                loop.call_soon_threadsafe(self._woken.set)

    def release(self) -> None:
        """Let nobody wait any longer, now or later: the process is about to end, the jobs go on."""
        self._released = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def stop(self) -> None:
        """Stop looking; who waits is told nothing more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            if not self._waiting:
                self._woken.clear()
                await self._woken.wait()
            self._woken.clear()
            try:
                await self._look_once()
            except Exception as error:
                # Whoever waits is told in time that the job goes on; the next look may succeed.
                expected = isinstance(error, CrowdsafeError)
                log.warning(
                    "cannot see how jobs stand, trying again: %s", error, exc_info=not expected
                )
            await asyncio.sleep(_GATHER_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._woken.wait()

    async def _look_once(self) -> None:
        names = list(self._waiting)
        for start in range(0, len(names), _AT_ONCE_MAX):
            found = await self._store.read(self._look, names[start : start + _AT_ONCE_MAX])
            for job_id, job in found.items():
                for future in self._waiting.pop(job_id, ()):
                    if not future.done():
                        future.set_result(job)
