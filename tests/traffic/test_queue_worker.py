"""The worker: runs what it claims, within its limits, and gives back what it cannot finish."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.support.patience import with_more_time
from tests.support.pg_server import PgServer
from tests.traffic.queue_help import (
    all_ended,
    dropped,
    effects,
    eventually,
    leave,
    nothing,
    opened,
    overlap_max,
    queue_of,
    run,
)

from crowdsafe.errors import ConfigError, DatabaseUnavailable
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.queue import (
    GiveUp,
    Job,
    JobQueue,
    Kind,
    Priority,
    RunningJob,
    Worker,
    cancel,
    enqueue,
    find_jobs,
    get_job,
    threads,
)
from crowdsafe.traffic.queue.attempt import Ended


async def put(store: AsyncStore, queue: JobQueue, kind: str = "job", **asked: Any) -> str:
    made = await store.write(enqueue, queue, kind, **{"user": "ann", "payload": {}, **asked})
    return made.job.id


async def job_in(store: AsyncStore, queue: JobQueue, job_id: str, *states: str) -> Job:
    async def look() -> Job | None:
        job = await store.read(get_job, queue, job_id)
        return job if job.state in states else None

    job: Job = await eventually(look)
    return job


async def one_job(
    url: str, run_it: Callable[[RunningJob], Any], *states: str, **kind: Any
) -> tuple[Job, dict[str, int]]:
    """Run one job to one of the states; it and its effects."""
    queue = queue_of(Kind("job", run_it, dropped=dropped, **{"retry_wait_s": 0.01, **kind}))
    async with opened(url) as store:
        worker = Worker(store, queue, 2)
        async with worker.running(drain_s=0):
            job_id = await put(store, queue, payload={"n": 7})
            job = await job_in(store, queue, job_id, *(states or ("done", "failed", "cancelled")))
        return job, await store.read(effects, "dropped")


def test_an_async_job_runs_and_its_result_is_stored(queue_url: str) -> None:
    async def work(job: RunningJob) -> dict[str, Any]:
        await job.progress(done=1, of=3, note="begun")
        await job.progress(done=3, of=3)
        return {"twice": job.payload["n"] * 2, "user": job.user, "attempt": job.attempt}

    job, _ = run(one_job(queue_url, work))
    assert job.result == {"twice": 14, "user": "ann", "attempt": 1}
    assert job.progress == {"done": 3, "of": 3}
    assert job.started_at is not None
    assert job.finished_at is not None


def test_a_sync_job_runs_in_a_thread(queue_url: str) -> None:
    def work(job: RunningJob) -> str:
        job.progress_from_thread(note=threading.current_thread().name)
        job.finish_with(lambda session: leave(session, job.id, "done"))
        return threading.current_thread().name

    job, _ = run(one_job(queue_url, work))
    assert job.result.startswith("crowdsafe-test")
    assert job.progress["note"] == job.result


def test_a_failing_job_is_tried_again(queue_url: str) -> None:
    async def work(job: RunningJob) -> int:
        if job.attempt < 3:
            raise ValueError("not yet")
        return job.attempt

    job, dropped_jobs = run(one_job(queue_url, work))
    assert (job.state, job.result, job.attempts) == ("done", 3, 3)
    assert dropped_jobs == {}


def test_attempts_end(queue_url: str) -> None:
    async def work(job: RunningJob) -> None:
        raise ValueError("never")

    job, dropped_jobs = run(one_job(queue_url, work, attempts=2))
    assert (job.state, job.error, job.attempts) == ("failed", "ValueError: never", 2)
    assert dropped_jobs == {job.id: 1}


def test_giving_up_ends_them_at_once(queue_url: str) -> None:
    async def work(job: RunningJob) -> None:
        raise GiveUp("the idea is empty")

    job, dropped_jobs = run(one_job(queue_url, work))
    assert (job.state, job.error, job.attempts) == ("failed", "the idea is empty", 1)
    assert dropped_jobs == {job.id: 1}


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
def test_a_job_that_takes_too_long_is_stopped(queue_url: str, sync: bool) -> None:
    stopped = threading.Event()

    async def slow(job: RunningJob) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    def slow_sync(job: RunningJob) -> None:
        job.cancelled.wait(30)
        stopped.set()

    job, _ = run(
        one_job(queue_url, slow_sync if sync else slow, "failed", timeout_s=0.1, attempts=1)
    )
    assert "longer than 0.1 s" in (job.error or "")
    assert stopped.is_set()


def test_a_job_that_is_cancelled_from_within_has_failed(queue_url: str) -> None:
    async def work(job: RunningJob) -> None:
        raise asyncio.CancelledError

    job, _ = run(one_job(queue_url, work, attempts=1))
    assert (job.state, job.error) == ("failed", "CancelledError")


def test_a_result_that_is_no_json_fails_the_job(queue_url: str) -> None:
    async def work(job: RunningJob) -> object:
        return object()

    job, _ = run(one_job(queue_url, work, attempts=1))
    assert job.state == "failed"
    assert "result" in (job.error or "")


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
def test_a_running_job_is_cancelled(queue_url: str, sync: bool) -> None:
    async def endless(job: RunningJob) -> None:
        await asyncio.sleep(60)

    def endless_sync(job: RunningJob) -> str:
        assert job.cancelled.wait(60)
        raise RuntimeError("told to stop")

    async def main() -> None:
        kind = Kind("job", endless_sync if sync else endless, dropped=dropped)
        queue = queue_of(kind)
        async with opened(queue_url) as store, Worker(store, queue).running():
            job_id = await put(store, queue)
            await job_in(store, queue, job_id, "running")
            began = time.monotonic()
            await store.write(cancel, queue, job_id)
            await job_in(store, queue, job_id, "cancelled")
            assert time.monotonic() - began < 9, "waited for the next sign of life"
            assert await store.read(effects, "dropped") == {job_id: 1}

    run(main())


@pytest.mark.parametrize("telling", [False, True], ids=["silent", "reporting"])
def test_a_cancel_in_another_process_is_never_overtaken(
    queue_url: str, monkeypatch: pytest.MonkeyPatch, telling: bool
) -> None:
    """No nudge reaches the worker: it learns of the cancel by its report, or when it is through."""
    module = sys.modules["crowdsafe.traffic.queue.cancel"]  # which a function of that name hides
    monkeypatch.setattr(module, "nudge_workers", lambda *_, **__: None)

    async def brief(job: RunningJob) -> str:
        for step in range(6):
            if telling:
                await job.progress(done=step)
            await asyncio.sleep(0.25)
        job.finish_with(lambda session: leave(session, job.id, "done"))
        return "made"

    async def main() -> None:
        queue = queue_of(Kind("job", brief, dropped=dropped))
        async with opened(queue_url) as store, Worker(store, queue).running():
            job_id = await put(store, queue)
            await job_in(store, queue, job_id, "running")
            await store.write(cancel, queue, job_id)
            job = await job_in(store, queue, job_id, "cancelled", "done")
            assert job.state == "cancelled"
            assert await store.read(effects, "dropped") == {job_id: 1}
            assert await store.read(effects, "done") == {}

    run(main())


def test_progress_is_written_seldom_and_the_last_word_counts(queue_url: str) -> None:
    seen: list[dict[str, Any]] = []

    def changed(session: Session, job: Job) -> None:
        if job.progress and job.state == "running":
            seen.append(job.progress)

    async def work(job: RunningJob) -> None:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            await job.progress(done=time.monotonic())
            await asyncio.sleep(0.001)
        await job.progress(done=1, of=1)

    job, _ = run(one_job(queue_url, work, changed=changed))
    assert job.progress == {"done": 1, "of": 1}
    assert 1 <= len(seen) <= 4


def test_a_job_waits_for_a_free_slot_and_no_longer(queue_url: str) -> None:
    """Without polling: the end of a job lets the next begin."""

    async def work(job: RunningJob) -> None:
        await asyncio.sleep(0.02)

    async def main() -> None:
        queue = queue_of(Kind("job", work), per_user=2, running_max=5)
        async with opened(queue_url) as store, Worker(store, queue, 16).running():
            for n in range(40):
                await put(store, queue, user=f"u{n % 4}")
            jobs = await all_ended(store, queue, 40)
        assert {job.state for job in jobs} == {"done"}
        assert overlap_max(jobs) <= 5
        for user in range(4):
            assert overlap_max([job for job in jobs if job.user == f"u{user}"]) <= 2

    run(main())


def test_draining_gives_back_what_does_not_end(queue_url: str) -> None:
    started = asyncio.Event()

    async def work(job: RunningJob) -> None:
        started.set()
        await asyncio.sleep(60)

    async def main() -> None:
        queue = queue_of(Kind("job", work))
        async with opened(queue_url) as store:
            worker = Worker(store, queue)
            async with worker.running(drain_s=0.05):
                first = await put(store, queue)
                await asyncio.wait_for(started.wait(), 10)
                later = await put(store, queue, delay_s=60)
            for job_id in (first, later):
                job = await store.read(get_job, queue, job_id)
                assert (job.state, job.attempts) == ("queued", 0)
            assert await store.read(find_jobs, queue, state="running") == []

    run(main())


def test_draining_waits_for_what_ends_in_time(queue_url: str) -> None:
    async def work(job: RunningJob) -> str:
        await asyncio.sleep(0.3)
        return "whole"

    async def main() -> None:
        queue = queue_of(Kind("job", work))
        async with opened(queue_url) as store:
            async with Worker(store, queue).running(drain_s=10):
                job_id = await put(store, queue)
                await job_in(store, queue, job_id, "running")
            assert (await store.read(get_job, queue, job_id)).result == "whole"

    run(main())


def test_idle_work_waits_for_people(queue_url: str) -> None:
    order: list[str] = []

    async def work(job: RunningJob) -> None:
        order.append(job.user)
        await asyncio.sleep(0.01)

    async def main() -> None:
        queue = queue_of(Kind("job", work), running_max=2)
        async with opened(queue_url) as store:
            for _ in range(3):
                await put(store, queue, user="machine", priority=Priority.IDLE)
            for n in range(6):
                await put(store, queue, user=f"u{n}", priority=Priority.LOW)
            async with Worker(store, queue).running():
                await all_ended(store, queue, 9)
        assert order[-3:].count("machine") >= 2
        assert "machine" not in order[:5]

    run(main())


@pytest.mark.postgres
def test_terminated_connections_lose_nothing(
    queue_pg: tuple[PgServer, str], request: pytest.FixtureRequest
) -> None:
    server, name = queue_pg
    server.execute("TRUNCATE crowdsafe_jobs, crowdsafe_queues, effects", name)

    async def work(job: RunningJob) -> None:
        await asyncio.sleep(0.02)
        job.finish_with(lambda session: leave(session, job.id, "done"))

    async def main() -> None:
        queue = queue_of(Kind("job", work, attempts=50, retry_wait_s=0.05, lease_s=2))
        async with opened(server.url(name)) as store:
            await asyncio.gather(*(put(store, queue, user=f"u{n % 5}") for n in range(100)))
            async with Worker(store, queue, 4).running():
                for _ in range(5):
                    await asyncio.sleep(0.15)
                    await asyncio.to_thread(server.kill_connections, name)
                jobs = await all_ended(store, queue, 100)
            assert {job.state for job in jobs} == {"done"}
            assert await store.read(effects, "done") == {job.id: 1 for job in jobs}

    run(main())


@pytest.mark.postgres
def test_a_server_that_is_away_is_waited_for(own_pg_server: PgServer) -> None:
    async def work(job: RunningJob) -> None:
        await asyncio.sleep(0.05)
        job.finish_with(lambda session: leave(session, job.id, "done"))

    async def main() -> None:
        queue = queue_of(Kind("job", work, attempts=50, retry_wait_s=0.05, lease_s=3))
        async with opened(own_pg_server.url(), deadline_s=2) as store:
            worker = Worker(store, queue, 4)
            async with worker.running():
                for n in range(40):
                    await put(store, queue, user=f"u{n % 5}")
                await asyncio.to_thread(own_pg_server.restart, "immediate")
                jobs = await all_ended(store, queue, 40)
            assert {job.state for job in jobs} == {"done"}
            assert await store.read(effects, "done") == {job.id: 1 for job in jobs}

    run(main())


def test_a_lease_that_cannot_be_renewed_stops_the_job_before_it_ends(queue_url: str) -> None:
    async def main(lease_s: float) -> None:
        stopped_at: list[float] = []

        async def work(job: RunningJob) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                stopped_at.append(time.monotonic())

        queue = queue_of(Kind("job", work, lease_s=lease_s))
        async with opened(queue_url) as store:
            worker = Worker(store, queue)
            async with worker.running(drain_s=0):
                job_id = await put(store, queue)
                await job_in(store, queue, job_id, "running")
                claimed_at = time.monotonic()
                cut_off(worker, lease_s)
                await eventually(lambda: stopped_at)
                assert stopped_at[0] - claimed_at < lease_s
            assert worker.stats.lost == len(stopped_at)

    def cut_off(worker: Worker, lease_s: float) -> None:
        class Away:
            async def write(self, *args: Any, **kwargs: Any) -> Any:
                await asyncio.sleep(1.5 * lease_s)
                raise DatabaseUnavailable

        worker._store = Away()  # type: ignore[assignment]

    with_more_time(lambda lease_s: run(main(lease_s)), 1.0, 10.0)


class Overlap:
    """The executions of a sync job that pays no heed to being told to stop."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.count = self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, job: RunningJob) -> None:
        with self._lock:
            self.count += 1
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.takes_s)
        with self._lock:
            self._now -= 1


