"""The caches that processes share, with two of them in one process that know nothing of each other:
one execution, errors, leases, fences, stale values. Kills are in test_cache_processes, outages in
test_cache_away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import with_more_time
from tests.traffic.cache_servers import BACKENDS, empty_cache
from tests.traffic.caches import (
    Maker,
    NaiveCache,
    asking,
    eventually,
    met,
    one_cache,
    two_caches,
)

from crowdsafe.errors import ConfigError, Insufficient, Overloaded
from crowdsafe.traffic import (
    PUBLIC,
    CacheMisuse,
    ExecutionEnded,
    ExecutionFailed,
    ExecutionTimedOut,
    NotJsonable,
    ValueTooLarge,
    for_user,
)
from crowdsafe.traffic.cache.scope import address_of

WAIT_S_MAX = 40.0


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_cache(request, tmp_path, request.param)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, WAIT_S_MAX))


async def lapsed(cache: Any, key: str = "k") -> None:
    """Let the lease of a key run out, as if its holder had stood still for that long."""
    await cache._backend.renew(address_of(PUBLIC, key), await newest(cache, key), 0)


async def newest(cache: Any, key: str = "k") -> int:
    async with asyncio.timeout(10):
        while True:
            claim = await cache._backend.claim(address_of(PUBLIC, key), 0, 0)
            if claim.busy:
                return int(claim.busy)
            await asyncio.sleep(0.01)


def test_two_hundred_identical_misses_are_one_execution_and_naively_many(url: str) -> None:
    async def ask(first: Any, second: Any) -> int:
        make = Maker({"rows": [1, 2.5, None, "ü"]})
        tasks = [*await asking(first, make, 100), *await asking(second, make, 100)]
        await make.started.wait()
        if isinstance(first, NaiveCache):
            await eventually(lambda: make.begun > 1)
        else:
            await asyncio.sleep(0.05)
        make.gate.set()
        answers = await asyncio.gather(*tasks)
        assert answers == [{"rows": [1, 2.5, None, "ü"]}] * 200
        if not isinstance(first, NaiveCache):
            assert answers[0] is not answers[1], "each caller has objects of its own"
        return make.begun

    async def main() -> None:
        async with two_caches(url) as (first, second):
            assert await ask(first, second) == 1
            for cache in (first, second):
                never = Maker()
                answer = await cache.get_or_run("k", never, scope=PUBLIC, ttl_s=60)
                assert answer == {"rows": [1, 2.5, None, "ü"]}
                assert (never.begun, cache.stats().hits) == (0, 1)
            await first.forget("k", scope=PUBLIC)
            naive = NaiveCache(first), NaiveCache(second)
            assert await ask(*naive) > 1

    run(main())


def test_many_keys_at_once_are_one_execution_each(url: str) -> None:
    async def main() -> None:
        async with two_caches(url) as caches:
            begun: list[int] = []

            async def ask(n: int, cache: Any) -> None:
                async def make() -> int:
                    begun.append(n)
                    await asyncio.sleep(0.01)
                    return n

                for scope in (PUBLIC, for_user(1)):
                    got = await cache.get_or_run(f"{n}", make, scope=scope, ttl_s=60)
                    assert got == n

            await asyncio.gather(*(ask(n, cache) for n in range(60) for cache in caches * 2))
            assert sorted(begun) == sorted([*range(60)] * 2)

    run(main())


def test_callers_that_leave_touch_nobody_and_the_last_one_ends_it(
    url: str, rng: random.Random
) -> None:
    async def main() -> None:
        async with two_caches(url) as (first, second):
            for n in range(3):
                make = Maker()
                here = await asking(first, make, 10, key=f"{n}")
                await make.started.wait()
                there = await asking(second, make, 10, key=f"{n}")
                await asyncio.sleep(0.03)
                for task in [here[0], *rng.sample([*here[1:], *there], 15)]:
                    task.cancel()
                make.gate.set()
                answers = await asyncio.gather(*here, *there, return_exceptions=True)
                assert answers.count("value") == 4
                assert make.ended == 1
            # All callers of the process that makes it leave: one of those elsewhere takes over.
            gone, taking_over = Maker(), Maker("taken over", open_gate=True)
            here = await asking(first, gone, 20, key="gone")
            await gone.started.wait()
            there = await asking(second, taking_over, 20, key="gone")
            await asyncio.sleep(0.03)
            assert taking_over.begun == 0
            for task in here:
                task.cancel()
            assert await asyncio.gather(*there) == ["taken over"] * 20
            assert (gone.begun, gone.cancelled, taking_over.begun) == (1, 1, 1)

    run(main())


def test_all_leave_and_the_next_caller_begins_anew_at_once(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            make = Maker()
            for task in await asking(first, make, 5):
                task.cancel()
            await asyncio.sleep(0.02)  # while the claim is on its way, or just after
            (late,) = await asking(first, make, 1)
            await make.started.wait()
            late.cancel()
            await eventually(lambda: make.cancelled == 1)
            again = Maker("again", open_gate=True)
            assert await second.get_or_run("k", again, scope=PUBLIC, ttl_s=60) == "again"

    run(main())


@pytest.mark.parametrize("error", [ValueError("no"), Insufficient("only 3", available=3)])
def test_an_error_goes_to_all_who_wait_everywhere_and_is_not_kept(
    url: str, error: Exception
) -> None:
    async def main() -> None:
        async with two_caches(url) as (first, second):
            make, waiting = Maker(error), met(second)
            here = await asking(first, make, 10)
            await make.started.wait()
            there = await asking(second, make, 10)
            await waiting.wait()
            make.gate.set()
            ours = await asyncio.gather(*here, return_exceptions=True)
            theirs = await asyncio.gather(*there, return_exceptions=True)
            assert make.begun == 1
            assert all(raised is error for raised in ours)
            if isinstance(error, Insufficient):
                assert all(isinstance(raised, Insufficient) for raised in theirs)
                assert {raised.available for raised in theirs} == {3}  # type: ignore[union-attr]
            else:
                assert all(isinstance(raised, ExecutionFailed) for raised in theirs)
                assert {raised.error_type for raised in theirs} == {"builtins.ValueError"}  # type: ignore[union-attr]
            make.value = "well"
            assert await second.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "well"
            assert await first.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "well"

    run(main())


def test_a_timeout_ends_it_for_all_and_frees_the_lease(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            make = Maker()
            here = await asking(first, make, 3, timeout_s=2.0)
            await make.started.wait()
            there = await asking(second, make, 3, timeout_s=20.0)
            answers = await asyncio.gather(*here, *there, return_exceptions=True)
            assert all(isinstance(answer, ExecutionTimedOut) for answer in answers)
            assert (make.begun, make.cancelled) == (1, 1)
            make.gate.set()
            assert await second.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"

    run(main())


def test_who_waits_for_another_process_waits_no_longer_than_timeout_and_lease(url: str) -> None:
    async def main(lease_s: float) -> None:
        async with two_caches(url, lease_s=lease_s, name=f"{lease_s}") as (first, second):
            make = Maker()
            (leader,) = await asking(first, make, 1)
            await make.started.wait()
            with pytest.raises(ExecutionTimedOut):
                await second.get_or_run("k", make, scope=PUBLIC, ttl_s=60, timeout_s=0.2)
            make.gate.set()
            assert await leader == "value"
            assert make.begun == 1

    with_more_time(lambda lease_s: run(main(lease_s)), 0.5, 6.0)


def test_a_long_execution_keeps_its_lease(url: str) -> None:
    async def main(lease_s: float) -> None:
        async with two_caches(url, lease_s=lease_s, name=f"{lease_s}") as (first, second):
            make = Maker()
            tasks = [*await asking(first, make, 2), *await asking(second, make, 2)]
            await make.started.wait()
            await asyncio.sleep(2.5 * lease_s)
            make.gate.set()
            assert await asyncio.gather(*tasks) == ["value"] * 4
            assert make.begun == 1

    with_more_time(lambda lease_s: run(main(lease_s)), 0.6, 6.0)


def test_a_leader_that_stood_still_is_fenced_and_stores_nothing_over_what_is_newer(
    url: str,
) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            paused, newer = Maker("older"), Maker("newer")
            (early,) = await asking(first, paused, 1)
            await paused.started.wait()
            await lapsed(first)
            (late,) = await asking(second, newer, 1)
            await newer.started.wait()
            paused.gate.set()  # the old leader comes back while the new one still makes it
            await asyncio.sleep(0.2)
            assert not early.done()
            newer.gate.set()
            assert await late == "newer"
            assert await early == "newer"
            assert (paused.begun, newer.begun) == (1, 1)
            assert first.stats().lost == 1
            for cache in (first, second):
                assert await cache.get_or_run("k", paused, scope=PUBLIC, ttl_s=60) == "newer"

    run(main())


def test_a_lease_that_ran_out_with_nobody_there_does_not_lose_the_value(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            make = Maker()
            (caller,) = await asking(first, make, 1)
            await make.started.wait()
            await lapsed(first)
            make.gate.set()
            assert await caller == "value"
            assert await second.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"
            assert make.begun == 1

    run(main())


def test_who_loses_the_lease_stops_its_execution(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=0.5) as (first, second):
            paused, newer = Maker("older"), Maker("newer", open_gate=True)
            (early,) = await asking(first, paused, 1)
            await paused.started.wait()
            await second._backend.forget(address_of(PUBLIC, "k"))
            assert await second.get_or_run("k", newer, scope=PUBLIC, ttl_s=60) == "newer"
            assert await early == "newer"
            assert paused.cancelled == 1

    run(main())


def test_forget_holds_for_every_process(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            before = Maker("before", open_gate=True)
            await first.get_or_run("k", before, scope=PUBLIC, ttl_s=60)
            await first.get_or_run("k", before, scope=for_user(1), ttl_s=60)
            await second.forget("k", scope=PUBLIC)
            before.gate.clear()
            before.started.clear()
            (early,) = await asking(first, before, 1)
            await before.started.wait()
            await second.forget("k", scope=PUBLIC)
            # Began after `forget` returned: may not get what began before it, in either process.
            after = Maker("after")
            (there,) = await asking(second, after, 1)
            (here,) = await asking(first, after, 1)
            await after.started.wait()
            before.value = "before, again"
            before.gate.set()
            await asyncio.sleep(0.1)
            after.gate.set()
            assert await asyncio.gather(there, here, early) == ["after"] * 3
            assert await first.get_or_run("k", before, scope=for_user(1), ttl_s=60) == "before"

    run(main())


def test_a_value_that_is_forgotten_again_and_again_ends_with_an_answer(url: str) -> None:
    async def main() -> None:
        async with one_cache(url) as cache:

            async def make() -> str:
                await cache.forget("k", scope=PUBLIC)
                return "value"

            with pytest.raises(Overloaded, match="5 times"):
                await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60)

    run(main())


def test_a_stale_value_is_refreshed_once_for_all_and_served_meanwhile(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, jitter=0) as (first, second):
            life = {"scope": PUBLIC, "ttl_s": 0.2, "stale_s": 60.0}
            await first.get_or_run("k", Maker("old", open_gate=True), **life)
            await asyncio.sleep(0.3)
            new = Maker("new")
            for _ in range(10):
                for cache in (first, second):
                    answers = await asyncio.gather(*await asking(cache, new, 5, **life))
                    assert answers == ["old"] * 5
            await new.started.wait()
            new.gate.set()
            life["ttl_s"] = 60.0
            await eventually(lambda: first.stats().flights + second.stats().flights == 0)
            assert new.begun == 1
            assert first.stats().stale + second.stats().stale == 100
            assert await second.get_or_run("k", new, **life) == "new"

    run(main())


def test_a_value_ends(url: str) -> None:
    async def main() -> None:
        async with two_caches(url) as (first, second):
            make = Maker(open_gate=True)
            await first.get_or_run("k", make, scope=PUBLIC, ttl_s=0.1)
            await asyncio.sleep(0.15)
            await second.get_or_run("k", make, scope=PUBLIC, ttl_s=0.1)
            assert make.begun == 2

    run(main())


def test_a_value_that_lives_shorter_than_a_poll_still_reaches_those_who_wait(url: str) -> None:
    async def main() -> None:
        async with two_caches(url) as (first, second):
            make, waiting = Maker(), met(second)
            here = await asking(first, make, 5, ttl_s=0.001)
            await make.started.wait()
            there = await asking(second, make, 5, ttl_s=0.001)
            await waiting.wait()
            await asyncio.sleep(0.3)
            make.gate.set()
            assert await asyncio.gather(*here, *there) == ["value"] * 10
            assert make.begun == 1

    run(main())


def test_what_cannot_be_stored_says_why(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, value_bytes_max=1000) as (first, second):
            waiting = met(second)
            for value, error in (
                ({"a": object()}, NotJsonable),
                ([float("nan")], NotJsonable),
                ({1, 2}, NotJsonable),
                ("x" * 1000, ValueTooLarge),
            ):
                make = Maker(value)
                here = await asking(first, make, 2)
                await make.started.wait()
                waiting.clear()
                tasks = [*here, *await asking(second, make, 2)]
                await waiting.wait()
                make.gate.set()
                for raised in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(raised, error)
                assert make.begun == 1
            assert isinstance(raised, ValueTooLarge)
            assert (raised.size_bytes, raised.limit_bytes) == (1002, 1000)
            nul = Maker("a\x00b \ud800 \U0001f600", open_gate=True)
            await first.get_or_run("nul", nul, scope=PUBLIC, ttl_s=60)
            assert await second.get_or_run("nul", nul, scope=PUBLIC, ttl_s=60) == nul.value

    run(main())


def test_a_scope_is_required_and_keys_cannot_reach_another(url: str) -> None:
    async def main() -> None:
        async with one_cache(url) as cache, one_cache(url, name="another") as another:
            untyped: Any = cache
            make = Maker(open_gate=True)
            with pytest.raises(TypeError, match="scope"):
                await untyped.get_or_run("k", make, ttl_s=60)
            with pytest.raises(TypeError, match="scope"):
                await untyped.forget("k")
            with pytest.raises(TypeError, match="PUBLIC or for_user"):
                await untyped.get_or_run("k", make, scope=None, ttl_s=60)
            assert make.begun == 0
            places = [
                (PUBLIC, "k"),
                (for_user("7"), "k"),
                (for_user("7:k"), "k"),
                (for_user("7"), "k:k"),
                (PUBLIC, "user:7:k"),
                (for_user('7","k'), "k"),
                (for_user("7"), 'k","k'),
                (PUBLIC, "\x00}{\ud800"),
            ]
            for n, (scope, key) in enumerate(places):
                own = Maker(n, open_gate=True)
                assert await cache.get_or_run(key, own, scope=scope, ttl_s=60) == n
            for n, (scope, key) in enumerate(places):
                assert await cache.get_or_run(key, make, scope=scope, ttl_s=60) == n
            assert await another.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"

    run(main())


def test_a_make_that_asks_for_itself_is_refused(url: str) -> None:
    async def main() -> None:
        async with one_cache(url) as cache:

            async def again() -> Any:
                return await cache.get_or_run("k", again, scope=PUBLIC, ttl_s=60)

            with pytest.raises(CacheMisuse, match="itself"):
                await cache.get_or_run("k", again, scope=PUBLIC, ttl_s=60)

    run(main())


def test_a_loop_that_ends_in_mid_flight_frees_its_lease(url: str) -> None:
    async def cut_short() -> None:
        async with one_cache(url, lease_s=30) as cache:
            make = Maker()
            await asking(cache, make, 3)
            await make.started.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()  # as asyncio.run does at its end, while the server is still there
            await eventually(lambda: cache.stats().flights == 0)

    async def afterwards() -> None:
        async with one_cache(url, lease_s=30) as cache:
            make = Maker(open_gate=True)
            async with asyncio.timeout(10):
                assert await cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60) == "value"

    asyncio.run(cut_short())
    asyncio.run(afterwards())


def test_a_cache_that_closes_hands_over(url: str) -> None:
    async def main() -> None:
        async with two_caches(url, lease_s=30) as (first, second):
            make, taking_over = Maker(), Maker("taken over", open_gate=True)
            (here,) = await asking(first, make, 1)
            await make.started.wait()
            (there,) = await asking(second, taking_over, 1)
            await first.close()
            assert first.stats().flights == 0
            with pytest.raises(ExecutionEnded):
                await here
            assert await there == "taken over"
            assert (make.cancelled, taking_over.begun) == (1, 1)

    run(main())


def test_the_decorator_and_settings(url: str) -> None:
    async def main() -> None:
        async with one_cache(url) as cache:
            calls: list[int] = []

            @cache.cached(ttl_s=60, key=str, scope=for_user)
            async def double(user: int) -> int:
                calls.append(user)
                return 2 * user

            assert [await double(4), await double(4), await double(5)] == [8, 8, 10]
            await double.forget(4)
            assert await double(4) == 8
            assert calls == [4, 5, 4]
        for wrong in ({"lease_s": 0}, {"on_outage": "hang"}, {"name": ""}, {"jitter": 2}):
            with pytest.raises(ConfigError):
                async with one_cache(url, **wrong):
                    pass

    run(main())


def test_an_answer_that_was_under_way_is_not_for_those_who_come_later(url: str) -> None:
    """The server answers a claim, the value is forgotten elsewhere, and only then someone joins."""

    async def main() -> None:
        async with two_caches(url) as (first, second):
            old, new = Maker("old", open_gate=True), Maker("new", open_gate=True)
            backend: Any = first._backend
            answered, forgotten = asyncio.Event(), asyncio.Event()
            claim = backend.claim

            async def slow_claim(*args: Any) -> Any:
                if not answered.is_set():
                    await second.get_or_run("k", old, scope=PUBLIC, ttl_s=60)
                answer = await claim(*args)
                if not answered.is_set():
                    answered.set()
                    await forgotten.wait()
                return answer

            backend.claim = slow_claim
            (early,) = await asking(first, new, 1)
            await answered.wait()
            await second.forget("k", scope=PUBLIC)
            (late,) = await asking(first, new, 1)
            await asyncio.sleep(0.01)
            forgotten.set()
            assert await early == "old"
            assert await late == "new"

    run(main())
