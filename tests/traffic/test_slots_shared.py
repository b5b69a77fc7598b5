"""Slots that processes share, on SQLite, PostgreSQL and Valkey: exact, and free again in time."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import with_more_time
from tests.traffic.limits_crowd import (
    ANSWER_S_MAX,
    Held,
    Pair,
    backend,
    hold_and_write_down,
    hold_for,
    hold_until_killed,
    most_at_once,
    slots_on,
    written_down,
)

from crowdsafe.errors import LeaseLost, NoSlot

LIMIT = 4


async def all_free(slots: Any, limit: int = LIMIT, within_s: float = 20.0) -> None:
    """Take every slot, to see that all are free by then."""
    for n in range(limit):
        end = time.monotonic() + within_s
        while not await slots.take("a", f"probe {n}"):
            assert time.monotonic() < end, "a slot did not come back"
            await asyncio.sleep(0.01)
    for n in range(limit):
        await slots.give("a", f"probe {n}")


def test_never_more_than_the_limit_in_two_processes(shared_url: str, pair: Pair) -> None:
    lease_s = 1.0
    both = pair(hold_for, shared_url, LIMIT, "a", 2.5, 25, lease_s)
    held = [one for found, _ in both for one in found]
    assert most_at_once(held) == LIMIT
    assert any(one.end - one.start > lease_s for one in held), "some outlived their first lease"
    assert all(refused for _, refused in both)
    assert all(found for found, _ in both)


def test_a_count_that_is_checked_first_lets_too_many_in(shared_url: str) -> None:
    """What one would write: count the holders, then add oneself."""

    class Naive:
        def __init__(self) -> None:
            self.holders: set[int] = set()

        @asynccontextmanager
        async def hold(self, of: Any, n: int) -> AsyncIterator[bool]:
            room = len(self.holders) < LIMIT
            await (of.ping() if hasattr(of, "ping") else of.health())
            if room:
                self.holders.add(n)
            yield room
            self.holders.discard(n)

    async def run() -> None:
        naive = Naive()
        held: list[Held] = []
        async with backend(shared_url) as of:

            async def one(n: int) -> None:
                async with naive.hold(of, n) as room:
                    start = time.monotonic()
                    await asyncio.sleep(0.02)
                    if room:
                        held.append(Held(start, time.monotonic()))

            await asyncio.gather(*(one(n) for n in range(50)))
        assert most_at_once(held) > LIMIT

    asyncio.run(run())


def test_a_killed_holder_frees_its_slots_after_its_lease(shared_url: str) -> None:
    with_more_time(lambda lease_s: _check_a_killed_holder(shared_url, lease_s), 1.0, 10.0)


def _check_a_killed_holder(shared_url: str, lease_s: float) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=hold_until_killed, args=(shared_url, LIMIT, lease_s, theirs), daemon=True
    )
    process.start()

    async def run() -> None:
        async with backend(shared_url) as of:
            slots = slots_on(of, LIMIT, lease_s)
            end = time.monotonic() + 1.2 * lease_s
            while time.monotonic() < end:  # it lives and renews
                with pytest.raises(NoSlot):
                    async with slots.hold("a"):
                        pass
                await asyncio.sleep(0.1)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            async with slots.hold("a", wait_s=30):
                waited_s = time.monotonic() - killed
            assert lease_s / 3 < waited_s
            await all_free(slots)

    try:
        for _ in range(LIMIT):
            assert ours.poll(ANSWER_S_MAX)
            ours.recv()
        asyncio.run(run())
    finally:
        process.kill()
        process.join(10)


@pytest.mark.slow
def test_never_more_than_the_limit_while_processes_are_killed_again_and_again(
    shared_url: str, tmp_path: Path, rng: random.Random
) -> None:
    lease_s = 1.0
    context = multiprocessing.get_context("spawn")
    held: list[Held] = []
    running: list[tuple[Any, Path]] = []

    def kill(at: int) -> None:
        process, path = running.pop(at)
        process.kill()
        process.join(10)
        held.extend(written_down(path, killed) if path.exists() else [])

    for n in range(14):
        path = tmp_path / f"process {n}"
        process = context.Process(
            target=hold_and_write_down, args=(shared_url, LIMIT, lease_s, str(path)), daemon=True
        )
        process.start()
        running.append((process, path))
        if len(running) == 3:
            time.sleep(rng.uniform(1.5, 2.5))
            killed = time.monotonic()
            kill(rng.randrange(3))
    killed = time.monotonic()
    while running:
        kill(0)
    assert len(held) > 50
    assert most_at_once(held) == LIMIT


def test_a_dead_holder_beside_a_living_one_frees_its_slot_alone(shared_url: str) -> None:
    async def run(lease_s: float) -> None:
        key = f"{lease_s}"
        async with backend(shared_url) as of:
            slots = slots_on(of, 2, lease_s)
            async with slots.hold(key) as slot:
                assert await slots.take(key, "who dies")
                async with slots.hold(key, wait_s=20):
                    assert not await slots.take(key, "one too many")
                await asyncio.sleep(lease_s)
                slot.check()

    with_more_time(lambda lease_s: asyncio.run(run(lease_s)), 0.6, 8.0)


def test_a_frozen_holder_learns_that_it_has_lost_its_slot(shared_url: str) -> None:
    async def run(lease_s: float) -> None:
        key = f"{lease_s}"
        async with backend(shared_url) as of:
            slots = slots_on(of, 1, lease_s)
            async with slots.hold(key) as slot:
                slot.check()
                time.sleep(lease_s * 1.2)  # noqa: ASYNC251 - the process stands still
                with pytest.raises(LeaseLost):
                    slot.check()
                assert slot.lost.is_set()
                async with slots.hold(key) as other:
                    await asyncio.sleep(lease_s * 1.5)
                    other.check()
                    assert slot.lost.is_set()
                    assert slot.id != other.id
            # The end of the first block must not free the slot of another.
            async with slots.hold(key):
                assert not await slots.take(key, "someone else")

    with_more_time(lambda lease_s: asyncio.run(run(lease_s)), 0.6, 8.0)


def test_a_holder_whose_lease_is_taken_away_is_told(
    shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            slots = slots_on(of, 1, 0.6)
            async with slots.hold("a") as slot:
                await slots.give("a", slot.id)  # as when the server has forgotten it
                await asyncio.wait_for(slot.lost.wait(), 20)
                with pytest.raises(LeaseLost):
                    slot.check()

    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        asyncio.run(run())
    assert "has lost it" in caplog.text


def test_cancelled_tasks_give_their_slots_back(shared_url: str) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            slots = slots_on(of, LIMIT, 30.0)

            async def one() -> None:
                async with slots.hold("a", wait_s=30):
                    await asyncio.sleep(30)

            for pause_s in (0, 0, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1):
                tasks = [asyncio.create_task(one()) for _ in range(3 * LIMIT)]
                await asyncio.sleep(pause_s)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await all_free(slots)

    asyncio.run(run())


def test_an_error_in_the_block_gives_the_slot_back_and_comes_out(shared_url: str) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            slots = slots_on(of, 1)
            with pytest.raises(ValueError, match="the work failed"):
                async with slots.hold("a"):
                    raise ValueError("the work failed")
            await all_free(slots, 1, within_s=0)

    asyncio.run(run())


def test_one_who_waits_gets_the_slot_that_comes_free(shared_url: str) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            slots = slots_on(of, 1)

            async def hold(for_s: float, wait_s: float) -> None:
                async with slots.hold("a", wait_s=wait_s):
                    await asyncio.sleep(for_s)

            taken, over = asyncio.Event(), asyncio.Event()

            async def until_over() -> None:
                async with slots.hold("a"):
                    taken.set()
                    await over.wait()

            first = asyncio.create_task(until_over())
            await taken.wait()
            with pytest.raises(NoSlot):
                await hold(0, 0)
            with pytest.raises(NoSlot):
                await hold(0, 0.05)
            asyncio.get_running_loop().call_later(0.2, over.set)
            await hold(0, 20)
            await first

    asyncio.run(run())
