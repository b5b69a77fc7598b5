"""Test clients and marked functions, made to show what they are about to do."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.model import Answer
from crowdsafe.find.recording.marking import listen
from crowdsafe.find.recording.recorder import Recorder
from crowdsafe.find.targets import asgi, wsgi
from crowdsafe.find.targets.conversation import converse
from crowdsafe.find.targets.messages import RawReply, RawRequest
from crowdsafe.find.targets.request import Request
from crowdsafe.find.targets.visitor import Visitor

__all__ = ["watch_clients"]


def watch_clients(recorder: Recorder) -> Callable[[], None]:
    """Patch the clients that this Python has: Starlette's and FastAPI's TestClient, httpx's
    ASGITransport, Flask's and Werkzeug's client, Django's. Returns what undoes it."""
    patches = Patches()
    unmark = listen(recorder.saw)
    for module, watch in (
        ("starlette", _watch_starlette),
        ("httpx", _watch_httpx),
        ("werkzeug", _watch_werkzeug),
        ("django", _watch_django),
    ):
        if importlib.util.find_spec(module) is not None:
            watch(patches, recorder)

    def undo() -> None:
        unmark()
        patches.undo()

    return undo


class _AsgiOperation:
    """A request to an ASGI app as a test sent it."""

    is_async = True

    def __init__(self, app: Any, request: RawRequest, state: dict[str, Any] | None) -> None:
        self._app, self._request, self._state = app, request, state
        self.name = _name(request)

    def run(self, limit: int | None = None) -> Answer:
        raise TypeError(f"{self.name} goes to an ASGI app: it is run on an event loop")

    async def run_async(self, limit: int | None = None) -> Answer:
        if limit == 0:
            return Answer()
        state = dict(self._state) if self._state is not None else None
        return _answer(self._request, await asgi.send(self._app, self._request, state))


class _WsgiOperation:
    """A request to a WSGI app as a test sent it."""

    is_async = False

    def __init__(self, app: Any, request: RawRequest) -> None:
        self._app, self._request = app, request
        self.name = _name(request)

    def run(self, limit: int | None = None) -> Answer:
        if limit == 0:
            return Answer()
        return _answer(self._request, wsgi.send(self._app, self._request))

    async def run_async(self, limit: int | None = None) -> Answer:
        raise TypeError(f"{self.name} goes to a WSGI app: it is run in a thread")


def _name(request: RawRequest) -> str:
    query = f"?{request.query.decode('latin-1')}" if request.query else ""
    return f"{request.method} {request.path}{query}"


def _answer(request: RawRequest, reply: RawReply) -> Answer:
    """The reply as any other operation's reply is kept."""
    url = request.raw_path.decode("latin-1")
    told = converse((Request(request.method, url),), Visitor())
    next(told)
    try:
        told.send(reply)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("one request has one reply")


def _watch_starlette(patches: Patches, recorder: Recorder) -> None:
    from starlette import testclient

    transport = testclient._TestClientTransport  # noqa: SLF001 - there is no public place
    original = transport.handle_request

    @functools.wraps(original)
    def handle_request(self: Any, request: Any) -> Any:
        if request.url.scheme in {"http", "https"}:
            raw = _of_httpx(request, request.read())
            recorder.saw(raw.method, _AsgiOperation(self.app, raw, self.app_state), self.app)
        return original(self, request)

    patches.set(transport, "handle_request", handle_request)


def _watch_httpx(patches: Patches, recorder: Recorder) -> None:
    import httpx

    original = httpx.ASGITransport.handle_async_request

    @functools.wraps(original)
    async def handle_async_request(self: Any, request: Any) -> Any:
        raw = _of_httpx(request, await request.aread())
        recorder.saw(raw.method, _AsgiOperation(self.app, raw, None), self.app)
        return await original(self, request)

    patches.set(httpx.ASGITransport, "handle_async_request", handle_async_request)


def _of_httpx(request: Any, body: bytes) -> RawRequest:
    path, _, query = request.url.raw_path.partition(b"?")
    return RawRequest(
        method=request.method,
        scheme=request.url.scheme,
        host=request.url.netloc.decode("ascii"),
        path=request.url.path,
        raw_path=path,
        query=query,
        headers=tuple(
            (name, value) for name, value in request.headers.multi_items() if name != "host"
        ),
        body=body,
    )


def _watch_werkzeug(patches: Patches, recorder: Recorder) -> None:
    from werkzeug.test import Client

    original = Client.run_wsgi_app

    @functools.wraps(original)
    def run_wsgi_app(self: Any, environ: Any, buffered: bool = False) -> Any:
        self._add_cookies_to_wsgi(environ)
        raw = _of_environ(environ)
        recorder.saw(raw.method, _WsgiOperation(self.application, raw), self.application)
        return original(self, environ, buffered=buffered)

    patches.set(Client, "run_wsgi_app", run_wsgi_app)


def _watch_django(patches: Patches, recorder: Recorder) -> None:
    from django.test import client

    original = client.ClientHandler.__call__

    @functools.wraps(original)
    def call(self: Any, environ: Any) -> Any:
        raw = _of_environ(environ)
        recorder.saw(raw.method, _WsgiOperation(_django_app(self, original), raw), client)
        return original(self, environ)

    patches.set(client.ClientHandler, "__call__", call)


def _django_app(handler: Any, call: Callable[..., Any]) -> wsgi.WsgiApp:
    """Django's test handler as a WSGI app: it lets requests in without a token against forgery.

    Django keeps a connection for each thread, which ends here with the request.
    """

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        from django.db import connections

        try:
            response = call(handler, environ)
            headers = [(name, str(value)) for name, value in response.items()]
            start_response(f"{response.status_code} {response.reason_phrase}", headers)
            return list(response.streaming_content) if response.streaming else [response.content]
        finally:
            connections.close_all()

    return app


def _of_environ(environ: dict[str, Any]) -> RawRequest:
    """A WSGI environment as the request that it tells of; its body can be read again."""
    stream = environ.get("wsgi.input")
    body = stream.read() if stream is not None else b""
    environ["wsgi.input"] = io.BytesIO(body)
    path = environ.get("PATH_INFO", "/").encode("latin-1").decode("utf-8", "replace")
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-").lower(), str(value))
        for name, value in environ.items()
        if name.startswith("HTTP_") and name != "HTTP_HOST"
    ]
    if environ.get("CONTENT_TYPE"):
        headers.append(("content-type", environ["CONTENT_TYPE"]))
    host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "localhost")
    return RawRequest(
        method=environ.get("REQUEST_METHOD", "GET"),
        scheme=environ.get("wsgi.url_scheme", "http"),
        host=host,
        path=path,
        raw_path=quote(path).encode("ascii"),
        query=environ.get("QUERY_STRING", "").encode("latin-1"),
        headers=tuple(headers),
        body=body,
    )
