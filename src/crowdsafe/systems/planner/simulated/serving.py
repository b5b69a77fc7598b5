"""The simulated service over HTTP on loopback: inside this process, or as a program."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from crowdsafe.systems.planner.simulated.app import SimulatedUpstream
from crowdsafe.systems.planner.simulated.behaviour import Behaviour, Stats

__all__ = ["Serving", "serve_simulated", "simulated_upstream"]

START_S_MAX = 10.0
END_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A simulated service that runs: ``base_url`` is what the official client takes."""

    app: SimulatedUpstream
    port: int

    @property
    def base_url(self) -> str:
        """The address of its API; `root_url` has /behaviour and /stats."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stats(self) -> Stats:
        """What it has counted."""
        return self.app.stats

    def behave(self, **knobs: object) -> None:
        """Change some knobs from now on; ValueError for one that there is not."""
        known = self.app.behaviour.model_dump()
        self.app.behaviour = Behaviour.model_validate({**known, **knobs})


@asynccontextmanager
async def simulated_upstream(
    behaviour: Behaviour | None = None, *, port: int = 0
) -> AsyncIterator[Serving]:
    """Serve it in this process's event loop for the length of a block; port 0: any free one.

    It ends with the block: open requests are answered with 503, and the port is free afterwards.
    Raises OSError when the port is taken.
    """
    app = SimulatedUpstream(behaviour)
    listener = socket.create_server(("127.0.0.1", port))
    server = _Guest(_config(app))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(START_S_MAX):
            while not server.started:
                if serving.done():
                    serving.result()
                    raise OSError("the simulated upstream ended at its start")
                await asyncio.sleep(0.005)
        yield Serving(app, listener.getsockname()[1])
    finally:
        app.close()
        server.should_exit = True
        await asyncio.wait((serving,), timeout=END_S_MAX)
        serving.cancel()
        listener.close()


def serve_simulated(port: int, behaviour: Behaviour | None = None) -> None:
    """Serve it on loopback until the process is told to end (SIGINT, SIGTERM): a program's main."""
    uvicorn.Server(_config(SimulatedUpstream(behaviour), port)).run()


class _Guest(uvicorn.Server):
    """A server that leaves the signals to the process it is a guest in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: SimulatedUpstream, port: int = 0) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
