"""Writers are killed at random points, with kill -9: every committed event is seen, once."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.feed.support import Reader, astore_at, eventually, hub_at, numbered, run
from tests.feed.writer import Base, Written

from crowdsafe.store import AsyncStore

ROOT = Path(__file__).resolve().parents[2]


async def _writer(url: str, name: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.feed.writer", url, name,
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def _written(store: AsyncStore) -> set[tuple[str, int]]:
    rows = await store.read(
        lambda session: session.execute(select(Written.writer, Written.n)).all()
    )
    return {(writer, n) for writer, n in rows}


async def _all_written(store: AsyncStore) -> set[tuple[str, int]]:
    """What is committed once the server has noticed that its clients were killed.

    A COMMIT that it had received goes through, so the same must be read for half a second.
    """
    for _ in range(40):
        found = await _written(store)
        await asyncio.sleep(0.5)
        if found == await _written(store):
            return found
    raise AssertionError("killed writers go on writing")


async def _kills(url: str, rng: random.Random, kills: int) -> None:
    async with astore_at(url) as store, hub_at(store, poll_s=0.02) as hub:
        await store.create_all(Base.metadata)
        await eventually(hub._primed.is_set)
        reader = Reader(hub.subscribe(["news"], 0))
        stopping = asyncio.Event()

        async def follow() -> None:
            """Read on and on, cut off at random, and resume by the last id."""
            nonlocal reader
            while not stopping.is_set():
                try:
                    async with asyncio.timeout(rng.random()):
                        while True:
                            assert await reader.step()
                except TimeoutError:
                    seen = reader.frames
                    await reader.close()
                    reader = Reader(hub.subscribe(["news"], reader.last_id or 0))
                    reader.frames = seen

        following = asyncio.create_task(follow())
        processes = [await _writer(url, "a"), await _writer(url, "b")]
        for kill in range(kills):
            await asyncio.sleep(0.05 + rng.random() * 0.4)
            process = processes[kill % 2]
            process.kill()
            await process.wait()
            processes[kill % 2] = await _writer(url, "ab"[kill % 2])
        for process in processes:
            process.kill()
            await process.wait()
        committed = await _all_written(store)
        await numbered(store)
        await eventually(lambda: len(reader.events) >= len(committed) or following.done())
        stopping.set()
        await following
        await reader.close()

    seen = [(frame.data["writer"], frame.data["n"]) for frame in reader.events]
    ids = [frame.id for frame in reader.events]
    assert not reader.resyncs
    assert ids == [*range(1, len(committed) + 1)]
    assert len(seen) == len(committed) > kills
    assert set(seen) == committed
    for key in {writer for writer, _ in committed}:
        mine = [n for writer, n in seen if writer == key]
        assert mine == [*range(1, len(mine) + 1)]


@pytest.mark.timeout(300)
def test_every_committed_event_is_seen_once_and_in_order_though_writers_are_killed(
    db_url: str, rng: random.Random
) -> None:
    run(_kills(db_url, rng, kills=5))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_with_fifty_kills(db_url: str, rng: random.Random) -> None:
    run(_kills(db_url, rng, kills=50))
