"""Fan-out of live events to many streams, side by side.

Contenders, each a uvicorn process of its own with one worker (`python -m bench.feed`):
- ours: `EventStream` out of a `FeedHub`; every event is a committed row with an id first;
- hand-written: Starlette's `StreamingResponse` over one `asyncio.Queue` for each client, each
  event encoded for each client, as tutorials show it; nothing stored, no resume, no limits;
- ours, through StreamingResponse: the same hub, the bytes sent by Starlette.

Burst: how many events reach all clients in a second, from the first publish to the last byte.
Paced: ten events a second; the delay from before the publishing write to the client's read.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from tests.support.pg_server import ROOT

from bench.findings import Findings, Table, cells
from bench.measure import Plan
from bench.place import Place
from bench.rounds import Figures, Trial, interleaved
from crowdsafe.feed import FeedHub, FeedLimits, publish
from crowdsafe.store import AsyncStore
from crowdsafe.web.sse import event_stream, feed_running

CONTENDERS = {
    "ours": "crowdsafe: EventStream",
    "hand-written": "hand-written: a queue for each client",
    "ours-starlette": "crowdsafe: its hub through StreamingResponse",
}
CLIENTS = 1000
BURST_WRITES, EVENTS_A_WRITE = 25, 10
PACED_EVENTS, PACE_S = 30, 0.1
WAIT_S_MAX = 120.0


def publish_some(session: Session, first: int, count: int) -> None:
    """So many events in one transaction, each with the moment it was asked for."""
    for n in range(first, first + count):
        publish(session, "stock", "stock.changed", {"n": n, "on_hand": 100, "t": time.monotonic()})


def ours(database: str, streaming: bool) -> FastAPI:
    """The feed of crowdsafe."""
    store = AsyncStore(database)
    hub = FeedHub(store, limits=FeedLimits(subscribers_max=5000))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await store.create_all()
        async with feed_running(hub):
            yield
        await store.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/events")
    async def events(request: Request) -> Response:
        if streaming:
            frames = hub.subscribe(["stock"]).frames()
            return StreamingResponse(frames, media_type="text/event-stream")
        return event_stream(request, hub, ["stock"])

    @app.post("/publish")
    async def publish_events(first: int, count: int) -> None:
        await store.write(publish_some, first, count)

    return app


def hand_written() -> FastAPI:
    """What one writes first."""
    app = FastAPI()
    clients: set[asyncio.Queue[dict[str, Any]]] = set()

    async def frames() -> AsyncIterator[str]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        clients.add(queue)
        try:
            yield "retry: 1000\n\n"
            while True:
                event = await queue.get()
                yield f"id: {event['n']}\nevent: stock.changed\ndata: {json.dumps(event)}\n\n"
        finally:
            clients.discard(queue)

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(frames(), media_type="text/event-stream")

    @app.post("/publish")
    async def publish_events(first: int, count: int) -> None:
        for n in range(first, first + count):
            for queue in clients:
                queue.put_nowait({"n": n, "on_hand": 100, "t": time.monotonic()})

    return app


def make_app(name: str, database: str) -> FastAPI:
    """One contender's application."""
    return hand_written() if name == "hand-written" else ours(database, name != "ours")


