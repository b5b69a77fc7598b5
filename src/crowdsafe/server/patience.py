"""Close connections on which no request arrives: uvicorn waits for one without an end.

A client that opens connections and sends nothing, or the head of a request byte by byte, would
keep all of them, until nobody else can connect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["HEAD_WAIT_S", "Patience"]

HEAD_WAIT_S = 10.0


class Patience:
    """Knows since when each connection has owed the head of a request.

    Holds: a connection without a whole head for ``wait_s`` seconds is closed at the next look.
    Does not hold: a limit on how many there are until then; bodies and answers have limits of
    their own. Proved by ``tests/cli/test_serve.py``.
    """

    def __init__(self, wait_s: float = HEAD_WAIT_S) -> None:
        self._wait_s = wait_s
        self._owing: dict[Any, float] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        """Close what has waited too long at ``now``; call it about once a second."""
        owing = [each for each in connections if _owes_head(each)]
        self._owing = {each: self._owing.get(each, now) for each in owing}
        for each, since in self._owing.items():
            if now - since >= self._wait_s and not each.transport.is_closing():
                each.transport.close()


def _owes_head(connection: Any) -> bool:
    """Whether uvicorn waits for a request here, and no keep-alive timer of its own runs."""
    cycle = connection.cycle
    return (cycle is None or cycle.response_complete) and not connection.timeout_keep_alive_task
