"""One process with a queue: `python -m bench.traffic.queue_process`.

Says "ready", then does what it is told on standard input, a line each, and says "done" after each:
`fill N`: enqueue N jobs from many callers, turn by turn for many users; prints how long it took;
`work`: start a worker; `flood BIG SMALL`: one user's many jobs, then a job of each of many users,
with what became of each as JSON; `stop`: end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

from bench.traffic.queue_contenders import QUEUES, Queue

USERS, CALLERS = 100, 64
BIG = "big"
HEAD_START_S = 0.1
FLOOD_S_MAX = 60.0


class Jobs:
    """The jobs' code: it takes so long, and notes who was served when."""

    def __init__(self, work_s: float) -> None:
        self.work_s = work_s
        self.served: list[tuple[str, float, float]] = []
        self._waited_for: tuple[int, asyncio.Event] | None = None

    async def run(self, user: str) -> None:
        began = time.monotonic()
        if self.work_s:
            await asyncio.sleep(self.work_s)
            self.served.append((user, began, time.monotonic()))
            if self._waited_for and len(self.served) >= self._waited_for[0]:
                self._waited_for[1].set()

    async def until_served(self, jobs: int) -> None:
        """Wait until so many are through; TimeoutError after `FLOOD_S_MAX`."""
        event = asyncio.Event()
        self._waited_for = jobs, event
        async with asyncio.timeout(FLOOD_S_MAX):
            await event.wait()


async def _fill(queue: Queue, users: list[str]) -> float:
    """Enqueue a job of each of these, many at a time; seconds."""
    began = time.monotonic()
    waiting = iter(users)

    async def caller() -> None:
        for user in waiting:
            await queue.enqueue(user)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.monotonic() - began


async def _flood(queue: Queue, jobs: Jobs, big: int, small: int) -> dict[str, object]:
    await _fill(queue, [BIG] * big)
    async with queue.working():
        await jobs.until_served(1)
        await asyncio.sleep(HEAD_START_S)
        asked = time.monotonic()
        await _fill(queue, [f"small-{number}" for number in range(small)])
        stored = time.monotonic()
        await jobs.until_served(big + small)
    return {"asked": asked, "stored": stored, "served": jobs.served}


async def _run(options: argparse.Namespace) -> None:
    jobs = Jobs(options.work_s)
    lines = asyncio.Queue[str]()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(
            QUEUES[options.queue](options.url, jobs.run, options.concurrency)
        )
        print("ready", flush=True)
        while (words := (await lines.get()).split()) and words[0] != "stop":
            if words[0] == "fill":
                users = [f"user-{number % USERS}" for number in range(int(words[1]))]
                print(f"filled {await _fill(queue, users)}", flush=True)
            elif words[0] == "work":
                await stack.enter_async_context(queue.working())
                print("working", flush=True)
            else:
                found = await _flood(queue, jobs, int(words[1]), int(words[2]))
                print(json.dumps(found), flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("queue", choices=QUEUES)
    parser.add_argument("url")
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--work-s", type=float, default=0.0)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
