"""Calls a WSGI app in this process, as a server would (PEP 3333)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from crowdsafe.find.targets.messages import (
    BODY_BYTES_MAX,
    RawReply,
    RawRequest,
    broken_off,
    told_by,
    witness,
)

__all__ = ["WsgiApp", "send"]

_CHUNKS_MAX = 10_000

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class _Response:
    """What the app says through ``start_response`` and ``write``."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.chunks = 0

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None and self.chunks:
            raise exc_info[1].with_traceback(exc_info[2])
        if self.status is not None and exc_info is None:
            raise RuntimeError("start_response was called twice")
        self.status = int(status.split(" ", 1)[0])
        self.headers = [(name.lower(), value) for name, value in headers]
        return self.write

    def write(self, chunk: bytes) -> None:
        self.chunks += bool(chunk)
        self.body += chunk[: BODY_BYTES_MAX - len(self.body)]

    @property
    def enough(self) -> bool:
        return self.chunks > _CHUNKS_MAX or len(self.body) >= BODY_BYTES_MAX

    def reply(self) -> RawReply:
        return RawReply(self.status or 500, self.headers, bytes(self.body))


def send(app: WsgiApp, request: RawRequest) -> RawReply:
    """The app's reply, with its body read (at most 1 MiB or 10 000 chunks) and closed.

    An exception that comes out of the app is a reply of 500 with the fault.
    """
    response = _Response()
    with witness() as seen:
        try:
            _call(app, request, response)
        except (Exception, SystemExit) as error:
            return broken_off(response.reply(), error)
    silent = "the app never called start_response" if response.status is None else None
    return told_by(response.reply(), seen, silent)


def _call(app: WsgiApp, request: RawRequest, response: _Response) -> None:
    parts = app(_environ(request), response.start)
    try:
        for part in parts:
            response.write(part)
            if response.enough:
                break
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()


def _environ(request: RawRequest) -> dict[str, Any]:
    name, _, port = request.host.partition(":")
    secure = request.scheme == "https"
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "REQUEST_URI": request.raw_path.decode("latin-1"),
        "SERVER_NAME": name,
        "SERVER_PORT": port if port.isdigit() else ("443" if secure else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    if secure:
        environ["HTTPS"] = "on"
    for key, value in request.headers:
        plain = key.upper().replace("-", "_")
        bare = plain in {"CONTENT_TYPE", "CONTENT_LENGTH"}
        environ[plain if bare else f"HTTP_{plain}"] = value
    return environ
