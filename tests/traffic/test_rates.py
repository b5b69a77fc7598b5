"""The limiter of one process: exact in any window, bounded, right between threads."""

from __future__ import annotations

import math
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.traffic.windows import Asked, FixedWindow, Gcra, Model, bursts, worst_window

from crowdsafe.errors import ConfigError, InvalidInput, RateLimited
from crowdsafe.traffic import Decision, InProcessLimiter, Rate, as_async
from crowdsafe.traffic.rates import refusals


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def as_asked(moments: Sequence[float], allow: Callable[[float], bool]) -> list[Asked]:
    return [Asked(now, now, allow(now)) for now in moments]


@pytest.mark.parametrize("limit", [1, 2, 5, 17])
def test_no_window_ever_holds_more(limit: int, rng: random.Random) -> None:
    rate = Rate(limit, 1.0)
    moments = bursts(rng, rate, 1500)
    clock = Clock()
    limiter = InProcessLimiter(rate, clock=clock)

    def ours(now: float) -> bool:
        clock.now = now
        return limiter.allow("a")

    assert worst_window(as_asked(moments, ours), rate.window_s) == limit
    naive = FixedWindow(rate), Gcra(rate)
    for other in naive if limit > 1 else naive[:1]:
        asked = as_asked(moments, lambda now, other=other: other.allow("a", now))  # type: ignore[misc]
        assert worst_window(asked, rate.window_s) > limit, "the naive one should let more in"


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_decisions_are_those_of_the_rule(limit: int, rng: random.Random) -> None:
    rate = Rate(limit, 2.0)
    clock = Clock()
    limiter, model = InProcessLimiter(rate, clock=clock), Model(rate)
    for now in bursts(rng, rate, 2000):
        clock.now = now
        key = rng.choice("aab")
        assert limiter.check(key) == model.check(key, now)


def test_threads_never_get_more(rng: random.Random) -> None:
    class CheckThenAppend:
        """The obvious log, as long as nobody else is in it."""

        def __init__(self, rate: Rate, *, clock: Callable[[], float]) -> None:
            self.rate = rate
            self.clock = clock
            self.log: dict[str, list[float]] = {}

        def allow(self, key: str) -> bool:
            times = self.log.setdefault(key, [])
            allowed = len(times) < self.rate.limit
            now = self.clock()
            if allowed:
                times.append(now)
            return allowed

    def clock() -> float:
        time.sleep(1e-6)  # lets another thread in, in the middle of a decision
        return 1000.0

    def accepted(kind: Any) -> int:
        limiter = kind(Rate(50, 1.0), clock=clock)
        barrier = threading.Barrier(8)
        found: list[int] = []

        def run() -> None:
            barrier.wait(10)
            found.append(sum(limiter.allow(f"key {n % 3}") for n in range(300)))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return sum(found)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert accepted(InProcessLimiter) == 3 * 50
        assert accepted(CheckThenAppend) > 3 * 50, "the naive one should fail"
    finally:
        sys.setswitchinterval(before)


def test_who_invents_keys_gains_nothing_and_shuts_nobody_out(rng: random.Random) -> None:
    rate = Rate(5, 1.0)
    clock = Clock()
    limiter, model = InProcessLimiter(rate, keys_max=50, clock=clock), Model(rate)
    known = [f"known {n}" for n in range(20)]
    for key in known:
        assert limiter.check(key) == model.check(key, clock.now)
    invented: list[Asked] = []
    for n in range(20_000):
        clock.now += 0.0005
        invented.append(Asked(clock.now, clock.now, limiter.allow(f"invented {n}")))
        if n % 7 == 0:
            key = rng.choice(known)
            assert limiter.check(key) == model.check(key, clock.now)
        assert len(limiter) <= 50
        assert len(limiter._guests._rings) <= rate.limit
    accepted = sum(call.allowed for call in invented)
    # In each window at most those who found one of the 50 places, and one key's limit besides.
    assert accepted <= (50 + rate.limit) * (20_000 * 0.0005 + 1)
    clock.now += 2 * rate.window_s
    assert limiter.check("late") == model.check("late", clock.now), "places come back"


def test_no_key_gets_more_on_its_way_from_guest_to_place(rng: random.Random) -> None:
    rate = Rate(4, 1.0)
    clock = Clock()
    limiter = InProcessLimiter(rate, keys_max=3, clock=clock)
    asked: dict[str, list[Asked]] = {}
    for _ in range(20_000):
        clock.now += rng.choice([0, 0.001, 0.01, 0.05, 0.3])
        key = f"key {int(rng.paretovariate(0.7)) % 9}"
        asked.setdefault(key, []).append(Asked(clock.now, clock.now, limiter.allow(key)))
    worst = {key: worst_window(calls[-3000:], rate.window_s) for key, calls in asked.items()}
    assert max(worst.values()) == rate.limit, worst


