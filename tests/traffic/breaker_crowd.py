"""What the tests of breakers share: a breaker on each backend, crowds of callers, a naive one."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from valkey.asyncio import Valkey

from crowdsafe.errors import BreakerOpen
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.breaker import (
    Breaker,
    BreakerSettings,
    DatabaseBreaker,
    InProcessBreaker,
    ValkeyBreaker,
)

SETTINGS = BreakerSettings(
    failures=3, window_s=30, cooldown_s=0.3, cooldown_max_s=1.2, probe_s=5, backend_s=5
)
LONG = BreakerSettings(
    failures=3, window_s=30, cooldown_s=8, cooldown_max_s=16, probe_s=5, backend_s=5
)
"""For tests that never wait for half-open."""
MIDDLE = BreakerSettings(
    failures=3, window_s=30, cooldown_s=1, cooldown_max_s=16, probe_s=5, backend_s=5
)
ANSWER_S_MAX = 60


class Down(Exception):
    """The guarded service failed."""


class BadRequest(Exception):
    """The guarded service answered; what was asked is wrong."""


async def works() -> str:
    return "ok"


async def fails() -> str:
    raise Down


@asynccontextmanager
async def opened(
    url: str, name: str, settings: BreakerSettings = SETTINGS, seed: int = 1
) -> AsyncIterator[Breaker]:
    """A breaker that is kept where the URL says; "" is in this process."""
    rng = random.Random(seed)
    if not url:
        yield InProcessBreaker(name, settings, rng=rng)
    elif url.startswith("valkey"):
        async with Valkey.from_url(url) as client:
            yield ValkeyBreaker(client, name, settings, rng=rng)
    else:
        async with AsyncStore(url) as store:
            yield DatabaseBreaker(store, name, settings, rng=rng)


async def break_it(breaker: Any, failures: int = SETTINGS.failures) -> None:
    """Fail so often that it opens."""
    for _ in range(failures):
        with suppress(Down):
            await breaker.call(fails)


async def until_half_open(breaker: Breaker) -> None:
    """Wait for the end of the cool-down."""
    while True:
        state = await breaker.state()
        assert state.state != "closed"
        if state.state == "half-open":
            return
        await asyncio.sleep(state.retry_after_s + 0.01)


async def crowd(
    breaker: Any, fn: Callable[..., Awaitable[Any]], callers: int = 50
) -> tuple[list[Any], list[BreakerOpen]]:
    """All call at once: what came back, and the refusals."""
    calls = (breaker.call(fn) for _ in range(callers))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, BreakerOpen)]
    return [one for one in outcomes if not isinstance(one, BreakerOpen)], refused


class NaiveBreaker:
    """Half-open as the libraries do it: the state is looked at, then the call is made."""

    def __init__(self, failures: int = SETTINGS.failures) -> None:
        self.failures = 0
        self.failures_max = failures
        self.open_until = 0.0

    async def call(self, fn: Callable[..., Awaitable[Any]]) -> Any:
        if self.failures >= self.failures_max and time.monotonic() < self.open_until:
            raise BreakerOpen
        try:
            value = await fn()
        except Exception:
            self.failures += 1
            self.open_until = time.monotonic() + SETTINGS.cooldown_s
            raise
        self.failures = 0
        return value


class Others:
    """Two processes that stay, and take part in crowds."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(2)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._barrier), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def crowd(self, url: str, name: str) -> list[tuple[int, int]]:
        """50 callers in each process, at once; how many each let through and refused."""
        for pipe in self._pipes:
            pipe.send((url, name))
        answers = []
        for pipe in self._pipes:
            assert pipe.poll(ANSWER_S_MAX), "a process does not answer"
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, Exception):
                self._barrier.reset()
                raise answer
        return answers

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)


def _serve(pipe: Any, barrier: Any) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.5)

    async def take_part(url: str, name: str) -> tuple[int, int]:
        async with opened(url, name) as breaker:
            await breaker.state()
            await asyncio.to_thread(barrier.wait, 30)
            passed, refused = await crowd(breaker, slow)
            return len(passed), len(refused)

    while (job := pipe.recv()) is not None:
        try:
            pipe.send(asyncio.run(take_part(*job)))
        except Exception as error:  # one test's, and the process serves the next one
            pipe.send(RuntimeError(f"in another process: {error!r}"))


def probe_and_hang(url: str, name: str, settings: BreakerSettings, pipe: Any) -> None:
    """Become the probe, say so, and never come back."""

    async def hang() -> None:
        pipe.send("probing")
        await asyncio.sleep(600)

    async def main() -> None:
        async with opened(url, name, settings) as breaker:
            await breaker.call(hang)

    asyncio.run(main())
