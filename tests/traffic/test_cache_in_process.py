"""The cache of one process: one execution, cancelled callers, errors, limits, scopes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.traffic.caches import Maker, NaiveCache, asking, eventually

from crowdsafe.errors import ConfigError, InvalidInput, Overloaded
from crowdsafe.traffic import PUBLIC, InProcessCache, for_user
from crowdsafe.traffic.cache.errors import (
    CacheMisuse,
    ExecutionEnded,
    ExecutionTimedOut,
    ValueTooLarge,
)
from crowdsafe.traffic.cache.scope import Scope, address_of
from crowdsafe.traffic.cache.timing import lifetime

WAIT_S_MAX = 20.0
who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT_S_MAX))


class Clock:
    """What a cache in this process takes for the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("crowdsafe.traffic.cache.in_process.monotonic", clock)
    return clock


def test_a_thousand_identical_misses_are_one_execution_and_naively_a_thousand() -> None:
    async def main(cache: Any) -> int:
        make = Maker()
        tasks = await asking(cache, make, 1000)
        make.gate.set()
        assert await asyncio.gather(*tasks) == ["value"] * 1000
        assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"
        return make.begun

    assert asyncio.run(main(InProcessCache())) == 1
    assert asyncio.run(main(NaiveCache())) == 1000


def test_a_leader_that_is_cancelled_leaves_its_twenty_followers_untouched() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker()
        leader, *followers = await asking(cache, make, 21)
        await make.started.wait()
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        make.gate.set()
        assert await asyncio.gather(*followers) == ["value"] * 20
        assert (make.begun, make.cancelled) == (1, 0)

    run(main())


def test_any_who_stay_get_the_value_whoever_else_is_cancelled(rng: random.Random) -> None:
    async def main() -> None:
        for _ in range(30):
            cache, make = InProcessCache(), Maker()
            tasks = await asking(cache, make, 10)
            leaving = rng.sample(range(10), rng.randrange(10))
            for n in leaving:
                tasks[n].cancel()
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            make.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for n, result in enumerate(results):
                gone = n in leaving
                assert isinstance(result, asyncio.CancelledError) if gone else result == "value"
            assert make.begun == 1

    run(main())


def test_when_nobody_waits_the_execution_is_cancelled_and_the_next_begins_after_its_end() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker()
        unwinding = asyncio.Event()
        unwound = asyncio.Event()

        async def slow_to_end() -> Any:
            try:
                return await make()
            finally:
                unwinding.set()
                await unwound.wait()

        for task in await asking(cache, slow_to_end, 20):
            task.cancel()
        await unwinding.wait()
        assert make.cancelled == 1
        again = Maker("again", open_gate=True)
        (next_one,) = await asking(cache, again, 1)
        await asyncio.sleep(0.02)
        assert again.begun == 0, "began while the one before was still ending"
        unwound.set()
        assert await next_one == "again"

    run(main())


def test_an_execution_that_ignores_its_cancellation_does_not_block_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crowdsafe.traffic.cache.flight.UNWIND_S_MAX", 0.05)

    async def main() -> None:
        cache = InProcessCache()
        release = asyncio.Event()

        async def deaf() -> str:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return "late"

        with pytest.raises(ExecutionTimedOut) as caught:
            await cache.get_or_run("k", deaf, scope=PUBLIC, ttl_s=60, timeout_s=0.05)
        assert caught.value.timeout_s == 0.05
        assert await cache.get_or_run("k", Maker("new", open_gate=True), scope=PUBLIC, ttl_s=60)
        release.set()
        await asyncio.sleep(0.02)
        make = Maker("never")
        assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "new"

    run(main())
    assert "does not end" in caplog.text


def test_an_error_goes_to_all_who_wait_and_is_not_kept() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker(ValueError("no"))
        tasks = await asking(cache, make, 50)
        make.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["no"] * 50
        assert make.begun == 1
        assert len(_frames(results[0])) < 12, "the traceback grows with every caller"
        make.value = "well"
        assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "well"
        assert cache.stats().failures == 1

    run(main())


def _frames(error: Any) -> list[Any]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def test_a_make_that_is_cancelled_from_outside_does_not_look_like_the_callers_own_cancel() -> None:
    async def main() -> None:
        cache = InProcessCache()

        async def cancelled() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ExecutionEnded):
            await cache.get_or_run("k", cancelled, scope=PUBLIC, ttl_s=60)

    run(main())


def test_a_make_that_takes_too_long_is_cancelled_and_everyone_told() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker()
        tasks = await asking(cache, make, 5, timeout_s=0.05)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, ExecutionTimedOut) for result in results)
        await eventually(lambda: make.cancelled == 1)
        make.gate.set()
        assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"

    run(main())


