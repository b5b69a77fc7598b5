"""A process that asks a shared cache for one value, many times at once, when told to.

`python -m tests.traffic.cacher OPTIONS` with OPTIONS in JSON; it says "ready", waits for a line,
and answers with one line of JSON. Each execution writes a line into the file `log`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.traffic.caches import NaiveCache, one_cache

from crowdsafe.traffic import PUBLIC

ROOT = Path(__file__).resolve().parents[2]
START_S_MAX = 40.0


async def main(options: dict[str, Any]) -> None:
    log = Path(options["log"])

    def note() -> None:
        with log.open("a") as file:
            file.write(f"{options['value']}\n")

    async def make() -> str:
        note()
        await asyncio.sleep(options["make_s"])
        if options["fails"]:
            raise ValueError(options["value"])
        return str(options["value"])

    async with one_cache(options["url"], lease_s=options["lease_s"]) as shared:
        cache: Any = NaiveCache(shared) if options["naive"] else shared
        await shared._backend.look(["0" * 64])  # connected
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        asked = [
            cache.get_or_run("k", make, scope=PUBLIC, ttl_s=60, timeout_s=options["timeout_s"])
            for _ in range(options["callers"])
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        counted = Counter(
            f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else answer
            for answer in answers
        )
        sys.stdout.write(json.dumps(counted) + "\n")
        sys.stdout.flush()


class Cacher:
    """The process, seen from the test that started it."""

    def __init__(self, url: str, log: Path, value: str, **options: Any) -> None:
        chosen = {
            "url": url,
            "log": str(log),
            "value": value,
            "callers": 20,
            "make_s": 0.3,
            "fails": False,
            "naive": False,
            "lease_s": 10.0,
            "timeout_s": 60.0,
        } | options
        self.log = log
        self.value = value
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.traffic.cacher", json.dumps(chosen)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ready(self) -> Cacher:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def go(self) -> Cacher:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def makes(self) -> Cacher:
        """Wait until this process has begun an execution."""
        until = time.monotonic() + START_S_MAX
        while self.value not in executions(self.log):
            assert time.monotonic() < until, "no execution began"
            time.sleep(0.01)
        return self

    def answers(self) -> dict[str, int]:
        """How often each answer was given."""
        assert self.process.stdout is not None
        counted: dict[str, int] = json.loads(self.process.stdout.readline())
        assert self.process.wait(START_S_MAX) == 0
        return counted

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(START_S_MAX)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def executions(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
