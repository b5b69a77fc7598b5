"""Server connections that the target closed, kept to be used again.

Connecting to PostgreSQL costs 3 to 6 ms, more than all statements of a small operation, and a
target that connects for each call would pay it in every schedule. So a connection that an
operation closes is made as new on the server (DISCARD ALL: settings, temporary tables, prepared
statements, advisory locks, LISTEN) and given to the next connect with the same parameters, which
gets a new object of the driver. Only its backend's pid tells that it is not the first user.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

__all__ = ["Spares"]

_EACH_MAX = 8


class Spares:
    """At most 8 for each set of parameters; ``alive`` tells whether one can still be used, and
    ``end`` closes one that is not wanted. All methods may be called in any thread."""

    def __init__(self, alive: Callable[[Any], bool], end: Callable[[Any], None]) -> None:
        self._alive = alive
        self._end = end
        self._kept: dict[Any, list[Any]] = defaultdict(list)
        self._lock = threading.Lock()

    def keep(self, parameters: Any, connection: Any) -> None:
        with self._lock:
            kept = self._kept[parameters]
            if len(kept) < _EACH_MAX:
                kept.append(connection)
                return
        self._end(connection)

    def take(self, parameters: Any) -> Any | None:
        """One that was opened with these parameters, or None."""
        while True:
            with self._lock:
                kept = self._kept.get(parameters)
                connection = kept.pop() if kept else None
            if connection is None or self._alive(connection):
                return connection
            self._end(connection)

    def clear(self) -> None:
        with self._lock:
            kept = [connection for some in self._kept.values() for connection in some]
            self._kept.clear()
        for connection in kept:
            self._end(connection)
