"""Run the jobs of a queue in this process."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from crowdsafe.errors import ConfigError, CrowdsafeError
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.arguments import check_async_store, check_number, check_whole
from crowdsafe.traffic.queue.attempt import Attempt, Ended
from crowdsafe.traffic.queue.claim import CLAIM_MAX, claim
from crowdsafe.traffic.queue.kinds import JobQueue
from crowdsafe.traffic.queue.leases import renew
from crowdsafe.traffic.queue.nudge import listeners
from crowdsafe.traffic.queue.sweep import SWEEP_MAX, sweep
from crowdsafe.traffic.queue.threads import GRACE_S, Threads

__all__ = ["Worker", "WorkerStats"]

log = logging.getLogger("crowdsafe.queue")

POLL_S_MIN, POLL_S_MAX = 0.05, 1.0
SWEEP_S_MAX = 5.0
BACKOFF_S_MAX = 5.0
DRAIN_S = 10.0
_POLL_S_LONGEST = 60.0
_WATCH_S_MAX = 0.5
_BEAT_S_MAX = 2.0
_STOP_S_MAX = 5.0
_SWEEPS_MAX = 20


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker does and has done. ``failing`` says why it cannot claim now, or is None."""

    running: int
    done: int
    failed: int
    lost: int
    failing: str | None