def test_a_value_ends_and_its_life_is_jittered(rng: random.Random, clock: Clock) -> None:
    lives = [lifetime(100, 0, 1, 0.1, rng.random).fresh_s for _ in range(300)]
    assert 90 <= min(lives) < 92
    assert 98 < max(lives) <= 100

    async def main() -> None:
        cache, make = InProcessCache(), Maker(open_gate=True)
        for seconds, begun in ((0, 1), (8.9, 1), (1.2, 2)):
            clock.now += seconds
            await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=10)
            assert make.begun == begun

    run(main())


def test_a_stale_value_is_served_while_one_refresh_runs(clock: Clock) -> None:
    async def main() -> None:
        cache, new = InProcessCache(), Maker("new")
        life = {"scope": PUBLIC, "ttl_s": 10.0, "stale_s": 60.0}
        await cache.get_or_run("k", Maker("old", open_gate=True), **life)
        clock.now += 11
        answers = [await cache.get_or_run("k", new, **life) for _ in range(100)]
        assert answers == ["old"] * 100
        await new.started.wait()
        new.gate.set()
        await eventually(lambda: cache.stats().flights == 0)
        assert await cache.get_or_run("k", new, **life) == "new"
        assert new.begun == 1
        assert cache.stats().stale == 100

    run(main())


