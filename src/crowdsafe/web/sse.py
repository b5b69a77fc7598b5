"""Stream the feed to browsers as server-sent events: a raw ASGI answer out of the hub.

The hub encodes each event once; here the bytes are only sent. Use it in FastAPI or Starlette::

    @router.get("/events")
    async def events(request: Request, hub: FeedDep) -> EventStream:
        return event_stream(request, hub, ["factory"])

The stream resumes by the ``Last-Event-ID`` header, which browsers send by themselves, or by the
``last_event_id`` query, with which a page starts where its data ends (``feed.head``). An event
arrives under its own type. ``resync`` says that something was missed: reload the data.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from crowdsafe.feed.frames import retry_frame
from crowdsafe.feed.hub import FeedHub
from crowdsafe.feed.subscription import Subscription

__all__ = ["EventStream", "event_stream", "feed_running", "streams_end_on_signals"]

RETRY_MS = 1000
SEND_S_MAX = 30.0
_log = logging.getLogger("crowdsafe.feed")


def event_stream(request: Request, hub: FeedHub, topics: Iterable[str]) -> EventStream:
    """The answer that streams ``topics`` from where the client left off.

    Check who may follow a topic before you call this. Raises nothing; the answer itself raises
    Overloaded (503) when the process has as many streams as it takes, before anything is sent.
    """
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    return EventStream(hub, topics, last)


class EventStream(Response):
    """A text/event-stream that ends when the client leaves, the server stops, or the client is too
    slow: when the queue passes its limits, or one send takes more than 30 seconds."""

    media_type = "text/event-stream"

    def __init__(
        self, hub: FeedHub, topics: Iterable[str], last_event_id: str | None = None
    ) -> None:
        self.status_code = 200
        self.body = b""
        self.background = None
        self.init_headers(
            {"cache-control": "no-store", "x-accel-buffering": "no", "vary": "cookie"}
        )
        del self.headers["content-length"]
        self._hub = hub
        self._topics = list(topics)
        self._last_event_id = last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it leaves."""
        subscription = self._hub.subscribe(self._topics, self._last_event_id)
        watcher: asyncio.Task[None] | None = None
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if scope["method"] != "HEAD":
                watcher = asyncio.create_task(_close_when_gone(receive, subscription))
                await _send_frames(subscription, send)
            await _send(send, b"", more=False)
        except (OSError, TimeoutError) as error:
            _log.debug("an event stream ended: %r", error)
        finally:
            subscription.close()
            if watcher is not None:
                watcher.cancel()


async def _send_frames(subscription: Subscription, send: Send) -> None:
    await _send(send, retry_frame(RETRY_MS))
    async with aclosing(subscription.frames()) as frames:
        while True:
            try:
                chunk = await anext(frames, None)
            except Exception as error:
                # The client comes back by itself, with its last id: nothing is lost by ending.
                _log.warning("an event stream could not read the log and ends", exc_info=error)
                return
            if chunk is None:
                return
            await _send(send, chunk)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(SEND_S_MAX):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _close_when_gone(receive: Receive, subscription: Subscription) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscription.close()


@contextmanager
def streams_end_on_signals(hub: FeedHub) -> Iterator[None]:
    """End the hub's streams as soon as the process is told to stop (SIGINT, SIGTERM).

    A server waits for its open answers before it ends the application's lifespan, and a stream
    has no end of its own: without this, Ctrl-C waits for the last browser to leave. The handlers
    that were there are called as well, and put back in the end. Outside of the main thread, where
    there are no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(hub.end_streams)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)
        elif previous == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in before.items():
            if signal.getsignal(number) is handle and previous is not None:
                signal.signal(number, previous)


@asynccontextmanager
async def feed_running(hub: FeedHub) -> AsyncIterator[FeedHub]:
    """Run the hub for the length of an application's lifespan, streams ending on signals."""
    await hub.start()
    try:
        with streams_end_on_signals(hub):
            yield hub
    finally:
        await hub.stop()
