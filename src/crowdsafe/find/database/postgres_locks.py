"""Who waits for whom in PostgreSQL, seen from a connection beside those of the target."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from crowdsafe.find.gates.control import Link
from crowdsafe.find.model import Statement

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresLocks"]

_WAITING = b"""
SELECT pid, CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid)
                 ELSE pg_safe_snapshot_blocking_pids(pid) END
FROM pg_stat_get_activity(NULL)
WHERE pid = ANY(%s) AND (wait_event_type = 'Lock' OR wait_event = 'SafeSnapshot')
"""


class PostgresLocks:
    """Observes waits instead of predicting them: locks on rows, unique keys, foreign keys,
    tables, advisory ones, and DEFERRABLE transactions that wait for a safe snapshot.

    A wait shows up within about a millisecond of the statement, so ask again until the statement
    ends or shows. A connection that waits for something outside of ``links`` waits for nobody.
    """

    def __init__(self, side: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._side = side
        self._one_at_a_time = threading.Lock()

    def needed(self, link: Link, statement: Statement) -> frozenset[Link]:
        return frozenset()

    def waiting(self, links: Collection[Link]) -> dict[Link, frozenset[Link]]:
        newest_last = sorted(links, key=lambda link: link.number)
        by_pid = {link.backend_pid: link for link in newest_last if link.backend_pid is not None}
        if not by_pid:
            return {}
        with self._one_at_a_time:
            rows = self._side.execute(_WAITING, [list(by_pid)]).fetchall()
        return {
            by_pid[pid]: frozenset(by_pid[other] for other in blocking if other in by_pid)
            for pid, blocking in rows
            if blocking  # else it was given its lock, and has not woken up to it
        }

    def left(self, link: Link, statement: Statement, failed: bool) -> None:
        pass

    def gone(self, link: Link) -> None:
        pass

    def reset(self) -> None:
        pass
