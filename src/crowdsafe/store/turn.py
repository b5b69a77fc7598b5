"""Processes that write one SQLite file take turns.

SQLite's own waiting polls with sleeps that grow to 100 ms, so a busy neighbour can starve a process
for seconds. Here a process waits in the kernel for two ``flock`` locks: whoever waits for the turn
holds "next", so that the one who just wrote cannot overtake it. The locks only order the waiting:
what keeps the data right is SQLite's own lock, taken afterwards.

Holds: with two processes, strict alternation under load; a process that dies frees its locks at
once, also when children that it forked live on. Does not hold: writers that do not use crowdsafe,
and file systems without flock; they wait by SQLite's polling.
Proved by ``tests/store/test_processes.py``.
"""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    fcntl: Any = None
else:
    fcntl = _fcntl

__all__ = ["Turn"]

log = logging.getLogger("crowdsafe.store")

_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


class Turn:
    """A context manager: inside it, no other process's Turn on the same database is held."""

    def __init__(self, database: Path) -> None:
        self._files: list[int] = []
        if fcntl is None:
            return
        for name in ("next", "turn"):
            path = database.with_name(f"{database.name}-{name}")
            self._files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        _turns.add(self)

    def __enter__(self) -> None:
        if not self._files:
            return
        waiting, turn = self._files
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX)
            try:
                fcntl.flock(turn, fcntl.LOCK_EX)
            finally:
                fcntl.flock(waiting, fcntl.LOCK_UN)
        except OSError:
            log.warning("this file system has no flock: processes wait by SQLite's polling")
            self.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._files:
            fcntl.flock(self._files[1], fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock files, which frees the locks."""
        files, self._files = self._files, []
        for file in files:
            os.close(file)


def _close_inherited() -> None:
    """In a forked child: a ``flock`` lasts as long as any process has the file open that took it,
    so the child would keep the parent's lock when the parent dies."""
    for turn in list(_turns):
        turn.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
