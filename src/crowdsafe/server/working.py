"""A process that does jobs and serves nobody: what ``crowdsafe worker`` runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

from crowdsafe.server.app import ServerSettings, open_planner, open_store

__all__ = ["work"]

log = logging.getLogger("crowdsafe.server")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def work(settings: ServerSettings) -> int:
    """Do the jobs of all systems until SIGINT or SIGTERM; returns the exit code.

    Jobs that do not end within a second go back into the queue at once, with what they have.
    Raises ConfigError, DatabaseUnavailable.
    """
    return asyncio.run(_work(settings))


async def _work(settings: ServerSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        store = await open_store(settings, stack)
        planner = await open_planner(store, settings, stack)
        await stack.enter_async_context(planner.running(workers=True))
        log.info("doing jobs until told to stop")
        await stop.wait()
    return 0
