"""A SQLite file that is put back page by page, under the open connections of the target.

The backup API does the same through SQLite at 15 µs a page, changed or not. Here only pages that
differ are written, and connections drop what they have cached: they look at the file's change
counter (https://www.sqlite.org/fileformat2.html, bytes 24-27), or in WAL mode at the WAL's index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from crowdsafe.errors import ConfigError

__all__ = ["PagedFile", "copy_database", "open_plain"]

_TRIES = 5
_BUSY_S = 2.0
_CHUNK = 65_536
_HEADER = 100
_COUNTER = slice(24, 28)
_VALID_FOR = slice(92, 96)
_MODE = slice(18, 20)
_WAL = b"\x02\x02"
_SUFFIXES = ("", "-wal", "-journal")


def open_plain(path: str) -> sqlite3.Connection:
    """A connection of the finder's own, past all gates: no implicit transactions, any thread."""
    return sqlite3.Connection(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=500
    )


def copy_database(original: str, working: str) -> None:
    """Copy a database with what is in its WAL or journal, without a lock or a write on it.

    A file that changes meanwhile is copied again, 5 times at most. Raises ConfigError when it
    keeps changing, or is no database.
    """
    for _ in range(_TRIES):
        before = _stamps(original)
        for suffix in _SUFFIXES:
            if before[suffix] is not None:
                shutil.copyfile(original + suffix, working + suffix)
            else:
                Path(working + suffix).unlink(missing_ok=True)
        if _stamps(original) == before:
            break
    else:
        raise ConfigError(f"{original} is being written to: stop what uses it, then run this again")
    try:
        with contextlib.closing(open_plain(working)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise ConfigError(f"{original} is no sound SQLite database ({found}): name another file")


def _stamps(original: str) -> dict[str, tuple[int, int] | None]:
    found: dict[str, tuple[int, int] | None] = {}
    for suffix in _SUFFIXES:
        try:
            status = os.stat(original + suffix)  # noqa: PTH116
            found[suffix] = (status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            found[suffix] = None
    return found


class PagedFile:
    """The file of a working copy, which nothing but this process uses.

    It is kept open until :meth:`close`: closing a file drops the locks that SQLite's own
    connections in this process have on it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR)
        self._kept: list[bytes] = [b""]
        self._counter = 0

    @property
    def wal(self) -> bool:
        """Whether the database is in WAL mode now."""
        return os.pread(self._file, 2, 18) == _WAL

    def keep(self) -> None:
        """Take the pages as they are now."""
        with self._still():
            size = os.fstat(self._file).st_size
            self._kept = [os.pread(self._file, _CHUNK, at) for at in range(0, size, _CHUNK)]

    def restore(self) -> None:
        """Write back the pages that differ from what was kept."""
        with self._still() as wal:
            self._kept[0] = self._first_chunk()
            for at, kept in enumerate(self._kept):
                if os.pread(self._file, _CHUNK, at * _CHUNK) != kept:
                    os.pwrite(self._file, kept, at * _CHUNK)
            size = (len(self._kept) - 1) * _CHUNK + len(self._kept[-1])
            if os.fstat(self._file).st_size > size:
                os.ftruncate(self._file, size)
        if wal:
            self._tell_wal()

    def close(self) -> None:
        os.close(self._file)

    def _first_chunk(self) -> bytes:
        """What was kept, with a change counter that no connection has seen, in the journal mode
        that the target uses now."""
        now = os.pread(self._file, _HEADER, 0)
        newest = max(self._counter, int.from_bytes(now[_COUNTER], "big"))
        self._counter = (newest + 1) % 2**32
        header = bytearray(self._kept[0][:_HEADER])
        header[_MODE] = now[_MODE]
        header[_COUNTER] = header[_VALID_FOR] = self._counter.to_bytes(4, "big")
        return bytes(header) + self._kept[0][_HEADER:]

    @contextlib.contextmanager
    def _still(self) -> Iterator[bool]:
        """All that was committed is in the file, and nobody writes; gives whether in WAL mode."""
        with contextlib.closing(open_plain(self.path)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            if self.wal:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                if busy:
                    raise sqlite3.OperationalError("database is locked")
                yield True
            else:
                connection.execute("BEGIN EXCLUSIVE")
                yield False
                connection.execute("ROLLBACK")

    def _tell_wal(self) -> None:
        """A commit that changes nothing makes all connections drop their pages."""
        with contextlib.closing(open_plain(self.path)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version={version}")