class Worker:
    """Claims jobs of one queue and runs up to ``concurrency`` of them (1 to 256) at a time.

    Holds: a job is begun when its lease is written, and its completion is committed only under
    that lease. While the database is away the worker waits and goes on; a job whose lease cannot be
    renewed is stopped before the lease ends. ``drain`` gives back what does not end in time.
    Does not hold: that a job runs in one place only. A process that is stopped (SIGSTOP) or blocks
    its event loop past its lease may run on beside the one that took over, until it notices: its
    completion and ``finish_with`` are refused, its effects outside the database are not. A sync
    ``run`` cannot be stopped, only told (``cancelled``): until it returns it keeps its slot here
    and, while that can be renewed, its lease; this worker does not begin the same job beside it.
    A process that is stopped in the middle of
    a claim holds up the queue's other claims: on PostgreSQL until the server ends its transaction
    (``deadline_s + grace_s`` of the store's settings), on SQLite until it goes on or is killed.
    Proved by ``tests/traffic/test_queue_worker.py`` and ``tests/traffic/test_queue_kill.py``.

    Jobs that are enqueued in this process are begun at once, those of other processes within
    ``poll_s`` (jittered; from 0.05 s up to 1 s while idle). ``kinds`` narrows what it runs.
    Raises ConfigError.
    """

    def __init__(
        self,
        store: AsyncStore,
        queue: JobQueue,
        concurrency: int = 8,
        *,
        kinds: Iterable[str] | None = None,
        poll_s: float = POLL_S_MAX,
    ) -> None:
        check_async_store("Worker", store)
        if not isinstance(queue, JobQueue):
            raise ConfigError(f"queue is {queue!r}; it must be a JobQueue")
        check_whole("concurrency", concurrency, 1, CLAIM_MAX)
        check_number("poll_s", poll_s, POLL_S_MIN, _POLL_S_LONGEST)
        if not queue.by_name:
            raise ConfigError(f"the queue {queue.name!r} has no kinds to run")
        self.queue = queue
        self.concurrency = concurrency
        self._kinds = None if kinds is None else [queue.kind(name).name for name in kinds]
        self._poll_s = poll_s
        self._store = store
        self._attempts: set[Attempt] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._claiming = False
        self._threads = Threads(concurrency, f"crowdsafe-{queue.name}")
        self._counts = {Ended.DONE: 0, Ended.FAILED: 0, Ended.LOST: 0}
        self._failing: str | None = None
        lease_s = min(kind.lease_s for kind in queue.by_name.values())
        self._beat_s = min(_BEAT_S_MAX, lease_s / 3)
        self._watch_s = min(_WATCH_S_MAX, lease_s / 20)
        self._sweep_s = min(SWEEP_S_MAX, lease_s / 3)

    @property
    def queue_name(self) -> str:
        """Which queue it works for."""
        return self.queue.name

    @property
    def stats(self) -> WorkerStats:
        """Figures for a dashboard."""
        counts = self._counts
        return WorkerStats(
            len(self._attempts),
            counts[Ended.DONE],
            counts[Ended.FAILED],
            counts[Ended.LOST],
            self._failing,
        )

    # -- life ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, *, drain_s: float = DRAIN_S) -> AsyncIterator[Worker]:
        """Work for the length of a block, then ``drain(drain_s)``."""
        await self.start()
        try:
            yield self
        finally:
            await self.drain(drain_s)

    async def start(self) -> None:
        """Begin to claim and run. Returns at once, even while the database is away."""
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        self._threads.begin()
        self._claiming = True
        for work in (self._claim_on, self._renew_on, self._watch_on, self._sweep_on):
            name = f"crowdsafe-queue-{self.queue.name}{work.__name__}"
            self._tasks.append(asyncio.create_task(work(), name=name))
        listeners.add(self)

    async def drain(self, timeout: float = DRAIN_S) -> None:
        """Claim no more, wait up to ``timeout`` seconds, and give back what still runs.

        Takes at most 20 seconds longer than that. A job that was given back keeps its turn, and the
        attempt is not counted. A sync ``run`` that does not return within five seconds of being
        told keeps its lease until that runs out, and the process from ending.
        """
        self._claiming = False
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=_STOP_S_MAX)  # a claim may be under way
        await self._all_ended(timeout)
        self._threads.end()
        for attempt in list(self._attempts):
            attempt.interrupt(Ended.GIVEN_BACK)
        await self._all_ended(GRACE_S + 1)
        listeners.discard(self)
        tasks, self._tasks, self._loop = self._tasks, [], None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S_MAX)
        for attempt in self._attempts:
            log.warning("job %s did not stop; its lease runs out by itself", attempt.id)
            attempt.task.cancel()
        self._threads.close()

    async def _all_ended(self, timeout: float) -> None:
        running = [attempt.task for attempt in self._attempts]
        if running:
            await asyncio.wait(running, timeout=max(0.0, timeout))

    def nudge(self, *, cancelled: bool = False) -> None:
        """Look for jobs now, or for those that are to be cancelled; from any thread."""
        loop = self._loop
        if loop is None:
            return
        event = self._beat if cancelled else self._wake
        if event.is_set():
            return
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            if not loop.is_closed():
                raise

    # -- claiming -----------------------------------------------------------------------------

    async def _claim_on(self) -> None:
        """Claim while there is room; sleep, longer and longer, while there is nothing."""
        poll_s = POLL_S_MIN
        while self._claiming:
            self._wake.clear()
            free = self.concurrency - len(self._attempts)
            if not free:
                await self._wake.wait()
                continue
            claimed = await self._steadily("claim jobs", partial(self._claim, free))
            if claimed == free:
                poll_s = POLL_S_MIN
                continue
            poll_s = POLL_S_MIN if claimed else min(poll_s * 2, self._poll_s)
            await _set_within(self._wake, poll_s * random.uniform(0.5, 1))

    async def _claim(self, free: int) -> int:
        began = time.monotonic()
        here = [attempt.id for attempt in self._attempts]
        claimed = await self._store.write(claim, self.queue, free, kinds=self._kinds, without=here)
        for one in claimed:
            attempt = Attempt(self._store, self.queue, one, began, self._threads)
            self._attempts.add(attempt)
            attempt.start(self._ended)
        return len(claimed)

    def _ended(self, attempt: Attempt, how: Ended) -> None:
        self._attempts.discard(attempt)
        if how in self._counts:
            self._counts[how] += 1
        self._wake.set()

    # -- leases -------------------------------------------------------------------------------

    async def _renew_on(self) -> None:
        """Renew all leases by one write for each lease length, and learn of cancels elsewhere."""
        while True:
            await _set_within(self._beat, self._beat_s * random.uniform(0.8, 1))
            self._beat.clear()
            by_length: dict[float, list[Attempt]] = {}
            for attempt in self._attempts:
                if attempt.renewable:
                    by_length.setdefault(attempt.kind.lease_s, []).append(attempt)
            for lease_s, attempts in by_length.items():
                await self._steadily("renew leases", partial(self._renew, lease_s, attempts))

    async def _renew(self, lease_s: float, attempts: list[Attempt]) -> None:
        began = time.monotonic()
        held = {attempt.id: attempt.token for attempt in attempts}
        renewed = await self._store.write(renew, self.queue, held, lease_s)
        for attempt in attempts:
            if attempt.id in renewed.cancelled:
                attempt.interrupt(Ended.CANCELLED)
            if attempt.id in renewed.held:
                attempt.renewed(began)
            elif attempt.renewable:
                attempt.interrupt(Ended.LOST)

    async def _watch_on(self) -> None:
        """Stop jobs whose lease is about to end, as nobody could renew it."""
        while True:
            await asyncio.sleep(self._watch_s)
            now = time.monotonic()
            for attempt in list(self._attempts):
                if attempt.lease_ends <= now:
                    attempt.interrupt(Ended.LOST)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1))
            for _ in range(_SWEEPS_MAX):
                if await self._steadily("sweep", self._sweep) != SWEEP_MAX:
                    break

    async def _sweep(self) -> int:
        return (await self._store.write(sweep, self.queue)).most

    async def _steadily(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do a piece of work; what goes wrong is logged and told in ``stats``, after a pause."""
        try:
            value = await work()
        except Exception as error:
            expected = isinstance(error, CrowdsafeError)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "could not %s, trying again: %s", what, error, exc_info=not expected,
            )  # fmt: skip
            self._failing = f"{what}: {error}"
            await asyncio.sleep(random.uniform(0.1, 0.5))
            return None
        self._failing = None
        return value


async def _set_within(event: asyncio.Event, timeout: float) -> bool:
    """Wait until the event is set, at most ``timeout`` seconds; whether it was."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
