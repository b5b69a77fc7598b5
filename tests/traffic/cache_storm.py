"""A process that asks a shared cache again and again until it is killed.

`python -m tests.traffic.cache_storm URL LOG LEASE_S`. Each execution writes "begin" and "end" with
its key, the process and the moment into the log; the moments of all processes are comparable.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

from tests.traffic.caches import one_cache

from crowdsafe.traffic import PUBLIC

KEYS = ("a", "b")
CALLERS = 5


async def main(url: str, path: str, lease_s: str) -> None:
    log = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chance = random.Random()

    def note(what: str, key: str) -> None:
        os.write(log, f"{what} {key} {os.getpid()} {time.monotonic()}\n".encode())

    async with one_cache(url, lease_s=float(lease_s)) as cache:

        async def caller(key: str) -> None:
            async def make() -> str:
                note("begin", key)
                await asyncio.sleep(chance.random() * 0.2)
                note("end", key)
                return key

            while True:
                assert await cache.get_or_run(key, make, scope=PUBLIC, ttl_s=0.05) == key

        await asyncio.gather(*(caller(key) for key in KEYS for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