@dataclass
class Clients:
    """Many connections that only read; they count events by their ``data:`` lines."""

    port: int
    count: int
    seen: int = 0
    delays_s: list[float] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def connect(self) -> None:
        """Open all streams, and wait until each has been answered."""
        for _ in range(self.count):
            client = socket.create_connection(("127.0.0.1", self.port))
            client.sendall(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n")
            self._sockets.append(client)
        for client in self._sockets:
            client.settimeout(WAIT_S_MAX)
            if b" 200 OK" not in client.recv(65_536):
                raise RuntimeError("a stream was refused")
            client.setblocking(False)
            self._selector.register(client, selectors.EVENT_READ)

    def read(self, wait_s: float, *, delays: bool = False) -> None:
        """Read what has come, waiting at most so long for it."""
        for key, _ in self._selector.select(wait_s):
            data = key.fileobj.recv(1_000_000)  # type: ignore[union-attr]
            if not data:
                raise RuntimeError("a stream ended")
            self.seen += data.count(b"\ndata: ")
            if delays:
                now = time.monotonic()
                for part in data.split(b'"t":')[1:]:
                    self.delays_s.append(now - float(part[: part.index(b"}")]))

    def read_until(self, seen: int, *, delays: bool = False) -> None:
        """Read until so many events have come in all."""
        end = time.monotonic() + WAIT_S_MAX
        while self.seen < seen:
            if time.monotonic() > end:
                raise RuntimeError(f"only {self.seen} of {seen} events came")
            self.read(0.5, delays=delays)

    def close(self) -> None:
        """Leave."""
        self._selector.close()
        for client in self._sockets:
            client.close()


def compare(place: Place, plan: Plan) -> Findings:
    """All contenders, with a thousand streams each."""
    clients = CLIENTS // 10 if plan.quick else CLIENTS
    paced = PACED_EVENTS // 3 if plan.quick else PACED_EVENTS
    trials = [
        Trial(label, functools.partial(_measure, name, clients, paced, place))
        for name, label in CONTENDERS.items()
    ]
    found = interleaved(trials, 1 if plan.quick else 2)
    columns = [("per_s", ",.0f"), ("p50_ms", ".1f"), ("p95_ms", ".1f"), ("kib", ".1f")]
    ours = CONTENDERS["ours"]
    peers = {label: ours for label in CONTENDERS.values() if label != ours}
    about = (
        f"{clients:,} open streams, one worker process. Burst: {BURST_WRITES} writes of "
        f"{EVENTS_A_WRITE} events each, to the last byte at the last client. Paced: "
        f"{1 / PACE_S:g} events a second, from before the write to the client's read. Events of "
        "crowdsafe are committed rows that a client can resume from; the hand-written stream "
        "stores nothing."
    )
    return Findings(
        "feed", "Live events to many streams", about,
        [Table(["contender", "events per second", "paced p50 ms", "p95 ms", "KiB a stream",
                "crowdsafe is", "note"], cells(found, columns, peers, "per_s"))],
    )  # fmt: skip


def _measure(name: str, clients: int, paced: int, place: Place) -> Figures:
    """One round of one contender."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "bench.feed", name, place.sqlite_url(), str(port)]
    server = subprocess.Popen(command, cwd=ROOT)
    readers = Clients(port, clients)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S_MAX) as http:
            _wait_for(http)
            before = psutil.Process(server.pid).memory_info().rss
            readers.connect()
            grown = psutil.Process(server.pid).memory_info().rss - before
            per_s = _burst(http, readers)
            _paced(http, readers, paced)
        delays = statistics.quantiles(readers.delays_s, n=100)
    finally:
        readers.close()
        server.kill()
        server.wait()
    return {
        "per_s": per_s,
        "p50_ms": delays[49] * 1000,
        "p95_ms": delays[94] * 1000,
        "kib": grown / 1024 / clients,
    }


def _wait_for(http: httpx.Client) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            http.post("/publish", params={"first": 0, "count": 1})
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server does not answer")


def _burst(http: httpx.Client, readers: Clients) -> float:
    start = readers.seen
    began = time.monotonic()
    for write in range(BURST_WRITES):
        http.post("/publish", params={"first": write, "count": EVENTS_A_WRITE})
        readers.read(0)
    events = BURST_WRITES * EVENTS_A_WRITE * readers.count
    readers.read_until(start + events)
    return events / (time.monotonic() - began)


def _paced(http: httpx.Client, readers: Clients, events: int) -> None:
    for n in range(events):
        due = time.monotonic() + PACE_S
        start = readers.seen
        http.post("/publish", params={"first": n, "count": 1})
        readers.read_until(start + readers.count, delays=True)
        while time.monotonic() < due:
            readers.read(max(0.0, due - time.monotonic()), delays=True)


def main() -> None:
    """Serve one contender."""
    parser = argparse.ArgumentParser(prog="python -m bench.feed", description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("database")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    app = make_app(options.name, options.database)
    uvicorn.run(app, port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
