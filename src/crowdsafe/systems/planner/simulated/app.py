"""The simulated service as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from crowdsafe.systems.planner.simulated.answers import answer_to
from crowdsafe.systems.planner.simulated.behaviour import Behaviour, Dice, Fate, Stats

__all__ = ["SimulatedUpstream"]

BODY_BYTES_MAX = 1_000_000
HANG_S_MAX = 3600.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Answered(Exception):
    """The answer to send instead of what was asked for."""

    def __init__(self, status: int, message: str, kind: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        self.headers = headers


class SimulatedUpstream:
    """POST /v1/chat/completions (whole answers, and streamed ones), POST /behaviour, GET /stats.

    ``behaviour`` can be replaced at any time, by the attribute or over HTTP; the next request
    meets the new one. Serve it on loopback only: whoever reaches it may change it. A client that
    goes away ends its request.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.stats = Stats()
        self.behaviour = behaviour or Behaviour()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End what is running: who waits is answered with 503, a trickle is sent to its end."""
        self._closing.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves from now on; setting it also starts the seeded chance anew."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._dice = Dice(behaviour)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served, not {scope['type']}")
        body = await _read(receive)
        match scope["method"], scope["path"]:
            case "POST", "/v1/chat/completions":
                await self._counted(scope, body, receive, send)
            case "POST", "/behaviour":
                await self._change(body, send)
            case "GET", "/behaviour":
                await _send_json(send, 200, self.behaviour.model_dump())
            case "GET", "/stats":
                await _send_json(send, 200, self.stats.as_json())
            case _:
                await _send_json(send, 404, {"error": {"message": "there is no such page"}})

    async def _change(self, body: bytes, send: Send) -> None:
        """Change the knobs that the body names; the others stay."""
        try:
            changes = json.loads(body)
            self.behaviour = Behaviour.model_validate({**self.behaviour.model_dump(), **changes})
        except (ValueError, TypeError) as error:
            await _send_json(send, 422, {"error": {"message": str(error)}})
        else:
            await _send_json(send, 200, self.behaviour.model_dump())

    async def _counted(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Answer a chat, until its client goes away."""
        self.stats.begin()
        answering = asyncio.ensure_future(self._chat(scope, body, send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.stats.disconnected += 1
        finally:
            self.stats.end()
            for task in (answering, leaving):
                task.cancel()
            results = await asyncio.gather(answering, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _chat(self, scope: Scope, body: bytes, send: Send) -> None:
        try:
            chat = self._checked(scope, body)
            fate = self._dice.fate()
            self._refused(fate)
            await self._pause(HANG_S_MAX if fate == "hang" else self._dice.latency_s())
            if self._closing.is_set():
                raise _Answered(503, "The server is going away.", "server_error")
            text, step = _said(chat)
        except _Answered as answer:
            self.stats.by_status[str(answer.status)] += 1
            await _send_json(send, answer.status, answer.body, answer.headers)
            return
        if fate == "wrong":
            text = '{"paragraphs": "not a list", "and then it breaks'
        else:
            self.stats.by_step[step] += 1
        self.stats.by_status["200"] += 1
        if chat.get("stream") is True:
            await _send_stream(send, str(chat["model"]), text)
        else:
            data = json.dumps(_completion(str(chat["model"]), text)).encode()
            await self._send(send, data, trickle=fate == "trickle")

    async def _send(self, send: Send, data: bytes, *, trickle: bool) -> None:
        """Send JSON at once, or a little at a time."""
        await _start(send, 200, "application/json", {"content-length": str(len(data))})
        rate = self.behaviour.trickle_bytes_per_s
        step = max(1, rate // 10) if trickle else len(data)
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            more = start + step < len(data)
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            if more:
                await self._pause(len(piece) / rate)

    def _checked(self, scope: Scope, body: bytes) -> dict[str, Any]:
        key = self.behaviour.api_key
        said = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if key is not None and said != f"Bearer {key}":
            raise _Answered(401, "Incorrect API key provided.", "invalid_request_error")
        try:
            chat = json.loads(body)
            usable = chat["model"] and isinstance(chat["messages"][-1], dict)
        except (ValueError, KeyError, IndexError, TypeError):
            usable = False
        if not usable:
            raise _Answered(400, "A model and messages are needed.", "invalid_request_error")
        found: dict[str, Any] = chat
        return found

    def _refused(self, fate: Fate) -> None:
        if fate in {"busy", "limited"}:
            wait = str(self.behaviour.retry_after_s)
            raise _Answered(429, "Rate limit reached.", "requests", **{"retry-after": wait})
        if fate == "failing":
            raise _Answered(503, "The server is overloaded or down.", "server_error")


def _said(chat: dict[str, Any]) -> tuple[str, str]:
    try:
        return answer_to(chat["messages"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise _Answered(400, f"Not understood: {error}", "invalid_request_error") from error


def _completion(model: str, text: str) -> dict[str, Any]:
    words = len(text.split())
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words},
    }


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)
        if len(body) > BODY_BYTES_MAX:
            raise ValueError(f"a body of more than {BODY_BYTES_MAX} bytes")


async def _send_json(
    send: Send, status: int, data: Any, headers: dict[str, str] | None = None
) -> None:
    await _start(send, status, "application/json", headers)
    await send({"type": "http.response.body", "body": json.dumps(data).encode()})


async def _send_stream(send: Send, model: str, text: str) -> None:
    """Send the answer as server-sent events, some words each."""
    await _start(send, 200, "text/event-stream", None)
    same = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": 0}
    pieces = [text[start : start + 80] for start in range(0, len(text), 80)]
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": p}, None) for p in pieces]
    for delta, reason in [*deltas, ({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        event = json.dumps({**same, "model": model, "choices": [choice]})
        data = f"data: {event}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _start(send: Send, status: int, kind: str, headers: dict[str, str] | None) -> None:
    lines = {"content-type": kind, **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
