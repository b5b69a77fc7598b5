"""Shared caches from real processes: at once, killed with kill -9, stopped and gone on."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.traffic.cache_servers import BACKENDS, empty_cache
from tests.traffic.cache_storm import KEYS
from tests.traffic.cacher import ROOT, Cacher, executions
from tests.traffic.caches import one_cache

from crowdsafe.traffic import PUBLIC

Starter = Callable[..., Cacher]


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_cache(request, tmp_path, request.param)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "executions"


@pytest.fixture
def cacher(url: str, log: Path) -> Iterator[Starter]:
    started: list[Cacher] = []

    def start(value: str, **options: Any) -> Cacher:
        started.append(Cacher(url, log, value, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_a_thousand_identical_misses_in_two_processes_are_one_execution(
    cacher: Starter, log: Path
) -> None:
    both = [cacher(value, callers=500) for value in ("a", "b")]
    for one in both:
        one.ready()
    for one in both:
        one.go()
    answers = [one.answers() for one in both]
    (made,) = executions(log)
    assert answers == [{made: 500}, {made: 500}]


@pytest.mark.parametrize("url", ["valkey"], indirect=True)
def test_the_naive_cache_executes_many_times(cacher: Starter, log: Path) -> None:
    both = [cacher(value, callers=20, naive=True) for value in ("a", "b")]
    for one in both:
        one.ready()
    for one in both:
        one.go()
    for one in both:
        one.answers()
    assert len(executions(log)) > 1


def test_a_killed_leader_is_followed_by_exactly_one(cacher: Starter, log: Path) -> None:
    leader = cacher("leader", make_s=60, lease_s=1.5)
    followers = [cacher(value, lease_s=1.5) for value in ("b", "c")]
    for one in (leader, *followers):
        one.ready()
    leader.go().makes()
    for one in followers:
        one.go()
    time.sleep(0.5)
    leader.signal(signal.SIGKILL)
    answers = [one.answers() for one in followers]
    first, made = executions(log)
    assert first == "leader"
    assert answers == [{made: 20}, {made: 20}]


def test_a_leader_that_was_stopped_overwrites_nothing_newer(
    cacher: Starter, url: str, log: Path
) -> None:
    stopped = cacher("older", make_s=1.0, lease_s=1.5).ready()
    other = cacher("newer", lease_s=1.5).ready()
    stopped.go().makes()
    stopped.signal(signal.SIGSTOP)
    assert other.go().answers() == {"newer": 20}
    stopped.signal(signal.SIGCONT)
    assert stopped.answers() == {"newer": 20}
    assert executions(log) == ["older", "newer"]

    async def look() -> str:
        async with one_cache(url) as cache:

            async def never() -> str:
                raise AssertionError("the value is there")

            return await cache.get_or_run("k", never, scope=PUBLIC, ttl_s=60)

    assert asyncio.run(look()) == "newer"


@pytest.mark.parametrize("url", ["valkey"], indirect=True)
def test_an_error_reaches_those_who_wait_in_another_process(cacher: Starter, log: Path) -> None:
    leader = cacher("boom", make_s=1.0, fails=True).ready()
    follower = cacher("never").ready()
    leader.go().makes()
    follower.go()
    assert leader.answers() == {"ValueError: boom": 20}
    assert follower.answers() == {
        "ExecutionFailed: builtins.ValueError in another process: boom": 20
    }
    assert executions(log) == ["boom"]


@pytest.mark.slow
def test_in_a_storm_of_kills_there_is_one_execution_at_a_time(
    url: str, log: Path, rng: random.Random
) -> None:
    """Processes are killed at random moments and replaced; an execution lasts until its end, or
    until its process was dead."""
    lease_s = 3.0

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.traffic.cache_storm", url, str(log), str(lease_s)],
            cwd=ROOT,
        )

    dead: dict[int, float] = {}
    running = [start() for _ in range(4)]
    try:
        for _ in range(15):
            time.sleep(rng.uniform(0.5, 3))
            victim = running.pop(rng.randrange(4))
            victim.kill()
            victim.wait(20)
            dead[victim.pid] = time.monotonic()
            running.append(start())
        time.sleep(2 * lease_s + 3)
        ended = time.monotonic()
    finally:
        for process in running:
            process.kill()
            process.wait(20)
    for key in KEYS:
        executions = _intervals(log, key, dead, ended)
        assert len(executions) > 5
        assert executions[-1][0] > ended - 2 * lease_s, "nobody took over"
        for (_, over), (begun, _) in itertools.pairwise(sorted(executions)):
            assert begun >= over, "two executions at once"


def _intervals(
    log: Path, key: str, dead: dict[int, float], ended: float
) -> list[tuple[float, float]]:
    begun: dict[str, float] = {}
    intervals = []
    for line in log.read_text().splitlines():
        what, of, pid, moment = line.split()
        if of != key:
            continue
        if what == "begin":
            begun[pid] = float(moment)
        else:
            intervals.append((begun.pop(pid), float(moment)))
    intervals += [(moment, dead.get(int(pid), ended)) for pid, moment in begun.items()]
    return sorted(intervals)
