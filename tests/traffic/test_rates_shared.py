"""The limiters that processes share: SQLite, PostgreSQL and Valkey, from two processes at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.patience import with_more_time
from tests.traffic.limits_crowd import (
    FixedWindowOnValkey,
    Pair,
    ask_for,
    at_borders,
    backend,
    limiter_on,
)
from tests.traffic.windows import refused_too_early, worst_window
from valkey.asyncio import Valkey

from crowdsafe.errors import ConfigError, InvalidInput, RateLimited
from crowdsafe.traffic import DatabaseLimiter, Rate, ValkeyLimiter


def test_two_processes_share_one_limit(shared_url: str, pair: Pair) -> None:
    rate = Rate(10, 0.5)
    both = pair(ask_for, shared_url, rate, list("abcdef"), 2.2, 24)
    for key in "abcdef":
        calls = [call for found in both for of, call in found if of == key]
        assert worst_window(calls, rate.window_s) <= rate.limit
        assert not refused_too_early(calls, rate)
        assert sum(call.allowed for call in calls) >= 3 * rate.limit
        assert all(any(call.allowed for _, call in found) for found in both)


def test_no_window_across_a_border_holds_more(shared_url: str) -> None:
    rate = Rate(20, 1.0)

    async def run() -> None:
        async with backend(shared_url) as of:
            limiter = limiter_on(of, rate)

            async def allowed() -> bool:
                return (await limiter.check("a")).allowed

            calls = await at_borders(allowed, rate)
            assert worst_window(calls, rate.window_s) == rate.limit

    asyncio.run(run())


def test_a_fixed_window_lets_twice_as_many_in(valkey: Valkey) -> None:
    rate = Rate(20, 1.0)

    async def run() -> None:
        async with valkey:
            naive = FixedWindowOnValkey(valkey, rate)
            calls = await at_borders(lambda: naive.allowed("a"), rate)
            assert worst_window(calls, rate.window_s) == 2 * rate.limit

    asyncio.run(run())


def test_a_decision_tells_what_is_left(shared_url: str) -> None:
    rate = Rate(3, 30.0)

    async def run() -> None:
        async with backend(shared_url) as of:
            limiter = limiter_on(of, rate)
            left = [await limiter.require("a") for _ in range(3)]
            assert [decision.remaining for decision in left] == [2, 1, 0]
            assert all(decision.retry_after_s == 0 for decision in left)
            # Asked anew, by one who has been refused before, and by one who has not.
            for other in (limiter, limiter, limiter_on(of, rate)):
                with pytest.raises(RateLimited) as refused:
                    await other.require("a")
                assert refused.value.data.items() >= {"limit": 3, "window_s": 30.0}.items()
                assert 20 < refused.value.data["retry_after_s"] <= 30
                decision = await other.check("a")
                assert decision.remaining == 0
                assert decision.retry_after_s <= decision.reset_s <= 30
            assert (await limiter.check("b")).allowed
            assert (await limiter_on(of, rate, name="other").check("a")).allowed

    asyncio.run(run())


def test_it_comes_back_when_the_oldest_leaves_the_window(shared_url: str) -> None:
    async def run(window_s: float) -> None:
        async with backend(shared_url) as of:
            limiter = limiter_on(of, Rate(2, window_s), name=f"{window_s}")
            assert (await limiter.check("a")).allowed
            await asyncio.sleep(window_s / 2)
            assert (await limiter.check("a")).allowed
            refused = await limiter.check("a")
            assert not refused.allowed
            await asyncio.sleep(refused.retry_after_s + 0.002)
            assert (await limiter.check("a")).allowed
            assert not (await limiter.check("a")).allowed

    with_more_time(lambda window_s: asyncio.run(run(window_s)), 0.4, 12.0)


def test_one_who_hammers_costs_nothing(shared_url: str) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            limiter = limiter_on(of, Rate(1, 60.0))
            calls = 0
            name = "write" if isinstance(limiter, DatabaseLimiter) else "evalsha"
            real = getattr(of, name)

            async def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                return await real(*args, **kwargs)

            setattr(of, name, counted)
            for _ in range(200):
                await limiter.check("a")
            assert calls == 2, "one that was allowed, and one that was refused"
            await limiter.check("b")
            assert calls == 3

    asyncio.run(run())


@pytest.mark.parametrize("key", ["", "x" * 201, "a\x00b", "\ud800", 7, None])
def test_a_bad_key_is_refused(shared_url: str, key: Any) -> None:
    async def run() -> None:
        async with backend(shared_url) as of:
            limiter = limiter_on(of, Rate(1, 1.0))
            with pytest.raises(InvalidInput, match="a key has 1 to 200 characters"):
                await limiter.check(key)
            assert (await limiter.check("x" * 200)).allowed
            assert (await limiter.check("schlüssel: ☃ '%s\n")).allowed

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "x" * 81, None, 5])
def test_a_bad_name_is_refused(name: Any) -> None:
    for kind in (ValkeyLimiter, DatabaseLimiter):
        with pytest.raises(ConfigError, match="a name has"):
            kind(object(), Rate(1, 1.0), name=name)  # type: ignore[arg-type]
