"""Calls an ASGI app in this process, as a server would: http and lifespan, no web sockets.

After the ASGI 3.0 specification, HTTP 2.4. What a request started (background tasks included)
has ended when its reply is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets.messages import (
    BODY_BYTES_MAX,
    RawReply,
    RawRequest,
    broken_off,
    told_by,
    witness,
)

__all__ = ["AsgiApp", "Lifespan", "send"]

_Message = MutableMapping[str, Any]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

_CHUNKS_MAX = 10_000
_STARTUP_S_MAX = 60.0
_SHUTDOWN_S_MAX = 10.0


class _Exchange:
    """One request and its reply, as the app's ``receive`` and ``send`` see them; ``hung_up`` when
    the client had read as much of an endless stream as it wanted."""

    def __init__(self, request: RawRequest) -> None:
        self._request = request
        self._asked = False
        self._ended = asyncio.Event()
        self._chunks = 0
        self._body = bytearray()
        self.hung_up = False
        self.status: int | None = None
        self.headers: list[tuple[str, str]] = []

    async def receive(self) -> _Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            self.headers = [
                (bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
        elif message["type"] == "http.response.body" and not self._ended.is_set():
            self._take(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self._ended.set()

    def _take(self, chunk: bytes) -> None:
        self._chunks += 1
        self._body += chunk[: BODY_BYTES_MAX - len(self._body)]
        if self._chunks > _CHUNKS_MAX or (chunk and len(self._body) >= BODY_BYTES_MAX):
            self.hung_up = True
            self._ended.set()
            raise OSError("the client has gone")

    def reply(self) -> RawReply:
        return RawReply(self.status or 500, self.headers, bytes(self._body))


async def send(app: AsgiApp, request: RawRequest, state: dict[str, Any] | None = None) -> RawReply:
    """The app's reply. An exception that comes out of it is a reply of 500 with the fault.

    At most 1 MiB or 10 000 chunks of a body are read; then the client hangs up.
    """
    exchange = _Exchange(request)
    with witness() as seen:
        try:
            await app(_scope(request, state), exchange.receive, exchange.send)
        except (Exception, SystemExit) as error:
            reply = exchange.reply()
            if exchange.hung_up:  # the app was cut off, and may say so in its own way
                return reply
            return broken_off(reply, error)
    silent = "the app returned without a reply" if exchange.status is None else None
    return told_by(exchange.reply(), seen, silent)


def _scope(request: RawRequest, state: dict[str, Any] | None) -> dict[str, Any]:
    name, _, port = request.host.partition(":")
    default = 443 if request.scheme == "https" else 80
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": [
            (key.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for key, value in request.headers
        ],
        "client": ("127.0.0.1", 50000),
        "server": (name, int(port) if port.isdigit() else default),
        "extensions": {},
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope


class Lifespan:
    """The app's start and end, in one task of the loop that its requests run on.

    An app that knows no lifespan is left without, as servers do.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[_Message] = asyncio.Queue()
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        """Raises ConfigError when the app says that its start failed, or takes over 60 s."""
        self._inbox, self._outbox = asyncio.Queue(), asyncio.Queue()
        self._task = asyncio.create_task(self._live())
        self._inbox.put_nowait({"type": "lifespan.startup"})
        message = await self._answer(_STARTUP_S_MAX)
        if message is None:
            self._task.cancel()
            raise ConfigError(f"the app did not start within {_STARTUP_S_MAX:g} s")
        if message["type"] == "lifespan.startup.failed":
            why = str(message.get("message") or "").strip().splitlines()
            raise ConfigError(f"the app's start failed: {why[-1] if why else 'it gives no reason'}")

    async def shutdown(self) -> None:
        """Let the app end; after 10 s it is cancelled."""
        if self._task is None:
            return
        task, self._task = self._task, None
        if not task.done():
            self._inbox.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait({task}, timeout=_SHUTDOWN_S_MAX)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_SHUTDOWN_S_MAX)

    async def _live(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._inbox.get, self._outbox.put)
        except Exception as error:
            # Before any answer: the app knows no lifespan. After it, its reply says what failed.
            self._outbox.put_nowait({"type": "lifespan.unsupported", "message": repr(error)})
        else:
            self._outbox.put_nowait({"type": "lifespan.ended"})

    async def _answer(self, limit_s: float) -> _Message | None:
        try:
            return await asyncio.wait_for(self._outbox.get(), limit_s)
        except TimeoutError:
            return None
