"""A process that works for the queue of notes until it is killed or told to end.

`python -m tests.traffic.queue_worker URL`. It says "ready", ends at SIGTERM, and says then how many
completions were refused.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from tests.traffic.queue_help import NOTES

from crowdsafe.store import AsyncStore, Settings
from crowdsafe.traffic.queue import Worker


async def main(url: str) -> None:
    store = AsyncStore(url, Settings(pool_size=4))
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    worker = Worker(store, NOTES, concurrency=4, poll_s=0.1)
    async with worker.running(drain_s=2):
        print("ready", flush=True)
        await ending.wait()
    print(f"lost {worker.stats.lost}", flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
