"""The slots of one process: never more than the limit, given back however the block ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from valkey.asyncio import Valkey

from crowdsafe.errors import ConfigError, InvalidInput, NoSlot
from crowdsafe.traffic import DatabaseSlots, InProcessSlots, ValkeySlots


def test_never_more_than_the_limit(rng: random.Random) -> None:
    async def run() -> None:
        slots = InProcessSlots(3)
        running = {"a": 0, "b": 0}
        most = {"a": 0, "b": 0}
        done = refused = cancelled = 0

        async def one(key: str) -> None:
            nonlocal done, refused
            try:
                async with slots.hold(key, wait_s=rng.choice([0, 0.001, 0.02, 5])):
                    running[key] += 1
                    most[key] = max(most[key], running[key])
                    assert slots.held(key) <= 3
                    try:
                        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.005]))
                        if rng.random() < 0.1:
                            raise ValueError("the work failed")
                    finally:
                        running[key] -= 1
                    done += 1
            except NoSlot:
                refused += 1
            except ValueError:
                pass

        for _ in range(30):
            tasks = [asyncio.create_task(one(rng.choice("ab"))) for _ in range(40)]
            await asyncio.sleep(rng.choice([0, 0.002, 0.004]))
            for task in rng.sample(tasks, 10):
                cancelled += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert slots._keys == {}, "all came back"
            assert slots._waiting == 0
        assert most == {"a": 3, "b": 3}
        assert min(done, refused, cancelled) > 50

    asyncio.run(run())


def test_a_count_that_is_checked_first_lets_too_many_in() -> None:
    async def run() -> None:
        running = most = 0

        async def naive() -> None:
            nonlocal running, most
            if running >= 3:
                return
            await asyncio.sleep(0)  # such as the question to a database
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

        await asyncio.gather(*(naive() for _ in range(50)))
        assert most > 3

    asyncio.run(run())


def test_who_waits_longest_is_next() -> None:
    async def run() -> None:
        slots = InProcessSlots(1)
        order: list[int] = []

        async def one(n: int) -> None:
            async with slots.hold("a", wait_s=5):
                order.append(n)
                await asyncio.sleep(0)

        async with slots.hold("a"):
            tasks = [asyncio.create_task(one(n)) for n in range(10)]
            await asyncio.sleep(0)
            tasks[4].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 5, 6, 7, 8, 9]

    asyncio.run(run())


def test_a_cancel_in_the_moment_of_being_given_a_slot_gives_it_back() -> None:
    async def run() -> None:
        slots = InProcessSlots(1)

        async def one() -> None:
            async with slots.hold("a", wait_s=5):
                await asyncio.sleep(5)

        async with slots.hold("a"):
            waiting = asyncio.create_task(one())
            await asyncio.sleep(0)
        waiting.cancel()  # it has been given the slot, and has not run since
        await asyncio.gather(waiting, return_exceptions=True)
        assert slots.held("a") == 0
        async with slots.hold("a"):
            assert slots.held("a") == 1

    asyncio.run(run())


def test_a_refusal_says_what_to_do() -> None:
    async def run() -> None:
        slots = InProcessSlots(1)
        async with slots.hold("a") as slot:
            slot.check()
            assert not slot.lost.is_set()
            async with slots.hold("b"):
                pass
            for wait_s in (0.0, 0.01):
                with pytest.raises(NoSlot) as refused:
                    async with slots.hold("a", wait_s=wait_s):
                        pass
                assert refused.value.status == 429
                assert refused.value.data == {"limit": 1, "retry_after_s": 1.0}

    asyncio.run(run())


@pytest.mark.parametrize("key", ["", "x" * 201, "a\x00b", "\ud800", 7, None])
def test_a_bad_key_is_refused(key: Any) -> None:
    for slots in (InProcessSlots(1), ValkeySlots(Valkey(), 1, name="x")):
        with pytest.raises(InvalidInput):
            slots.hold(key)


@pytest.mark.parametrize("limit", [0, -1, 1001, 1.5, True, None, "3"])
def test_a_bad_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match="limit of slots"):
        InProcessSlots(limit)
    with pytest.raises(ConfigError, match="limit of slots"):
        ValkeySlots(None, limit, name="x")


@pytest.mark.parametrize("lease_s", [0, 0.01, -1, 3601, float("nan"), float("inf")])
def test_a_bad_lease_is_refused(lease_s: float) -> None:
    with pytest.raises(ConfigError, match="lease_s"):
        ValkeySlots(None, 1, name="x", lease_s=lease_s)
    with pytest.raises(ConfigError, match="lease_s"):
        DatabaseSlots(None, 1, name="x", lease_s=lease_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("wait_s", [-1, 301, float("nan")])
def test_a_bad_wait_is_refused(wait_s: float) -> None:
    with pytest.raises(ConfigError, match="wait_s"):
        InProcessSlots(1).hold("a", wait_s=wait_s)
