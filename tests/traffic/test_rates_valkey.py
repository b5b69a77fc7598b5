"""The limiter on Valkey when the server is away, frozen, new, full, or has another time."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from tests.support.patience import with_more_time
from tests.support.valkey_server import ValkeyServer
from tests.traffic.limits_crowd import Pair, ask_for
from tests.traffic.windows import worst_window
from valkey.asyncio import Valkey
from valkey.exceptions import ResponseError

from crowdsafe.errors import ConfigError, DatabaseUnavailable
from crowdsafe.traffic import Rate, ValkeyLimiter, ValkeyUnavailable

KEY = "crowdsafe:rate:test:a"


def test_nothing_is_allowed_while_the_server_is_away(own_valkey_server: ValkeyServer) -> None:
    async def run() -> None:
        async with Valkey.from_url(own_valkey_server.url()) as client:
            limiter = ValkeyLimiter(client, Rate(100, 60.0), name="test", timeout_s=0.3)
            assert (await limiter.check("a")).allowed

            own_valkey_server.pause()
            start = time.monotonic()
            with pytest.raises(ValkeyUnavailable) as away:
                await limiter.check("a")
            assert 0.25 < time.monotonic() - start < 20
            assert isinstance(away.value, DatabaseUnavailable)
            assert away.value.status == 503
            assert away.value.retry_after_s == 1
            own_valkey_server.resume()
            assert (await limiter.check("a")).allowed
            assert await client.echo("x") == b"x", "no late answer is left on a connection"

            own_valkey_server.kill9()
            for _ in range(3):
                with pytest.raises(ValkeyUnavailable):
                    await limiter.check("a")
            own_valkey_server.start()  # it has forgotten the script, too
            assert (await limiter.check("a")).allowed

    asyncio.run(run())


def test_the_script_is_sent_again_when_the_server_has_forgotten_it(valkey: Valkey) -> None:
    async def run() -> None:
        async with valkey:
            limiter = ValkeyLimiter(valkey, Rate(100, 60.0), name="test")
            await valkey.script_flush()
            decisions = await asyncio.gather(*(limiter.check("a") for _ in range(20)))
            assert sorted(decision.remaining for decision in decisions) == list(range(80, 100))

    asyncio.run(run())


def test_a_clock_that_goes_back_neither_lets_more_in_nor_shuts_out_for_longer(
    valkey_url: str,
) -> None:
    """Times from an hour ahead are what a clock leaves that has gone back by an hour."""

    async def run(window_s: float) -> None:
        async with Valkey.from_url(valkey_url) as valkey:
            rate = Rate(4, window_s)
            await valkey.delete(KEY)
            ahead_us = int((time.time() + 3600) * 1e6)
            await valkey.rpush(KEY, *(ahead_us - n * 1000 for n in (3, 2, 1)))
            limiter = ValkeyLimiter(valkey, rate, name="test")
            assert (await limiter.check("a")).allowed
            refused = await limiter.check("a")
            assert not refused.allowed
            assert 0.6 * window_s < refused.retry_after_s <= window_s
            await asyncio.sleep(refused.retry_after_s + 0.01)
            assert (await limiter.check("a")).allowed

    with_more_time(lambda window_s: asyncio.run(run(window_s)), 0.5, 8.0)


def test_a_key_holds_no_more_than_its_limit_and_ends_with_its_window(valkey: Valkey) -> None:
    async def run() -> None:
        async with valkey:
            limiter = ValkeyLimiter(valkey, Rate(10, 0.3), name="test")
            lengths = []
            end = time.monotonic() + 1
            while time.monotonic() < end:
                await asyncio.gather(*(limiter.check("a") for _ in range(8)))
                lengths.append(await valkey.llen(KEY))
                await asyncio.sleep(0.01)
            assert max(lengths) == 10
            assert (await limiter.check("a")).rate.window_s == 0.3
            assert await valkey.pttl(KEY) <= 302
            await asyncio.sleep(0.35)
            assert await valkey.exists(KEY) == 0

    asyncio.run(run())


def test_a_lower_limit_holds_at_once(valkey_url: str) -> None:
    async def run(window_s: float) -> None:
        async with Valkey.from_url(valkey_url) as valkey:
            await valkey.delete(KEY)
            many = ValkeyLimiter(valkey, Rate(50, window_s), name="test")
            for _ in range(20):
                assert (await many.check("a")).allowed
            few = ValkeyLimiter(valkey, Rate(5, window_s), name="test")
            refused = await few.check("a")
            assert not refused.allowed
            await asyncio.sleep(refused.retry_after_s + 0.01)
            assert (await few.check("a")).allowed

    with_more_time(lambda window_s: asyncio.run(run(window_s)), 0.6, 8.0)


def test_the_work_of_one_call_is_bounded(valkey: Valkey) -> None:
    """Ten thousand expired times, in a key that a longer window kept: no call drops them all."""

    async def run() -> None:
        async with valkey:
            old_us = int((time.time() - 100) * 1e6)
            await valkey.rpush(KEY, *(old_us + n for n in range(10_000)))
            limiter = ValkeyLimiter(valkey, Rate(10_000, 10.0), name="test")
            decision = await limiter.check("a")
            assert decision.allowed
            assert decision.remaining < 100, "it understates what is left"
            assert await valkey.llen(KEY) == 10_000 - 32 + 1

    asyncio.run(run())


def test_a_full_server_allows_nothing(own_valkey_server: ValkeyServer) -> None:
    own_valkey_server.execute("CONFIG", "SET", "maxmemory", "1")

    async def run() -> None:
        async with Valkey.from_url(own_valkey_server.url()) as client:
            limiter = ValkeyLimiter(client, Rate(1, 60.0), name="test")
            with pytest.raises(ValkeyUnavailable):
                await limiter.check("a")

    asyncio.run(run())


def test_another_kind_of_key_in_its_place_is_an_error_of_its_own(valkey: Valkey) -> None:
    async def run() -> None:
        async with valkey:
            await valkey.set(KEY, "something else")
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await ValkeyLimiter(valkey, Rate(1, 60.0), name="test").check("a")

    asyncio.run(run())


@pytest.mark.slow
def test_no_window_holds_more_while_a_server_that_persists_is_killed_again_and_again(
    pair: Pair, rng: random.Random
) -> None:
    rate = Rate(15, 1.0)
    with ValkeyServer.create(persist=True) as server:
        crowd = threading.Thread(
            target=lambda: found.extend(pair(ask_for, server.url(), rate, ["a", "b"], 20.0, 24))
        )
        found: list[Any] = []
        crowd.start()
        kills = 0
        while crowd.is_alive():
            time.sleep(rng.uniform(0.2, 1.5))
            server.kill9()
            time.sleep(rng.uniform(0, 0.3))
            server.start()
            kills += 1
        crowd.join()
    assert kills > 5
    for key in "ab":
        calls = [call for one in found for of, call in one if of == key]
        assert worst_window(calls, rate.window_s) <= rate.limit
        assert sum(call.allowed for call in calls) > 5 * rate.limit


@pytest.mark.parametrize("timeout_s", [0, -1, 61, float("nan")])
def test_a_bad_timeout_is_refused(timeout_s: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        ValkeyLimiter(None, Rate(1, 1.0), name="test", timeout_s=timeout_s)
