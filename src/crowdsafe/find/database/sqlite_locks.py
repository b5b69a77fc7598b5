"""Who would wait for whom in SQLite.

The connections of the target do not wait (their timeout is 0 while an operation runs), so that
what would wait is known before and held back at its gate. What SQLite refuses at once whatever
the timeout, the upgrade of a read to a write beside a writer, is let go and fails. The rules are
those of https://www.sqlite.org/lockingv3.html, of sqlite3BtreeBeginTrans and vdbeCommit: a COMMIT
of a write transaction wants the file for itself, whether or not something was changed.

A connection is taken to wait as long as it takes: a timeout that runs out in the real program is
not seen. One whose own timeout is 0 never waits. The PENDING lock is not modelled: a COMMIT that
waits is one that has not been asked for yet, and readers may come before it.

An operation that was refused, and sleeps before it tries again, is taken to sleep until nobody
writes. Its sleep takes no time here, so that else all its tries would come while another operation
stands still, which says nothing of the program.
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
        if not isinstance(held, Held) or (held.timeout_ms <= 0 and not held.gives_way):
            return frozenset()
        others = {
            other: other.state.lock
            for other in open_links()
            if other is not link and isinstance(other.state, Held) and other.state.file == held.file
        }
        writers = frozenset(other for other, lock in others.items() if lock >= Lock.RESERVED)
        if held.gives_way:
            return writers
        barring = self._barring(held, statement.text)
        if barring <= Lock.RESERVED and writers and held.lock == Lock.SHARED:
            return frozenset()  # an upgrade beside a writer is refused at once
        return frozenset(other for other, lock in others.items() if lock >= barring)

    def waiting(self, links: Collection[Link]) -> dict[Link, frozenset[Link]]:
        return {}

    def left(self, link: Link, statement: Statement, failed: bool) -> None:
        return

    def gone(self, link: Link) -> None:
        return

    def reset(self) -> None:
        return

    def _barring(self, held: Held, sql: str) -> int:
        """The weakest lock of another connection that this statement would wait for."""
        none = Lock.EXCLUSIVE + 1
        wish, wal = wish_of(sql), self._wal()
        if held.commits(sql):
            return Lock.SHARED if held.lock >= Lock.RESERVED and not wal else none
        if held.in_transaction and held.lock >= Lock.RESERVED:
            return none
        if wish == Wish.WRITE:
            commits_at_once = not held.in_transaction and not wal
            return Lock.SHARED if commits_at_once else Lock.RESERVED
        if wish == Wish.IMMEDIATE:
            return Lock.RESERVED
        if wish == Wish.EXCLUSIVE:
            return Lock.RESERVED if wal else Lock.SHARED
        if wish == Wish.READ and held.lock == Lock.NONE and not wal:
            return Lock.EXCLUSIVE
        return none
