"""One process of several that want one value: `python -m bench.traffic.cache_process`.

Says "ready", starts at a line on standard input, says "leading" each time that it begins to make
the value, and prints what came of its calls as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from bench.traffic.cache_contenders import CACHES


def main() -> None:
    """Open the cache, wait for the start, call, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", choices=CACHES)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--work-s", type=float, required=True)
    parser.add_argument("--wait-s", type=float, required=True)
    asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> None:
    made = 0

    async def make(key: str) -> str:
        nonlocal made
        if key == "key":
            made += 1
            print("leading", flush=True)
            await asyncio.sleep(options.work_s)
        return "value"

    async with CACHES[options.cache](make, options.url) as call:
        async with asyncio.timeout(options.wait_s):
            await call("another")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began = time.monotonic()
        calls = [asyncio.create_task(call("key")) for _ in range(options.calls)]
        done, late = await asyncio.wait(calls, timeout=options.wait_s)
        took_s = time.monotonic() - began
        right = sum(task.exception() is None and task.result() == "value" for task in done)
        failed = sorted({repr(task.exception()) for task in done if task.exception()})
        print(json.dumps({"made": made, "right": right, "took_s": took_s, "failed": failed}))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


if __name__ == "__main__":
    main()
