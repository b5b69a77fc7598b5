"""Breakers on each backend: one probe in half-open, whoever is cancelled, late or slow."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from sqlalchemy import MetaData
from tests.traffic.breaker_crowd import (
    LONG,
    MIDDLE,
    SETTINGS,
    BadRequest,
    Down,
    NaiveBreaker,
    break_it,
    crowd,
    fails,
    opened,
    until_half_open,
    works,
)

from crowdsafe import Store
from crowdsafe.errors import BreakerOpen, ConfigError
from crowdsafe.traffic.breaker import Breaker, BreakerSettings, InProcessBreaker

Opened = Callable[..., AbstractAsyncContextManager[Breaker]]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


@pytest.fixture(
    params=["process", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "valkey"]
)
def backend(request: pytest.FixtureRequest) -> str:
    """The URL of each backend in turn, "" for none."""
    if request.param == "process":
        return ""
    if request.param == "valkey":
        return str(request.getfixturevalue("valkey_url"))
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    with Store(url) as store:
        store.create_all(MetaData())
    return str(url)


@pytest.fixture
def open_breaker(backend: str) -> Opened:
    name = uuid.uuid4().hex

    def open_it(settings: BreakerSettings = SETTINGS) -> AbstractAsyncContextManager[Breaker]:
        return opened(backend, name, settings)

    return open_it


async def check_one_probe(breaker: Any) -> None:
    """50 callers meet a breaker whose cool-down is over, and a service that takes its time."""
    running = most = 0

    async def slow() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2)
        running -= 1
        return "ok"

    passed, refused = await crowd(breaker, slow)
    assert (most, passed, len(refused)) == (1, ["ok"], 49)


def test_of_50_callers_exactly_one_probes(open_breaker: Opened) -> None:
    async def main() -> None:
        async with open_breaker() as breaker:
            await break_it(breaker)
            assert (await breaker.state()).state != "closed"
            await until_half_open(breaker)
            await check_one_probe(breaker)
            assert (await breaker.state()).state == "closed"
            passed, refused = await crowd(breaker, works)
            assert (len(passed), len(refused)) == (50, 0)

    run(main())


def test_the_check_catches_the_naive_version() -> None:
    async def main() -> None:
        breaker = NaiveBreaker()
        await break_it(breaker)
        with pytest.raises(BreakerOpen):
            await breaker.call(works)
        await asyncio.sleep(SETTINGS.cooldown_s)
        with pytest.raises(AssertionError, match="50"):
            await check_one_probe(breaker)

    run(main())


def test_open_it_refuses_without_calling(open_breaker: Opened) -> None:
    async def main() -> None:
        async with open_breaker(LONG) as breaker:
            await break_it(breaker)
            calls = 0

            async def counted() -> None:
                nonlocal calls
                calls += 1

            with pytest.raises(BreakerOpen) as caught:
                await breaker.call(counted)
            assert calls == 0
            assert 0 < caught.value.retry_after_s <= LONG.cooldown_s
            assert (caught.value.breaker, caught.value.state) == (breaker.name, "open")
            shown = await breaker.state()
            assert (shown.name, shown.state, shown.alone) == (breaker.name, "open", False)
            assert 0 < shown.retry_after_s <= caught.value.retry_after_s

    run(main())


def test_a_probe_that_fails_opens_it_again_for_longer(open_breaker: Opened) -> None:
    async def main() -> None:
        async with open_breaker(MIDDLE) as breaker:
            await break_it(breaker)
            first = (await breaker.state()).retry_after_s
            await until_half_open(breaker)
            outcomes, refused = await crowd(breaker, fails)
            assert [type(one) for one in outcomes] == [Down]
            assert len(refused) == 49
            second = await breaker.state()
            assert second.state == "open"
            assert second.retry_after_s > first

    run(main())


def test_a_cancelled_probe_leaves_its_place(open_breaker: Opened) -> None:
    async def main() -> None:
        async with open_breaker() as breaker:
            await break_it(breaker)
            await until_half_open(breaker)
            started = asyncio.Event()

            async def hang() -> None:
                started.set()
                await asyncio.sleep(60)

            probe = asyncio.create_task(breaker.call(hang))
            await started.wait()
            with pytest.raises(BreakerOpen) as caught:
                await breaker.call(works)
            assert caught.value.state == "half-open"
            assert 0 < caught.value.retry_after_s <= SETTINGS.cooldown_s
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            assert (await breaker.state()).state == "half-open"
            await check_one_probe(breaker)
            assert (await breaker.state()).state == "closed"

    run(main())


def test_a_caller_cancelled_at_any_moment_blocks_nobody(
    open_breaker: Opened, rng: random.Random
) -> None:
    """Callers are cancelled while they ask for the probe, too; the right never gets stuck."""

    async def main() -> None:
        async with open_breaker() as breaker:
            await break_it(breaker)
            await until_half_open(breaker)
            for _ in range(20):
                probe = asyncio.create_task(breaker.call(asyncio.sleep, 60))
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                await asyncio.sleep(rng.choice([0, 0.0005, 0.002]))
                probe.cancel()
                with contextlib.suppress(asyncio.CancelledError, BreakerOpen):
                    await probe
            if breaker._tasks:
                await asyncio.wait(breaker._tasks, timeout=3)
            assert (await breaker.state()).retry_after_s == 0, "the right is stuck"
            await check_one_probe(breaker)

    run(main())


def test_what_does_not_count_says_nothing(open_breaker: Opened) -> None:
    async def bad() -> None:
        raise BadRequest

    def counts(error: Exception) -> bool:
        return not isinstance(error, BadRequest)

    async def main() -> None:
        async with open_breaker() as breaker:
            for _ in range(SETTINGS.failures + 1):
                with pytest.raises(BadRequest):
                    await breaker.call(bad, counts=counts)
            assert (await breaker.state()).state == "closed"
            await break_it(breaker)
            await until_half_open(breaker)
            with pytest.raises(BadRequest):
                await breaker.call(bad, counts=counts)
            assert (await breaker.state()).state == "half-open"
            assert await breaker.call(works, counts=counts) == "ok"
            assert (await breaker.state()).state == "closed"

    run(main())


def test_answers_from_before_change_nothing(open_breaker: Opened) -> None:
    """Calls that were let through while it was closed end when it is open, then half-open."""

    async def main() -> None:
        async with open_breaker() as breaker:
            go = asyncio.Event()

            async def late(fn: Any) -> Any:
                await go.wait()
                return await fn()

            slow = [asyncio.create_task(breaker.call(late, fn)) for fn in [works, fails] * 5]
            await asyncio.sleep(0.05)
            await break_it(breaker)
            await until_half_open(breaker)
            before = await breaker.state()
            go.set()
            await asyncio.gather(*slow, return_exceptions=True)
            assert await breaker.state() == before
            assert await breaker.call(works) == "ok"
            shown = await breaker.state()
            assert (shown.state, shown.failures) == ("closed", 0)

    run(main())


def test_a_slow_probe_that_was_replaced_changes_nothing(open_breaker: Opened) -> None:
    settings = BreakerSettings(
        failures=3, cooldown_s=0.8, cooldown_max_s=30, probe_s=1, backend_s=5
    )

    async def main() -> None:
        async with open_breaker(settings) as breaker:
            await break_it(breaker)
            await until_half_open(breaker)
            go = asyncio.Event()
            slow = asyncio.create_task(breaker.call(go.wait))
            await asyncio.sleep(0.05)
            with pytest.raises(BreakerOpen):
                await breaker.call(works)
            await asyncio.sleep(settings.probe_s)
            with pytest.raises(Down):
                await breaker.call(fails)
            assert (await breaker.state()).state == "open"
            go.set()
            assert await slow is True
            assert (await breaker.state()).state == "open"

    run(main())


def test_failures_of_50_callers_at_once_open_it_once(open_breaker: Opened) -> None:
    async def down() -> None:
        await asyncio.sleep(0.05)
        raise Down

    async def main() -> None:
        async with open_breaker(LONG) as breaker:
            outcomes, _ = await crowd(breaker, down)
            assert len(outcomes) == 50
            shown = await breaker.state()
            assert shown.state == "open"
            assert shown.retry_after_s <= LONG.cooldown_s

    run(main())


# Time, by a clock that the test sets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def timed(**settings: Any) -> tuple[InProcessBreaker, Clock]:
    clock = Clock()
    chosen = BreakerSettings(
        **{"failures": 3, "window_s": 10, "cooldown_s": 10, "cooldown_max_s": 100, **settings}
    )
    return InProcessBreaker("it", chosen, clock=clock, rng=random.Random(7)), clock


def test_only_failures_within_the_window_count() -> None:
    async def main() -> None:
        breaker, clock = timed()
        for _ in range(20):
            await break_it(breaker, 1)
            clock.now += 5.0
            assert await breaker.call(works) == "ok"
        shown = await breaker.state()
        assert (shown.state, shown.failures) == ("closed", 1)
        await break_it(breaker, 1)
        assert (await breaker.state()).failures == 2
        clock.now += 4.9
        await break_it(breaker, 1)
        assert (await breaker.state()).state == "open"

    run(main())


def test_with_a_share_stray_failures_of_a_busy_service_do_not_open_it() -> None:
    async def main() -> None:
        for share, state in ((0.5, "closed"), (0.0, "open")):
            breaker, clock = timed(failing_share=share)
            for _ in range(5):
                clock.now += 0.1
                for _ in range(9):
                    with contextlib.suppress(BreakerOpen):
                        await breaker.call(works)
                with contextlib.suppress(BreakerOpen):
                    await break_it(breaker, 1)
            assert (await breaker.state()).state == state
            clock.now += 0.1
            with contextlib.suppress(BreakerOpen):
                await break_it(breaker, 20)
            assert (await breaker.state()).state == "open"
            clock.now += 10
            await break_it(breaker, 1)
            assert (await breaker.state()).state == "open", "a probe that fails always counts"

    run(main())


def test_the_cool_down_grows_with_jitter_up_to_its_cap_and_starts_anew() -> None:
    async def main() -> None:
        breaker, clock = timed()
        await break_it(breaker)
        waits = []
        for _ in range(8):
            waits.append((await breaker.state()).retry_after_s)
            clock.now += waits[-1]
            await break_it(breaker, 1)
        for wait, longest in zip(waits, [10, 20, 40, 80, 100, 100, 100, 100], strict=True):
            assert 0.75 * longest <= wait <= longest
        assert len({wait / 100 for wait in waits[4:]}) == 4, "no jitter"
        clock.now += 100
        assert await breaker.call(works) == "ok"
        await break_it(breaker)
        assert (await breaker.state()).retry_after_s <= 10

    run(main())


def test_a_probe_of_which_nothing_is_heard_frees_its_place_in_time() -> None:
    async def main() -> None:
        breaker, clock = timed(probe_s=30)
        await break_it(breaker)
        clock.now += 10
        probe = asyncio.create_task(breaker.call(asyncio.sleep, 60))
        await asyncio.sleep(0)
        clock.now += 29
        with pytest.raises(BreakerOpen) as caught:
            await breaker.call(works)
        assert caught.value.retry_after_s == pytest.approx(1)
        clock.now += 1
        assert await breaker.call(works) == "ok"
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert (await breaker.state()).state == "closed"

    run(main())


def test_a_clock_that_is_put_back_does_not_keep_it_open() -> None:
    async def main() -> None:
        breaker, clock = timed()
        await break_it(breaker)
        clock.now -= 500
        assert await breaker.call(works) == "ok"
        assert (await breaker.state()).state == "closed"

    run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"failures": 1.5},
        {"failures": 1001},
        {"window_s": 0},
        {"cooldown_s": -1},
        {"cooldown_s": float("nan")},
        {"probe_s": float("inf")},
        {"cooldown_s": 10, "cooldown_max_s": 9},
        {"backend_s": "1"},
        {"failing_share": 1.1},
        {"failing_share": None},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BreakerSettings(**wrong)


@pytest.mark.parametrize("name", ["", "a" * 81, "\x00", None])
def test_a_name_that_cannot_be_kept(name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        InProcessBreaker(name)
