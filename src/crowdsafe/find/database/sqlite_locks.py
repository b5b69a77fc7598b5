"""Who would wait for whom in SQLite.

The connections of the target do not wait (their timeout is 0 while an operation runs), so that
what would wait is known before and held back at its gate. What SQLite refuses at once whatever
the timeout, the upgrade of a read to a write beside a writer, is let go and fails. The rules are
those of https://www.sqlite.org/lockingv3.html, of btreeBeginTrans and sqlite3PagerBegin.

A connection is taken to wait as long as it takes: a timeout that runs out in the real program
is not seen. One whose own timeout is 0 never waits. The PENDING lock is not modelled: a COMMIT
that waits is one that has not been asked for yet, and readers may come before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from crowdsafe.find.gates.control import Link
from crowdsafe.find.gates.held import Held, Lock, Wish, wish_of
from crowdsafe.find.gates.sqlite_gate import open_links
from crowdsafe.find.model import Statement

__all__ = ["SqliteLocks"]


class SqliteLocks:
    """Implements :class:`crowdsafe.find.database.Locks`; ``wal`` tells the mode of the file.

    What a connection holds is kept by its gate (``link.state``), and asked of SQLite where that
    can tell, so there is nothing to note and nothing to forget here.
    """

    def __init__(self, wal: Callable[[], bool]) -> None:
        self._wal = wal

    def needed(self, link: Link, statement: Statement) -> frozenset[Link]:
        held = link.state
        if not isinstance(held, Held) or held.timeout_ms <= 0:
            return frozenset()
        wish = Wish.COMMIT if held.commits(statement.text) else wish_of(statement.text)
        barred = self._barred_by(held, wish)
        if barred is None:
            return frozenset()
        return frozenset(
            other
            for other in open_links()
            if other is not link
            and isinstance(other.state, Held)
            and other.state.file == held.file
            and other.state.lock >= barred
        )

    def waiting(self, links: Collection[Link]) -> dict[Link, frozenset[Link]]:
        return {}

    def left(self, link: Link, statement: Statement, failed: bool) -> None:
        return

    def gone(self, link: Link) -> None:
        return

    def reset(self) -> None:
        return

    def _barred_by(self, held: Held, wish: Wish) -> Lock | None:
        """The weakest lock of another connection that this one would wait for; None = none."""
        writing = Lock.RESERVED
        if wish == Wish.COMMIT:
            return Lock.SHARED if held.dirty and not self._wal() else None
        if held.lock != Lock.NONE:  # it has its lock, or is refused at once
            return None
        if wish == Wish.IMMEDIATE:
            return writing
        if wish == Wish.EXCLUSIVE:
            return writing if self._wal() else Lock.SHARED
        if wish == Wish.WRITE:
            commits_at_once = not held.in_transaction and not self._wal()
            return Lock.SHARED if commits_at_once else writing
        if wish == Wish.READ:
            return None if self._wal() else Lock.EXCLUSIVE
        return None
