"""Values and errors as text, for caches that processes share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from crowdsafe.errors import CrowdsafeError
from crowdsafe.traffic.cache.errors import ExecutionFailed, NotJsonable, ValueTooLarge

__all__ = ["error_from_text", "error_to_text", "value_from_text", "value_to_text"]

MESSAGE_LENGTH_MAX = 2000
DATA_LENGTH_MAX = 8000


def value_to_text(value: Any, limit_bytes: int) -> str:
    """The value as JSON in ASCII. Raises NotJsonable, ValueTooLarge(size_bytes, limit_bytes)."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJsonable(f"JSON cannot hold what make returned: {error}") from error
    if len(text) > limit_bytes:
        raise ValueTooLarge(size_bytes=len(text), limit_bytes=limit_bytes)
    return text


def value_from_text(text: str) -> Any:
    """What ``value_to_text`` was given, as JSON gives it back: new objects for each caller."""
    return json.loads(text)


def error_to_text(error: BaseException) -> str:
    """What other processes need to raise the same error, or one that names it."""
    kind = type(error)
    told: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error)[:MESSAGE_LENGTH_MAX],
    }
    if isinstance(error, CrowdsafeError):
        data = json.dumps(error.data, default=str)
        told["data"] = json.loads(data) if len(data) <= DATA_LENGTH_MAX else {}
    return json.dumps(told)


def error_from_text(text: str) -> CrowdsafeError:
    """The error to raise here: of the same class if that is one of crowdsafe's (or a subclass that
    this process has imported), else ExecutionFailed."""
    told = json.loads(text)
    if "data" in told:
        for kind in _kinds(CrowdsafeError):
            if f"{kind.__module__}.{kind.__qualname__}" == told["type"]:
                error = kind.__new__(kind)
                CrowdsafeError.__init__(error, told["message"], **told["data"])
                return error
    return ExecutionFailed(
        f"{told['type']} in another process: {told['message']}", error_type=told["type"]
    )


def _kinds(kind: type[CrowdsafeError]) -> Iterator[type[CrowdsafeError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
