"""Limiters and slots on every backend that processes share, driven from this process and another.

A backend is named by the URL of its server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.traffic.windows import Asked
from valkey.asyncio import Valkey

from crowdsafe.errors import NoSlot
from crowdsafe.store import AsyncStore, Settings
from crowdsafe.traffic import (
    DatabaseLimiter,
    DatabaseSlots,
    Rate,
    ValkeyLimiter,
    ValkeySlots,
    ValkeyUnavailable,
)

SETTINGS = Settings(deadline_s=20, pool_size=8)
ANSWER_S_MAX = 60


@asynccontextmanager
async def backend(url: str) -> AsyncIterator[Any]:
    """The client or store that limiters and slots are made of."""
    if url.startswith("valkey:"):
        async with Valkey.from_url(url, max_connections=64) as client:
            yield client
        return
    async with AsyncStore(url, SETTINGS) as store:
        await store.create_all()
        yield store


def limiter_on(of: Any, rate: Rate, name: str = "test") -> DatabaseLimiter | ValkeyLimiter:
    if isinstance(of, Valkey):
        return ValkeyLimiter(of, rate, name=name, timeout_s=10)
    return DatabaseLimiter(of, rate, name=name)


def slots_on(of: Any, limit: int, lease_s: float = 30.0) -> DatabaseSlots | ValkeySlots:
    if isinstance(of, Valkey):
        return ValkeySlots(of, limit, name="test", lease_s=lease_s, timeout_s=10)
    return DatabaseSlots(of, limit, name="test", lease_s=lease_s)


class FixedWindowOnValkey:
    """INCR of a counter that is named for its window: how it is often done."""

    def __init__(self, client: Valkey, rate: Rate) -> None:
        self.client = client
        self.rate = rate

    async def allowed(self, key: str) -> bool:
        window = int(time.time() // self.rate.window_s)
        return bool(await self.client.incr(f"{key}:{window}") <= self.rate.limit)


async def asked(allowed: Callable[[], Awaitable[bool]]) -> Asked:
    start = time.monotonic()
    answer = await allowed()
    return Asked(start, time.monotonic(), answer)


async def at_borders(allowed: Callable[[], Awaitable[bool]], rate: Rate) -> list[Asked]:
    """Calls just before and just after the clock's next multiple of the window."""
    border = (time.time() // rate.window_s + 1) * rate.window_s
    if border - time.time() < 0.25:
        border += rate.window_s
    calls: list[Asked] = []
    for moment in (border - 0.15, border + 0.01):
        await asyncio.sleep(max(0.0, moment - time.time()))
        calls += await asyncio.gather(*(asked(allowed) for _ in range(2 * rate.limit)))
    return calls


def ask_for(url: str, rate: Rate, keys: list[str], for_s: float, tasks: int) -> list[Any]:
    """Ask from many tasks for so long, in bursts; (key, Asked) of each call that was answered."""

    async def main() -> list[Any]:
        found: list[Any] = []
        async with backend(url) as of:
            limiters = [limiter_on(of, rate) for _ in range(3)]
            end = time.monotonic() + for_s

            async def one(limiter: Any) -> None:
                while time.monotonic() < end:
                    key = random.choice(keys)

                    async def allowed(key: str = key) -> bool:
                        return bool((await limiter.check(key)).allowed)

                    with suppress(ValkeyUnavailable):
                        found.append((key, await asked(allowed)))
                    await asyncio.sleep(random.choice([0.0, 0.002, 0.03]))

            await asyncio.gather(*(one(limiters[n % 3]) for n in range(tasks)))
        return found

    return asyncio.run(main())


@dataclass(frozen=True)
class Held:
    """A stay in a slot: moments of `time.monotonic()` between which it was surely held."""

    start: float
    end: float


def most_at_once(held: list[Held]) -> int:
    edges = sorted([(h.start, 1) for h in held] + [(h.end, -1) for h in held])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def hold_for(url: str, limit: int, key: str, for_s: float, tasks: int, lease_s: float) -> list[Any]:
    """Take and give slots from many tasks for so long; the stays, and how many refusals."""

    async def main() -> list[Any]:
        held: list[Held] = []
        refused = 0
        async with backend(url) as of:
            slots = slots_on(of, limit, lease_s)
            end = time.monotonic() + for_s

            async def one() -> None:
                nonlocal refused
                while time.monotonic() < end:
                    try:
                        async with slots.hold(key, wait_s=random.choice([0, 0.2])) as slot:
                            start = time.monotonic()
                            await asyncio.sleep(random.choice([0.001, 0.01, lease_s * 1.3]))
                            held.append(Held(start, min(time.monotonic(), slot.sure_until)))
                    except NoSlot:
                        refused += 1
                        await asyncio.sleep(0.01)

            await asyncio.gather(*(one() for _ in range(tasks)))
        return [held, refused]

    return asyncio.run(main())


def hold_and_write_down(url: str, limit: int, lease_s: float, path: str) -> None:
    """Take and give slots of the key "a" until killed; a line in `path` at each start and end."""

    async def main(notes: Any) -> None:
        async with backend(url) as of:
            slots = slots_on(of, limit, lease_s)

            async def one() -> None:
                while True:
                    with suppress(NoSlot):
                        async with slots.hold("a", wait_s=1) as slot:
                            notes.write(f"start {slot.id} {time.monotonic()}\n".encode())
                            await asyncio.sleep(random.choice([0.001, 0.05, lease_s * 1.3]))
                            end = min(time.monotonic(), slot.sure_until)
                            notes.write(f"end {slot.id} {end}\n".encode())
                    await asyncio.sleep(random.uniform(0, 0.02))

            await asyncio.gather(*(one() for _ in range(3 * limit)))

    with Path(path).open("ab", buffering=0) as notes:
        asyncio.run(main(notes))


def written_down(path: Path, killed: float) -> list[Held]:
    """The stays in `path`; those of a process that was killed then ended there."""
    starts: dict[str, float] = {}
    held = []
    for line in path.read_text().splitlines():
        what, id, moment = line.split()
        if what == "start":
            starts[id] = float(moment)
        else:
            held.append(Held(starts.pop(id), float(moment)))
    return held + [Held(start, killed) for start in starts.values()]


def hold_until_killed(url: str, limit: int, lease_s: float, pipe: Any) -> None:
    """Hold all slots of the key "a" until someone kills this process."""

    async def main() -> None:
        async with backend(url) as of:
            slots = slots_on(of, limit, lease_s)

            async def one() -> None:
                async with slots.hold("a", wait_s=20):
                    pipe.send("held")
                    await asyncio.sleep(600)

            await asyncio.gather(*(one() for _ in range(limit)))

    asyncio.run(main())


class Pair:
    """Two processes that stay, and run what they are told at the same time."""

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

    def __call__(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """What `fn` gives in each of the two."""
        for pipe in self._pipes:
            pipe.send((fn, args))
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
    while (job := pipe.recv()) is not None:
        fn, args = job
        try:
            barrier.wait(ANSWER_S_MAX)
            answer = fn(*args)
        except Exception as error:  # one test's, and the process serves the next one
            answer = RuntimeError(f"in another process: {error!r}")
        pipe.send(answer)
