"""A simulated upstream in a thread of the test's process, for servers that are processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crowdsafe.systems.planner.simulated import Behaviour, Serving, simulated_upstream

QUICK = {"latency_s": 0.02, "latency_sigma": 0.3}
_START_S_MAX = 15.0


class LiveUpstream:
    """A simulated service that other processes ask."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.base_url = serving.base_url

    def behave(self, **knobs: Any) -> None:
        """Change some knobs from now on."""
        self._serving.behave(**knobs)

    def reset(self) -> None:
        """Quick and without faults again, and nothing counted."""
        self._serving.app.behaviour = Behaviour(**QUICK)
        stats = self._serving.stats
        stats.calls = stats.running_max = stats.disconnected = 0
        stats.by_status.clear()
        stats.by_step.clear()

    @property
    def stats(self) -> dict[str, Any]:
        """What it has counted."""
        return self._serving.stats.as_json()

    def generations(self) -> int:
        """How many plans were begun: each asks for its headline once."""
        steps = self._serving.stats.by_step
        return max(steps.values(), default=0)


@contextmanager
def live_upstream() -> Iterator[LiveUpstream]:
    """Serve for the length of a block."""
    started: list[Serving] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with simulated_upstream(Behaviour(**QUICK)) as serving:
            started.append(serving)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="simulated upstream")
    thread.start()
    try:
        assert ready.wait(_START_S_MAX), "the simulated upstream did not start"
        yield LiveUpstream(started[0])
    finally:
        stop.set()
        thread.join(_START_S_MAX)
        assert not thread.is_alive()