def test_memory_is_bounded_by_keys_and_limit() -> None:
    clock = Clock()
    limiter = InProcessLimiter(Rate(1000, 60.0), keys_max=10_000, clock=clock)
    tracemalloc.start()
    try:
        for n in range(30_000):
            limiter.allow(f"key {n}")
        keys_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(5000):
            clock.now += 0.001
            limiter.allow("busy")
        for _ in range(3000):
            clock.now += 0.001
            limiter.allow("key 0")
        busy_bytes = tracemalloc.get_traced_memory()[0] - keys_bytes
    finally:
        tracemalloc.stop()
    assert len(limiter) == 10_000
    assert keys_bytes < 11_000 * 500
    assert busy_bytes < 2 * 1000 * 60
    assert max(map(len, limiter._young.values())) == 1000 + 1


def test_a_key_that_was_idle_is_forgotten_and_a_busy_one_is_not() -> None:
    clock = Clock()
    limiter = InProcessLimiter(Rate(2, 10.0), clock=clock)
    limiter.allow("idle")
    for _ in range(5):
        clock.now += 5
        limiter.allow("busy")
        limiter.allow(f"other {clock.now}")
    assert "idle" not in {**limiter._young, **limiter._old}
    assert not limiter.allow("busy")


def test_a_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    limiter = InProcessLimiter(Rate(2, 10.0), clock=clock)
    limiter.require("a")
    clock.now += 4
    limiter.require("a")
    with pytest.raises(RateLimited) as refused:
        limiter.require("a")
    assert refused.value.status == 429
    assert refused.value.data == {
        "limit": 2, "window_s": 10.0, "retry_after_s": 6.0, "remaining": 0
    }  # fmt: skip
    clock.now += 5.999
    assert not limiter.allow("a")
    clock.now += 0.001
    assert limiter.allow("a")


@pytest.mark.parametrize("key", ["", "x" * 201, "a\x00b", "\ud800", 7, None, b"a", ["a"]])
def test_a_bad_key_is_refused(key: Any) -> None:
    limiter = InProcessLimiter(Rate(2, 1.0))
    for call in (limiter.allow, limiter.check, limiter.require):
        with pytest.raises(InvalidInput, match="a key has 1 to 200 characters"):
            call(key)
    assert len(limiter) == 0


@pytest.mark.parametrize(
    ("limit", "window_s"),
    [
        *((limit, 1) for limit in (0, -1, 1.5, True, 100_001, "5", None)),
        *((1, window_s) for window_s in (0, -1, math.nan, math.inf, 1e9, "1", None)),
    ],
)
def test_a_bad_rate_is_refused(limit: Any, window_s: Any) -> None:
    with pytest.raises(ConfigError, match="of a rate is"):
        Rate(limit, window_s)


@pytest.mark.parametrize(
    ("text", "limit", "window_s"),
    [
        ("100/second", 100, 1),
        ("1200/minute", 1200, 60),
        ("5/10s", 5, 10),
        ("3 / 2 hours", 3, 7200),
        ("1/0.5s", 1, 0.5),
        ("7/Day", 7, 86_400),
        ("2/m", 2, 60),
        ("9/3 minutes", 9, 180),
    ],
)
def test_rates_are_read(text: str, limit: int, window_s: float) -> None:
    assert Rate.parse(text) == Rate(limit, window_s)


@pytest.mark.parametrize("text", ["", "5", "5/", "/s", "5/fortnight", "-1/s", "0/s", "5/0s", "a/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Rate.parse(text)


@pytest.mark.parametrize("keys_max", [0, -1, 1.5, None])
def test_bad_keys_max_is_refused(keys_max: Any) -> None:
    with pytest.raises(ConfigError, match="keys_max"):
        InProcessLimiter(Rate(1, 1), keys_max=keys_max)


def test_it_can_stand_in_for_a_shared_one() -> None:
    import asyncio

    async def run() -> None:
        limiter = as_async(InProcessLimiter(Rate(1, 60)))
        assert limiter.rate == Rate(1, 60)
        assert (await limiter.check("a")).allowed
        with pytest.raises(RateLimited):
            await limiter.require("a")

    asyncio.run(run())


def test_a_process_remembers_the_refusals_of_so_many_keys_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "KEYS_MAX", 2)
    rate = Rate(1, 3600)
    known = refusals.Refusals(rate)
    now = time.monotonic()
    for key in ("a", "b", "c"):
        known.note(key, now, Decision(False, rate, 0, 3600.0, 3600.0))
    assert [known.standing(key, now) is not None for key in ("a", "b", "c")] == [False, False, True]
