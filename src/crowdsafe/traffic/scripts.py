"""Lua scripts on Valkey or Redis: one round trip, a bounded wait, and clear errors.

The client (``valkey.asyncio.Valkey`` or ``redis.asyncio.Redis``) is the caller's: nothing here
imports either, so errors are told by the names of their classes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from crowdsafe.errors import DatabaseUnavailable
from crowdsafe.traffic.arguments import check_number

__all__ = ["Script", "ValkeyUnavailable", "check_timeout"]

_AWAY = frozenset(
    {
        "BusyLoadingError",
        "ClusterDownError",
        "ConnectionError",
        "OutOfMemoryError",
        "ReadOnlyError",
        "TimeoutError",
        "TryAgainError",
    }
)
TIMEOUT_S_MAX = 60.0


class ValkeyUnavailable(DatabaseUnavailable):
    """Valkey does not answer, so nothing was allowed; try again shortly."""

    problem_type = "valkey-unavailable"
    title = "Valkey unavailable"


class Script:
    """A Lua script, called by its digest and sent in full only when the server has forgotten it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(
        self, client: Any, keys: Sequence[str], *arguments: str | int, timeout_s: float
    ) -> Any:
        """The script's answer.

        Raises ValkeyUnavailable when the server is away, full or read-only, or has not answered
        after ``timeout_s`` seconds; the script may have run all the same.
        """
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await client.evalsha(self._digest, len(keys), *keys, *arguments)
                except Exception as error:
                    if type(error).__name__ != "NoScriptError":
                        raise
                return await client.eval(self._source, len(keys), *keys, *arguments)
        except Exception as error:
            if not _is_away(error):
                raise
            raise ValkeyUnavailable(retry_after_s=1) from error


def check_timeout(timeout_s: float) -> float:
    """``timeout_s`` if it is above zero and at most a minute. Raises ConfigError."""
    return check_number("timeout_s", timeout_s, 0, TIMEOUT_S_MAX, above=True)


def _is_away(error: Exception) -> bool:
    return isinstance(error, OSError) or any(cls.__name__ in _AWAY for cls in type(error).__mro__)
