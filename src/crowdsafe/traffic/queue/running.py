"""A job as the code that does it sees it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput
from crowdsafe.traffic.queue.finish import PROGRESS_BYTES_MAX
from crowdsafe.traffic.queue.jobs import Claimed, Job
from crowdsafe.traffic.queue.sql import encoded

__all__ = ["RunningJob"]

REPORT_EVERY_S = 0.2


class RunningJob:
    """One attempt at a job, given to its kind's ``run``.

    ``cancelled`` is a ``threading.Event``: set when the job is to stop, because it was cancelled,
    its time is up, its lease is lost, or the worker ends. An async ``run`` is cancelled besides; a
    sync one looks at it now and then and returns.
    """

    __slots__ = (
        "_latest",
        "_loop",
        "_reported_at",
        "_reporting",
        "_store_progress",
        "cancelled",
        "finishing",
        "job",
        "left_running",
        "token",
    )

    def __init__(self, claimed: Claimed, store_progress: Callable[..., Awaitable[None]]) -> None:
        self.job: Job = claimed.job
        self.token = claimed.token
        self.cancelled = threading.Event()
        self.finishing: Callable[[Session], Any] | None = None
        self.left_running = False
        self._store_progress = store_progress
        self._latest: dict[str, Any] | None = None
        self._reported_at = 0.0
        self._reporting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def user(self) -> str:
        """Whose job it is."""
        return self.job.user

    @property
    def payload(self) -> dict[str, Any]:
        """What it was enqueued with."""
        return self.job.payload

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.job.attempts

    async def progress(
        self,
        progress: dict[str, Any] | None = None,
        *,
        done: int | None = None,
        of: int | None = None,
        note: str | None = None,
    ) -> None:
        """Tell how far the job is: a mapping of its own, or ``done``, ``of`` and ``note``.

        Cheap: at most one write per 0.2 s, of what was said last, and what was said at the very end
        is stored with the completion. Raises InvalidInput for more than 16 KiB of JSON.
        """
        self._say(_progress(progress, done, of, note))

    def progress_from_thread(
        self,
        progress: dict[str, Any] | None = None,
        *,
        done: int | None = None,
        of: int | None = None,
        note: str | None = None,
    ) -> None:
        """As ``progress``, for a sync ``run``."""
        said = _progress(progress, done, of, note)
        self._loop.call_soon_threadsafe(self._say, said)

    def finish_with(self, fn: Callable[[Session], Any]) -> None:
        """Have ``fn(session)`` run in the transaction that completes the job.

        Its effects are there if and only if the job is done, once, whatever was tried before. What
        it returns becomes the result, or extends the mapping that ``run`` returned. ``@write`` on
        it says how that transaction runs; it is serializable otherwise.
        """
        self.finishing = fn

    # -- for the worker -----------------------------------------------------------------------

    async def last_progress(self) -> dict[str, Any] | None:
        """End the reporting, and give back what was said last and is not stored yet."""
        reporting, self._reporting = self._reporting, None
        if reporting is not None and not reporting.done():
            reporting.cancel()
            await asyncio.wait([reporting])
        return self._latest

    def _say(self, said: dict[str, Any]) -> None:
        self._latest = said
        if self._reporting is None or self._reporting.done():
            self._reporting = self._loop.create_task(self._report())

    async def _report(self) -> None:
        while self._latest is not None:
            wait_s = self._reported_at + REPORT_EVERY_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            said, self._reported_at = self._latest, time.monotonic()
            await self._store_progress(self, said)
            if self._latest is said:
                self._latest = None


def _progress(
    progress: dict[str, Any] | None, done: int | None, of: int | None, note: str | None
) -> dict[str, Any]:
    named = {"done": done, "of": of, "note": note}
    said = {**(progress or {}), **{name: n for name, n in named.items() if n is not None}}
    if not said:
        raise InvalidInput("progress needs a mapping, or done, of, or note", field="progress")
    encoded(said, "progress", PROGRESS_BYTES_MAX)
    return said
