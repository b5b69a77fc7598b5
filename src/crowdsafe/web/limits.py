"""The guard before the application, as pure ASGI: no body too large, no request without an end.

One middleware does it all, so that a request passes one extra layer: it reads the body up to a
limit, refuses what is not JSON, ends requests at a deadline, refuses more than a number at once,
sets the security headers, and turns an exception that nobody handled into a 500 that says
nothing but an id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from crowdsafe.errors import (
    BodyTooLarge,
    CrowdsafeError,
    DeadlineExceeded,
    InvalidInput,
    OutcomeUnknown,
    Overloaded,
)
from crowdsafe.web.body import check_json
from crowdsafe.web.problem import (
    MEDIA_TYPE,
    InternalError,
    RequestTimeout,
    ShuttingDown,
    problem_of,
)

__all__ = ["SECURITY_HEADERS", "Guard", "Limits", "OpenRequests"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("crowdsafe.web")

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        (
            b"default-src 'self'; script-src 'self'; object-src 'none'; base-uri 'self'; "
            b"form-action 'self'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LINGER_S = 1.0
_LINGER_BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server process takes: times in seconds, sizes in bytes.

    ``deadline_s`` is for a request up to the start of its answer; a stream may go on after that.
    """

    body_bytes_max: int = 1_000_000
    body_wait_s: float = 20.0
    deadline_s: float = 30.0
    requests_max: int = 1_000
    query_bytes_max: int = 8_000


class _ClientLeft(Exception):
    """The connection closed before the body was complete."""


class OpenRequests:
    """The requests that one process is serving, so that a shutdown can end them in time."""

    def __init__(self) -> None:
        self.count = 0
        """Requests that are running; a stream counts until its answer begins."""
        self.timeouts: set[asyncio.Timeout] = set()
        self.stopping = False

    def begin_shutdown(self, within_s: float) -> None:
        """Answer what still runs after ``within_s`` seconds with a 503, and end its streams."""
        self.stopping = True
        end = asyncio.get_running_loop().time() + within_s
        for timeout in self.timeouts:
            when = timeout.when()
            if not timeout.expired() and (when is None or when > end):
                timeout.reschedule(end)


class Guard:
    """ASGI middleware around a whole application.

    Holds: no request reads more than ``body_bytes_max`` (and a megabyte that is thrown away), none
    waits longer than ``deadline_s`` for the start of its answer, and no exception's text reaches a
    client. Does not hold: a limit on one client; a stream goes on after it has begun. Proved by
    ``tests/web/test_body_limit.py``, ``tests/web/test_errors_over_http.py``.
    """

    def __init__(
        self, app: App, limits: Limits | None = None, requests: OpenRequests | None = None
    ) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.requests = requests or OpenRequests()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.requests)
        self.requests.count += 1
        try:
            if self.requests.count > self.limits.requests_max:
                raise Overloaded("Too many requests at once; try again shortly.", retry_after_s=1)
            _check_address(scope, self.limits)
            body = await self._read_body(scope, receive)
            await self._run(scope, _replay(body, receive), answer)
        except _ClientLeft:
            return
        except Exception as error:
            if answer.started:
                raise
            told = _told(error, scope)
            await answer.problem(told)
            if isinstance(told, BodyTooLarge):
                await _linger(scope, receive)
                await answer.end()
        finally:
            answer.leave()

    async def _run(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        timeout = asyncio.timeout(1.0 if self.requests.stopping else self.limits.deadline_s)
        try:
            async with timeout:
                self.requests.timeouts.add(timeout)
                answer.on_start = lambda: self._answer_begins(timeout)
                await self.app(scope, receive, answer.send)
        except TimeoutError:
            if not timeout.expired():
                raise
            if not answer.started:
                raise self._too_late(scope) from None
        finally:
            self.requests.timeouts.discard(timeout)

    def _answer_begins(self, timeout: asyncio.Timeout) -> None:
        running = timeout in self.requests.timeouts and not timeout.expired()
        if running and not self.requests.stopping:
            timeout.reschedule(None)

    def _too_late(self, scope: Scope) -> CrowdsafeError:
        if self.requests.stopping:
            return ShuttingDown(retry_after_s=1)
        if scope["method"] in _SAFE_METHODS:
            return DeadlineExceeded("The answer took too long; try again.", retry_after_s=2)
        return OutcomeUnknown()

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None when there is none to read."""
        length, chunked, is_json = _body_headers(scope)
        if length is None and not chunked:
            return None
        if length is not None and length > self.limits.body_bytes_max:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_wait_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeft
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self.limits.body_bytes_max:
                        raise self._too_large()
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise RequestTimeout(limit_s=self.limits.body_wait_s) from None
        body = b"".join(chunks)
        if is_json:
            check_json(body)
        return body

    def _too_large(self) -> BodyTooLarge:
        limit = self.limits.body_bytes_max
        return BodyTooLarge(
            f"The body is larger than is accepted here; send at most {limit} bytes.",
            limit_bytes=limit,
        )


class _Answer:
    """The way out: adds the security headers, and knows whether the answer has begun."""

    def __init__(self, send: Send, requests: OpenRequests) -> None:
        self._send = send
        self._counted_in: OpenRequests | None = requests
        self.started = False
        self.on_start: Callable[[], None] = lambda: None

    def leave(self) -> None:
        """Stop counting this request as open; once."""
        if self._counted_in is not None:
            self._counted_in.count -= 1
            self._counted_in = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers.extend(pair for pair in SECURITY_HEADERS if pair[0] not in present)
            message["headers"] = headers
            self.on_start()
            if any(v.startswith(b"text/event-stream") for _, v in headers):
                self.leave()
        await self._send(message)

    async def problem(self, error: CrowdsafeError) -> None:
        """Answer with a problem; one about a body that was not read closes the connection."""
        problem = problem_of(error)
        body = problem.encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        unread = isinstance(error, BodyTooLarge | RequestTimeout)
        if unread:
            headers.append((b"connection", b"close"))
        await self.send(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        lingers = isinstance(error, BodyTooLarge)
        await self._send({"type": "http.response.body", "body": body, "more_body": lingers})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _told(error: Exception, scope: Scope) -> CrowdsafeError:
    """What the client is told: nothing but an id for what is not meant for it."""
    if isinstance(error, CrowdsafeError) and error.status != 500:
        return error
    error_id = secrets.token_hex(6)
    log.error("error %s: %s %s failed", error_id, scope["method"], scope["path"], exc_info=error)
    return InternalError(error_id=error_id)


async def _linger(scope: Scope, receive: Receive) -> None:
    """Read a little more, so that a client that is still sending gets to read its answer.

    Closing at once would reset the connection, and a client may lose the 413 with it. Bounded by
    one second and one megabyte; a client that waits for "100 Continue" is not asked to go on.
    """
    if any(name.lower() == b"expect" for name, _ in scope["headers"]):
        return
    size = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while size < _LINGER_BYTES_MAX:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _replay(body: bytes | None, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then what the server says."""
    if body is None:
        return receive
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _body_headers(scope: Scope) -> tuple[int | None, bool, bool]:
    length: int | None = None
    chunked = is_json = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 20 else None
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            is_json = kind == b"application/json" or kind.endswith(b"+json")
    return length, chunked, is_json


def _check_address(scope: Scope, limits: Limits) -> None:
    query = scope.get("query_string", b"")
    if len(query) > limits.query_bytes_max:
        raise InvalidInput("The query in the address is too long.", field="query")
    if b"%00" in query or "\x00" in scope["path"]:
        raise InvalidInput("The address holds the character U+0000; leave it out.", field="query")
