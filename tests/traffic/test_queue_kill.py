"""Workers are killed with kill -9, stopped and woken again: every job is done, its effect once."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from tests.traffic.queue_help import (
    LEASE_S,
    NOTES,
    all_ended,
    effects,
    eventually,
    leave,
    opened,
    overlap_max,
    run,
)

from crowdsafe.errors import DeadlineExceeded
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.queue import Job, enqueue, find_jobs

JOBS_A_KILL = 10
ROOT = Path(__file__).resolve().parents[2]


async def worker_at(url: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.traffic.queue_worker", url,
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def end(*processes: asyncio.subprocess.Process) -> list[str]:
    """Let workers end; what they say at last."""
    said = []
    for process in processes:
        process.terminate()
        assert process.stdout is not None
        async with asyncio.timeout(30):
            said.append((await process.stdout.read()).decode())
            assert await process.wait() == 0
    return said


async def put(store: AsyncStore, count: int, takes_s: float) -> None:
    def put_all(session: Session) -> None:
        for n in range(count):
            payload = {"takes_s": takes_s}
            enqueue(session, NOTES, "note", user=f"u{n % 5}", payload=payload)

    await store.write(put_all, isolation="read committed")


async def running(store: AsyncStore) -> list[Job]:
    return await store.read(find_jobs, NOTES, state="running")


async def check(store: AsyncStore, count: int) -> list[Job]:
    """All are done, each with its effect once, and no limit was ever passed."""
    jobs = await all_ended(store, NOTES, count)
    assert len(jobs) == count
    assert {job.state for job in jobs} == {"done"}, [job.error for job in jobs]
    assert await store.read(effects, "done") == {job.id: 1 for job in jobs}
    assert await store.read(effects, "dropped") == {}
    assert overlap_max(jobs) <= NOTES.running_max
    for user in {job.user for job in jobs}:
        assert overlap_max([job for job in jobs if job.user == user]) <= NOTES.per_user
    return jobs


async def _kills(url: str, rng: random.Random, kills: int) -> None:
    async with opened(url) as store:
        processes = [await worker_at(url), await worker_at(url)]
        for kill in range(kills):
            await put(store, JOBS_A_KILL, 0.15)
            await eventually(lambda: running(store))
            await asyncio.sleep(rng.uniform(0, 0.3))
            process = processes[kill % 2]
            process.kill()
            await process.wait()
            processes[kill % 2] = await worker_at(url)
        jobs = await check(store, kills * JOBS_A_KILL)
        await end(*processes)
        assert any(job.attempts > 1 for job in jobs), "no kill hit a running job"


def test_jobs_of_killed_workers_are_done_once_by_others(queue_url: str, rng: random.Random) -> None:
    run(_kills(queue_url, rng, 5))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_of_fifty_killed_workers_are_done_once_by_others(
    queue_url: str, rng: random.Random
) -> None:
    run(_kills(queue_url, rng, 50))


def test_what_was_queued_when_everything_died_is_done_after_the_restart(queue_url: str) -> None:
    async def main() -> None:
        async with opened(queue_url) as store:
            process = await worker_at(queue_url)
            await put(store, 50, 0.05)
            await eventually(lambda: running(store))
            process.kill()
            await process.wait()
        async with opened(queue_url) as store:
            left = [job for job in await store.read(find_jobs, NOTES) if not job.ended]
            assert len(left) >= 40
            process = await worker_at(queue_url)
            await check(store, 50)
            await end(process)

    run(main())


async def stop_outside_a_write(store: AsyncStore, process: asyncio.subprocess.Process) -> None:
    """On SQLite a process that stands still in a write holds up everyone until it goes on."""

    async def stopped() -> bool:
        process.send_signal(signal.SIGSTOP)
        try:
            await store.write(leave, "", "tried", deadline_s=0.5)
        except DeadlineExceeded:
            process.send_signal(signal.SIGCONT)
            return False
        return True

    await eventually(stopped)


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(queue_url: str) -> None:
    """It wakes up while another has begun the job again, and believes that it holds it still."""

    async def main() -> None:
        async with opened(queue_url) as store:
            stopped = await worker_at(queue_url)
            await put(store, 4, 1)
            await eventually(lambda: running(store))
            await stop_outside_a_write(store, stopped)
            held = {job.id for job in await running(store)}
            assert held
            await asyncio.sleep(LEASE_S * 1.1)
            other = await worker_at(queue_url)

            async def taken_over() -> bool:
                return any(job.attempts > 1 and job.id in held for job in await running(store))

            await eventually(taken_over)
            stopped.send_signal(signal.SIGCONT)
            jobs = await check(store, 4)
            assert any(job.attempts > 1 for job in jobs)
            said = await end(stopped, other)
            assert "lost 0" not in said[0]

    run(main())


def test_a_worker_that_is_told_to_end_gives_its_jobs_back(queue_url: str) -> None:
    async def main() -> None:
        async with opened(queue_url) as store:
            process = await worker_at(queue_url)
            await put(store, 4, 20)
            await eventually(lambda: running(store))
            await end(process)
            jobs = await store.read(find_jobs, NOTES)
            assert {(job.state, job.attempts) for job in jobs} == {("queued", 0)}

    run(main())
