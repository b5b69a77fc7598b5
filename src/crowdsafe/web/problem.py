"""Errors as RFC 9457 problems: status, headers and a JSON body that is always valid.

Knows no framework: the FastAPI and the Flask adapter both answer with what ``problem_of`` gives.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from typing import Any
from uuid import UUID

from crowdsafe.errors import CrowdsafeError

__all__ = [
    "MEDIA_TYPE",
    "InternalError",
    "InvalidETag",
    "InvalidIdempotencyKey",
    "MethodNotAllowed",
    "NotReady",
    "Problem",
    "RequestTimeout",
    "ShuttingDown",
    "UnreadableBody",
    "http_problem",
    "problem_of",
    "problem_types",
    "safe_json",
]

MEDIA_TYPE = "application/problem+json"
_TEXT_CHARS_MAX = 2000
_DEPTH_MAX = 12
_RESERVED = frozenset({"type", "title", "status", "detail", "instance"})


class InvalidETag(CrowdsafeError):
    """The If-Match header is not a version of ours; send the ETag as you got it, in its double
    quotes: If-Match: "7"."""

    status = 400
    problem_type = "invalid-etag"
    title = "Invalid ETag"


class InvalidIdempotencyKey(CrowdsafeError):
    """The Idempotency-Key header is not usable; send 1 to 255 visible ASCII characters, such as
    a UUID, and a new one for each new request."""

    status = 400
    problem_type = "invalid-idempotency-key"
    title = "Invalid idempotency key"


class MethodNotAllowed(CrowdsafeError):
    """This address does not take that method; the Allow header lists those that it does."""

    status = 405
    problem_type = "method-not-allowed"
    title = "Method not allowed"


class RequestTimeout(CrowdsafeError):
    """The body did not arrive in time; send it again over a faster connection."""

    status = 408
    problem_type = "request-timeout"
    title = "Request timeout"


class UnreadableBody(CrowdsafeError):
    """The body cannot be read; send well-formed JSON in UTF-8 with its Content-Type."""

    status = 400
    problem_type = "unreadable-body"
    title = "Unreadable body"


class InternalError(CrowdsafeError):
    """The server failed, and logged why; tell its operator the `error_id`."""

    status = 500
    problem_type = "internal-error"
    title = "Internal error"


class NotReady(CrowdsafeError):
    """The service is not ready; try again shortly."""

    status = 503
    problem_type = "not-ready"
    title = "Not ready"


class ShuttingDown(CrowdsafeError):
    """The server is stopping and could not finish this; nothing says whether a change was made:
    look, or repeat the request under the same idempotency key."""

    status = 503
    problem_type = "shutting-down"
    title = "Shutting down"


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer with the media type ``application/problem+json``."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The body as JSON in UTF-8; never NaN or Infinity."""
        return json.dumps(self.body, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "backslashreplace"
        )


def problem_of(error: CrowdsafeError) -> Problem:
    """The problem that tells a client about this error: its data become members of the body."""
    body: dict[str, Any] = {
        "type": f"/problems/{error.problem_type}",
        "title": error.title,
        "status": error.status,
        "detail": " ".join(_text(error.message).split()),
    }
    for name, value in error.data.items():
        if name not in _RESERVED:
            body[name] = safe_json(value)
    headers = {}
    retry_after_s = error.retry_after_s
    if retry_after_s is not None and math.isfinite(retry_after_s):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="crowdsafe"'
    return Problem(error.status, body, headers)


def http_problem(status: int, detail: str = "") -> Problem:
    """A problem that has no error class: RFC 9457's ``about:blank``, named by its status."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body = {"type": "about:blank", "title": title, "status": status}
    return Problem(status, {**body, "detail": _text(detail or title)})


def problem_types() -> dict[str, type[CrowdsafeError]]:
    """Every problem type that an imported module declares, by slug; of two, the base class."""
    types: dict[str, type[CrowdsafeError]] = {}
    for cls in _classes(CrowdsafeError):
        types.setdefault(cls.problem_type, cls)
    return dict(sorted(types.items()))


def describe(cls: type[CrowdsafeError]) -> str:
    """The description of a problem type, on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or cls.title).split())


def safe_json(value: Any, depth: int = 0) -> Any:
    """The value as plain JSON data: never NaN, never too deep, never longer than is useful."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= _DEPTH_MAX:
        return _text(repr(value))
    if isinstance(value, Mapping):
        return {_text(str(key)): safe_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [safe_json(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((safe_json(item, depth + 1) for item in value), key=str)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return safe_json(value.value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str | Decimal | UUID):
        return _text(str(value))
    return _text(repr(value))


def _text(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS_MAX else text[: _TEXT_CHARS_MAX - 1] + "…"


def _classes(cls: type[CrowdsafeError]) -> Iterator[type[CrowdsafeError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _classes(below)
