"""Rate limits over HTTP: what is left, in the header fields of the IETF's draft.

``RateLimit-Policy: "plans";q=100;w=60`` names the limit and ``RateLimit: "plans";r=3;t=12`` says
what is left of it (draft-ietf-httpapi-ratelimit-headers); a refusal is a 429 with ``Retry-After``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from crowdsafe.errors import ConfigError
from crowdsafe.traffic.rates import Decision, Limiter
from crowdsafe.traffic.rates.rate import refused

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = ["RateLimitHeaders", "limit_request", "rate_limit_headers"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOTES = "crowdsafe.rate_limits"
_NAME = re.compile(r"[A-Za-z0-9 ._:/-]{1,80}")
_Noted = tuple[str, Decision]


async def limit_request(
    connection: HTTPConnection, limiter: Limiter, key: str, *, name: str
) -> Decision:
    """Count this request for ``key``, and have its answer say what is left.

    ``key`` says whose limit it is, such as ``f"user:{user.id}"`` or ``address_key(...)``; a key
    that nobody wrote, such as a path, must not be in it. ``name`` (letters, digits, " ._:/-") is
    what clients know the limit by. The answer gets its headers from ``RateLimitHeaders``; one
    request may pass several limits.

    Proved by ``tests/web/test_rate_limit.py``. Raises RateLimited (429), ConfigError, and what the
    limiter raises when its server is away (503): a request is never let in uncounted.
    """
    _check_name(name)
    decision = await limiter.check(key)
    notes: list[_Noted] | None = connection.scope.get(_NOTES)
    if notes is not None:
        notes.append((name, decision))
    if not decision.allowed:
        raise refused(decision)
    return decision


def rate_limit_headers(name: str, decision: Decision) -> dict[str, str]:
    """The header fields that tell a client about one decision. Raises ConfigError.

    Windows and times are whole seconds, rounded up.
    """
    _check_name(name)
    headers = _fields([(name, decision)])
    if not decision.allowed:
        headers["Retry-After"] = str(max(1, math.ceil(decision.retry_after_s)))
    return headers


class RateLimitHeaders:
    """ASGI middleware that tells, with each answer, of the limits that the request has passed.

    Put it outside of what turns errors into answers, so that a 429 has the headers too. It sets
    no limit itself: ``limit_request`` does. Inside another one it does nothing: an application
    that ``crowdsafe.web.fastapi.install`` was called for has it.
    Proved by ``tests/web/test_rate_limit.py``.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or _NOTES in scope:
            await self.app(scope, receive, send)
            return
        notes: list[_Noted] = []
        scope[_NOTES] = notes

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and notes:
                message["headers"] = [
                    *message.get("headers", ()),
                    *(
                        (name.lower().encode(), text.encode())
                        for name, text in _fields(notes).items()
                    ),
                ]
            await send(message)

        await self.app(scope, receive, told)


def _fields(notes: Iterable[_Noted]) -> dict[str, str]:
    latest = dict(notes)  # of two decisions under one name, the later one
    return {
        "RateLimit-Policy": ", ".join(
            f'"{name}";q={decision.rate.limit};w={max(1, math.ceil(decision.rate.window_s))}'
            for name, decision in latest.items()
        ),
        "RateLimit": ", ".join(
            f'"{name}";r={decision.remaining};t={math.ceil(decision.reset_s)}'
            for name, decision in latest.items()
        ),
    }


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f'{name!r} does not name a limit; use letters, digits and " ._:/-"')
