"""One attempt at one job in this process: run it, then write down how it ended."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from crowdsafe.errors import (
    CrowdsafeError,
    DatabaseUnavailable,
    DeadlineExceeded,
    LeaseLost,
    OutcomeUnknown,
    Overloaded,
)
from crowdsafe.store import AsyncStore
from crowdsafe.store.options import options_of
from crowdsafe.traffic.queue.finish import (
    complete,
    complete_with,
    ended_under,
    fail,
    give_back,
    stop,
)
from crowdsafe.traffic.queue.jobs import Claimed
from crowdsafe.traffic.queue.kinds import GiveUp, JobQueue, Kind
from crowdsafe.traffic.queue.leases import report
from crowdsafe.traffic.queue.running import RunningJob
from crowdsafe.traffic.queue.threads import Threads

__all__ = ["Attempt", "Ended"]

log = logging.getLogger("crowdsafe.queue")

_LEASE_MARGIN = 0.1
_AWAY = (DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown, Overloaded)


class Ended(enum.Enum):
    """How an attempt ended, for its worker."""

    DONE = "the job is done"
    FAILED = "it failed, for now or for good"
    CANCELLED = "it was cancelled"
    GIVEN_BACK = "the worker ends and gave it back"
    LOST = "its lease was lost, or could not be renewed"


class Attempt:
    """Runs a claimed job in a task of its own. Times are ``time.monotonic()``."""

    __slots__ = (
        "_begun",
        "_how",
        "_interrupted",
        "_on_end",
        "_queue",
        "_running",
        "_store",
        "_threads",
        "id",
        "job",
        "kind",
        "lease_ends",
        "task",
        "token",
    )

    def __init__(
        self,
        store: AsyncStore,
        queue: JobQueue,
        claimed: Claimed,
        began: float,
        threads: Threads,
    ) -> None:
        self.id = claimed.job.id
        self.token = claimed.token
        self.kind: Kind = queue.by_name[claimed.job.kind]
        self.job = RunningJob(claimed, self._report)
        self.task: asyncio.Task[None]
        self._store = store
        self._queue = queue
        self._threads = threads
        self._begun = False
        self._running = True
        self._interrupted: Ended | None = None
        self._how = Ended.LOST
        self._on_end: Callable[[Attempt, Ended], None]
        self.renewed(began)

    def start(self, on_end: Callable[[Attempt, Ended], None]) -> None:
        """Begin; ``on_end`` is called with how it ended, also when its task never ran."""
        self._on_end = on_end
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._tell_end)

    def _tell_end(self, _task: asyncio.Task[None]) -> None:
        self._running = False
        self._on_end(self, self._how)

    @property
    def renewable(self) -> bool:
        """Whether its code still runs under a lease that is ours."""
        return self._running and self._interrupted is not Ended.LOST

    def renewed(self, asked_at: float) -> None:
        """Know that the lease was renewed by a request of that moment, so at that moment or later.

        The job counts as without a lease a tenth of its length early.
        """
        self.lease_ends = asked_at + self.kind.lease_s * (1 - _LEASE_MARGIN)

    def interrupt(self, why: Ended) -> None:
        """Stop the job's code. Ignored when it has returned, or is being stopped already."""
        if self._running and self._interrupted is None:
            self._interrupted = why
            self.job.cancelled.set()
            if self._begun:
                self.task.cancel()

    async def _run(self) -> None:
        self._begun = True
        try:
            if self._interrupted is None:
                self._how = await self._attempt()
            else:
                self._how = await self._stopped(self._interrupted)
        except Exception:
            log.exception("job %s could not be ended; its lease runs out by itself", self.id)

    async def _attempt(self) -> Ended:
        try:
            async with asyncio.timeout(self.kind.timeout_s) as limit:
                value = await self._call()
                progress = await self.job.last_progress()
            self._running = False
            await self._settle(partial(self._complete, value, progress))
        except LeaseLost:  # or a cancel that nobody has told us of came first
            return await self._stopped(Ended.CANCELLED)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if not task.cancelling():  # something that the job awaited was cancelled, not the job
                return await self._failed("CancelledError")
            if self._interrupted is None:
                raise
            task.uncancel()
            return await self._stopped(self._interrupted)
        except TimeoutError as error:
            if limit.expired():
                return await self._failed(f"it took longer than {self.kind.timeout_s:g} s")
            return await self._failed(_text(error))
        except GiveUp as error:
            return await self._failed(str(error) or "the job gave up", final=True)
        except Exception as error:
            log.warning(
                "job %s failed in attempt %d: %r",
                self.id,
                self.job.attempt,
                error,
                exc_info=not isinstance(error, CrowdsafeError),
            )
            return await self._failed(_text(error))
        return Ended.DONE

    async def _call(self) -> Any:
        run = self.kind.run
        if inspect.iscoroutinefunction(run):
            return await run(self.job)
        value = await self._threads.run(run, self.job)
        return await value if inspect.isawaitable(value) else value

    async def _complete(self, value: Any, progress: dict[str, Any] | None) -> None:
        said = {"result": value, "progress": progress}
        fn = self.job.finishing
        if fn is None:
            await self._store.write(complete, self._queue, self.id, self.token, **said)
            return
        isolation = options_of(fn).isolation or "serializable"
        await self._store.write(
            complete_with, self._queue, self.id, self.token, fn, isolation=isolation, **said
        )

    async def _failed(self, text: str, *, final: bool = False) -> Ended:
        self._running = False
        await self.job.last_progress()
        ending = partial(
            self._store.write, fail, self._queue, self.id, self.token, text,
            final=final, isolation="read committed",
        )  # fmt: skip
        try:
            await self._settle(ending)
        except LeaseLost as error:
            return self._lost(error)
        return Ended.FAILED

    async def _stopped(self, why: Ended) -> Ended:
        """Write down why the job's code was stopped."""
        self._running = False
        await self.job.last_progress()
        held = (self._queue, self.id, self.token)
        try:
            if self.job.left_running or why is Ended.LOST:
                log.warning("job %s ends here; its lease is lost, or runs out by itself", self.id)
                return Ended.LOST
            if why is Ended.CANCELLED:
                await self._settle(
                    partial(self._store.write, stop, *held, isolation="read committed")
                )
            else:
                held_here = {self.id: self.token}
                await self._settle(partial(self._store.write, give_back, self._queue, held_here))
        except LeaseLost as error:
            return self._lost(error)
        return why

    async def _settle(self, ending: Callable[[], Awaitable[Any]]) -> None:
        """Write an ending, again and again while the database is away and the lease lasts."""
        unknown = False
        while True:
            try:
                await ending()
                return
            except LeaseLost:
                if unknown and await self._store.read(
                    ended_under, self._queue, self.id, self.token
                ):
                    return
                raise
            except _AWAY as error:
                unknown = unknown or isinstance(error, OutcomeUnknown)
                if time.monotonic() >= self.lease_ends:
                    raise
            await asyncio.sleep(random.uniform(0.05, 0.3))

    def _lost(self, error: LeaseLost) -> Ended:
        log.warning("%s", error)
        return Ended.LOST

    async def _report(self, _job: RunningJob, progress: dict[str, Any]) -> None:
        try:
            job = await self._store.write(report, self._queue, self.id, self.token, progress)
            if job.cancel_requested:
                self.interrupt(Ended.CANCELLED)
        except LeaseLost:
            self.interrupt(Ended.LOST)
        except _AWAY as error:
            log.info("progress of job %s could not be stored: %s", self.id, error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