def test_a_refresh_that_fails_is_logged_and_the_old_value_served_on(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    async def main() -> None:
        cache = InProcessCache()
        life = {"scope": PUBLIC, "ttl_s": 10.0, "stale_s": 60.0}
        await cache.get_or_run("k", Maker("old", open_gate=True), **life)
        clock.now += 11
        failing = Maker(RuntimeError("upstream is away"), open_gate=True)
        for _ in range(20):
            assert await cache.get_or_run("k", failing, **life) == "old"
            await asyncio.sleep(0.002)
        assert failing.begun == 1, "a failing refresh rests before it is tried again"

    run(main())
    assert "upstream is away" in caplog.text


def test_refreshes_are_bounded_and_callers_that_leave_do_not_end_them(clock: Clock) -> None:
    async def main() -> None:
        cache, make = InProcessCache(refreshes_max=2), Maker("new")
        life = {"scope": PUBLIC, "ttl_s": 10.0, "stale_s": 50.0}
        for n in range(5):
            await cache.get_or_run(f"{n}", Maker(n, open_gate=True), **life)
        clock.now += 11
        for n in range(5):
            assert await cache.get_or_run(f"{n}", make, **life) == n
        await eventually(lambda: make.begun > 0)
        assert make.begun == 2
        clock.now += 60  # too old now: a caller waits for the refresh, and leaves
        caller = asyncio.create_task(cache.get_or_run("0", make, **life))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.sleep(0.01)
        assert (make.begun, make.cancelled) == (2, 0)
        make.gate.set()
        await eventually(lambda: make.ended == 2)

    run(main())


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    async def main() -> None:
        cache = InProcessCache(items_max=100)
        make = Maker(open_gate=True)
        for n in range(1000):
            await cache.get_or_run(f"invented {n}", make, scope=PUBLIC, ttl_s=60)
            await cache.get_or_run("in use", make, scope=PUBLIC, ttl_s=60)
        assert make.begun == 1001
        stats = cache.stats()
        assert (stats.items, stats.evicted) == (100, 901)
        await cache.get_or_run("invented 999", make, scope=PUBLIC, ttl_s=60)
        assert make.begun == 1001
        await cache.get_or_run("invented 900", make, scope=PUBLIC, ttl_s=60)
        assert make.begun == 1002

    run(main())


def test_memory_is_bounded_in_bytes_and_a_value_too_large_says_so() -> None:
    async def main() -> None:
        cache = InProcessCache(bytes_max=1_000_000, value_bytes_max=100_000)
        for n in range(100):
            value = {"rows": ["x" * 1000 + str(m) for m in range(50)]}
            await cache.get_or_run(f"{n}", Maker(value, open_gate=True), scope=PUBLIC, ttl_s=60)
        stats = cache.stats()
        assert 10 <= stats.items <= 20
        assert stats.size_bytes <= 1_000_000
        big = Maker(["x" * 1000 + str(m) for m in range(200)], open_gate=True)
        with pytest.raises(ValueTooLarge) as caught:
            await cache.get_or_run("big", big, scope=PUBLIC, ttl_s=60)
        assert caught.value.size_bytes > caught.value.limit_bytes == 100_000
        for n in range(100):
            await cache.forget(f"{n}", scope=PUBLIC)
        assert (cache.stats().items, cache.stats().size_bytes) == (0, 0)

    run(main())


def test_flights_are_bounded() -> None:
    async def main() -> None:
        cache, make = InProcessCache(flights_max=3), Maker()
        tasks = [
            asyncio.create_task(cache.get_or_run(f"{n}", make, scope=PUBLIC, ttl_s=60))
            for n in range(3)
        ]
        await make.started.wait()
        with pytest.raises(Overloaded) as caught:
            await cache.get_or_run("one more", make, scope=PUBLIC, ttl_s=60)
        assert caught.value.retry_after_s == 1
        make.gate.set()
        await asyncio.gather(*tasks)
        assert await cache.get_or_run("one more", make, scope=PUBLIC, ttl_s=60) == "value"

    run(main())


def test_a_scope_is_required_and_names_someone() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker(open_gate=True)
        untyped: Any = cache
        with pytest.raises(TypeError, match="scope"):
            await untyped.get_or_run("k", make, ttl_s=60)
        for wrong in (None, "public", "user:7", 7, ("user", "7")):
            with pytest.raises(TypeError, match="scope is PUBLIC or for_user"):
                await untyped.get_or_run("k", make, scope=wrong, ttl_s=60)
        with pytest.raises(TypeError, match="scope"):
            await untyped.forget("k")
        for key in (None, 1, b"k"):
            with pytest.raises(InvalidInput, match="key is text"):
                await untyped.get_or_run(key, make, scope=PUBLIC, ttl_s=60)
        for key in ("", "k" * 1001):
            with pytest.raises(InvalidInput, match="1 to 1000"):
                await cache.get_or_run(key, make, scope=PUBLIC, ttl_s=60)
        assert make.begun == 0

    run(main())
    untyped: Any = for_user
    for nobody in (None, True, 1.5, b"7", ["7"]):
        with pytest.raises(TypeError, match="user's id"):
            untyped(nobody)
    for empty in ("", "x" * 201):
        with pytest.raises(ValueError, match="200"):
            for_user(empty)
    assert for_user(7) == for_user("7")


def test_no_text_in_a_key_reaches_another_scope(rng: random.Random) -> None:
    tricks = ["", ":", "/", "\x00", "\\", '"', '","', "[", "user", "public", "7", "\ud800", "é"]

    def text() -> str:
        return "".join(rng.choices(tricks, k=rng.randrange(1, 5))) or "x"

    pairs: set[tuple[Scope, str]] = {(PUBLIC, text()) for _ in range(300)}
    pairs |= {(for_user(text()), text()) for _ in range(700)}
    addresses = {address_of(scope, key) for scope, key in pairs}
    assert len(addresses) == len(pairs)

    async def main() -> None:
        cache = InProcessCache()
        for scope, key in sorted(pairs):
            own = Maker((scope, key), open_gate=True)
            assert await cache.get_or_run(key, own, scope=scope, ttl_s=60) == (scope, key)
        for scope, key in sorted(pairs):
            own = Maker(None)
            assert await cache.get_or_run(key, own, scope=scope, ttl_s=60) == (scope, key)

    run(main())


def test_the_execution_sees_the_context_of_the_caller_that_began_it() -> None:
    async def main() -> None:
        cache = InProcessCache()
        gate = asyncio.Event()

        async def make() -> str:
            await gate.wait()
            seen = who.get()
            who.set("changed inside")
            return seen

        async def ask(name: str) -> tuple[str, str]:
            who.set(name)
            return await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60), who.get()

        tasks = [asyncio.create_task(ask(name)) for name in ("first", "second")]
        await asyncio.sleep(0.01)
        gate.set()
        assert await asyncio.gather(*tasks) == [("first", "first"), ("first", "second")]

    run(main())


def test_a_make_that_asks_for_itself_is_refused_and_does_not_hang() -> None:
    async def main() -> None:
        cache, other = InProcessCache(), InProcessCache()

        async def a() -> Any:
            return await cache.get_or_run("a", a, scope=PUBLIC, ttl_s=60)

        with pytest.raises(CacheMisuse, match="itself"):
            await cache.get_or_run("a", a, scope=PUBLIC, ttl_s=60)

        async def b() -> Any:
            return await other.get_or_run("c", c, scope=PUBLIC, ttl_s=60)

        async def c() -> Any:
            await asyncio.sleep(0.01)
            return await asyncio.gather(
                cache.get_or_run("d", Maker(open_gate=True), scope=PUBLIC, ttl_s=60),
                cache.get_or_run("b", b, scope=PUBLIC, ttl_s=60),
            )

        # Two that begin apart and then wait for each other; both learn of it.
        both = await asyncio.gather(
            cache.get_or_run("b", b, scope=PUBLIC, ttl_s=60),
            other.get_or_run("c", c, scope=PUBLIC, ttl_s=60),
            return_exceptions=True,
        )
        assert [type(error) for error in both] == [CacheMisuse, CacheMisuse]
        nested = Maker("inner", open_gate=True)

        async def outer() -> Any:
            return await cache.get_or_run("inner", nested, scope=PUBLIC, ttl_s=60)

        assert await cache.get_or_run("outer", outer, scope=PUBLIC, ttl_s=60) == "inner"

    run(main())