def test_a_job_that_still_unwinds_is_not_begun_beside_itself(queue_url: str) -> None:
    """Its lease is lost while the loop stands still, and taken back by this worker's own sweep."""
    work = Overlap(1.5)

    async def main() -> None:
        queue = queue_of(Kind("job", work, lease_s=0.6, attempts=20))
        async with opened(queue_url) as store, Worker(store, queue).running() as worker:
            job_id = await put(store, queue)
            await job_in(store, queue, job_id, "running")
            time.sleep(1)  # noqa: ASYNC251
            job = await job_in(store, queue, job_id, "done", "failed")
            assert (job.state, work.most) == ("done", 1)
            assert job.attempts == work.count == worker.stats.lost + 1 >= 2
            await eventually(lambda: (worker.stats.done, worker.stats.running) == (1, 0))

    run(main())


@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_a_thread_that_does_not_stop_holds_its_job_until_it_returns(
    queue_url: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its worker keeps its lease: one that a busy machine lost says nothing, so once more."""
    monkeypatch.setattr(threads, "GRACE_S", 0.1)

    async def lost(tries: int) -> int:
        work = Overlap(1.5)
        timeout_s = 0.2 if end == "timeout" else 60
        kind = Kind("job", work, lease_s=1.0, timeout_s=timeout_s, attempts=2, retry_wait_s=0.01)
        queue = queue_of(kind, per_user=1)
        async with opened(queue_url) as store, Worker(store, queue).running() as worker:
            job_ids = [await put(store, queue), await put(store, queue)]
            for job_id in job_ids if end == "cancel" else []:
                await job_in(store, queue, job_id, "running")
                await store.write(cancel, queue, job_id)
            jobs = await all_ended(store, queue, 2 * tries)
            if worker.stats.lost:
                return worker.stats.lost
            assert work.most == 1
        states = {job.state for job in jobs if job.id in job_ids}
        assert states == {"failed" if end == "timeout" else "cancelled"}
        assert work.count >= 2
        return 0

    assert any(run(lost(tries)) == 0 for tries in (1, 2, 3, 4, 5))


def test_an_attempt_that_is_stopped_before_its_first_step_frees_its_slot(queue_url: str) -> None:
    async def main() -> None:
        queue = queue_of(Kind("job", nothing))
        async with opened(queue_url) as store:
            worker = Worker(store, queue)
            job_ids = [await put(store, queue), await put(store, queue)]
            await worker._claim(2)
            cut, given_back = sorted(worker._attempts, key=lambda one: job_ids.index(one.id))
            cut.task.cancel()
            given_back.interrupt(Ended.GIVEN_BACK)
            await eventually(lambda: not worker.stats.running)
            assert worker.stats.lost == 1
            states = [(await store.read(get_job, queue, job_id)).state for job_id in job_ids]
            assert states == ["running", "queued"]

    run(main())


def test_two_workers_share_a_queue(queue_url: str) -> None:
    async def main() -> None:
        queue = queue_of(Kind("job", nothing), per_user=3, running_max=6)
        async with opened(queue_url) as one, opened(queue_url) as two:
            async with Worker(one, queue, 4).running() as a, Worker(two, queue, 4).running() as b:
                await asyncio.gather(*(put(one, queue, user=f"u{n % 9}") for n in range(120)))
                jobs = await all_ended(one, queue, 120)
            assert a.stats.done + b.stats.done == 120
            assert all(job.attempts == 1 for job in jobs)
            assert overlap_max(jobs) <= 6

    run(main())


def test_wrong_workers_are_refused(tmp_path: Any) -> None:
    async def main() -> None:
        store = AsyncStore(f"sqlite:///{tmp_path / 'a.db'}")
        for wrong in ({"concurrency": 0}, {"concurrency": 257}):
            with pytest.raises(ConfigError):
                Worker(store, queue_of(), **wrong)
        with pytest.raises(ConfigError):
            Worker(store, JobQueue("empty"))
        await store.close()

    run(main())