def test_forget_makes_the_next_caller_ask_anew_and_stores_nothing_older() -> None:
    async def main() -> None:
        cache, before, after = InProcessCache(), Maker("before"), Maker("after")
        (early,) = await asking(cache, before, 1)
        await before.started.wait()
        await cache.forget("k", scope=PUBLIC)
        (late,) = await asking(cache, after, 1)
        after.gate.set()
        assert await late == "after"
        before.gate.set()
        assert await early == "before"
        assert await cache.get_or_run("k", before, scope=PUBLIC, ttl_s=60) == "after"
        await cache.forget("k", scope=for_user(1))
        assert await cache.get_or_run("k", before, scope=PUBLIC, ttl_s=60) == "after"

    run(main())


def test_another_loop_is_refused_while_the_first_is_open_and_served_afterwards() -> None:
    cache = InProcessCache()
    errors: list[BaseException] = []

    async def first() -> None:
        make = Maker(open_gate=True)
        await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60)

        def elsewhere() -> None:
            async def main() -> None:
                make = Maker(open_gate=True)
                assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"
                await cache.get_or_run("other", make, scope=PUBLIC, ttl_s=60)

            try:
                asyncio.run(main())
            except CacheMisuse as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)

    asyncio.run(first())
    assert len(errors) == 1
    assert "another event loop" in str(errors[0])
    asyncio.run(first_again(cache))


async def first_again(cache: InProcessCache) -> None:
    make = Maker(open_gate=True)
    assert await cache.get_or_run("other", make, scope=PUBLIC, ttl_s=60) == "value"
    assert make.begun == 1


def test_a_loop_that_ends_in_mid_flight_leaves_the_cache_usable() -> None:
    cache = InProcessCache()

    async def begin() -> None:
        await asking(cache, Maker(), 3)

    asyncio.run(begin())
    asyncio.run(first_again(cache))
    gc.collect()


def test_closing_ends_what_runs() -> None:
    async def main() -> None:
        cache, make = InProcessCache(), Maker()
        (caller,) = await asking(cache, make, 1)
        await make.started.wait()
        await cache.close()
        with pytest.raises(ExecutionEnded):
            await caller
        assert (make.cancelled, cache.stats().flights) == (1, 0)
        assert len(asyncio.all_tasks()) == 2, "this one, and the one that waits for it"

    run(main())


def test_the_decorator_keeps_a_functions_answers() -> None:
    cache = InProcessCache()
    calls: list[tuple[int, int]] = []

    @cache.cached(
        ttl_s=60, key=lambda user, page: f"{page}", scope=lambda user, page: for_user(user)
    )
    async def listing(user: int, page: int) -> str:
        """What a user sees."""
        calls.append((user, page))
        return f"{user} sees {page}"

    @cache.cached(ttl_s=60, key="1", scope=for_user(1))
    async def another() -> str:
        return "another function's answer"

    async def main() -> None:
        assert await asyncio.gather(*(listing(1, 1) for _ in range(10))) == ["1 sees 1"] * 10
        assert await listing(2, page=1) == "2 sees 1"
        assert await another() == "another function's answer"
        assert calls == [(1, 1), (2, 1)]
        await listing.forget(1, 1)
        await listing(1, 1)
        assert calls == [(1, 1), (2, 1), (1, 1)]

    run(main())
    assert listing.__doc__ == "What a user sees."
    with pytest.raises((RuntimeError, CacheMisuse)):  # Python 3.11 wraps what __set_name__ raises

        class Shop:
            @cache.cached(ttl_s=60, key="k", scope=PUBLIC)
            async def price(self) -> int:
                return 1

    untyped: Any = cache.cached
    with pytest.raises(TypeError, match="scope"):
        untyped(ttl_s=60, key="k")


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"items_max": 0}, {"bytes_max": -1}, {"flights_max": 0}, {"jitter": 1.0}):
        with pytest.raises(ConfigError):
            InProcessCache(**wrong)  # type: ignore[arg-type]

    async def main() -> None:
        cache, make = InProcessCache(), Maker()
        for times in ({"ttl_s": 0}, {"ttl_s": float("nan")}, {"ttl_s": 1, "stale_s": -1}):
            with pytest.raises(ConfigError):
                await cache.get_or_run("k", make, scope=PUBLIC, **times)
        with pytest.raises(ConfigError):
            await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=1, timeout_s=0)

    run(main())
