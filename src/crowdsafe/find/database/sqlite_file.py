"""A SQLite file that is put back page by page, under the open connections of the target.

SQLite's backup does the same at 15 µs a page, changed or not. Here only pages that differ are
written, and connections drop what they have cached: they look at the change counter and the
schema cookie in the file's header (https://www.sqlite.org/fileformat2.html, bytes 24-27 and
40-43), or in WAL mode at the WAL's index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from crowdsafe.errors import ConfigError

__all__ = [
    "PagedFile",
    "back_up",
    "check_database",
    "copy_database",
    "open_plain",
    "stamps",
]

_TRIES = 5
_BUSY_S = 2.0
_CHUNK = 65_536
_HEADER = 100
_COUNTER = slice(24, 28)
_COOKIE = slice(40, 44)
_VALID_FOR = slice(92, 96)
_MODE = slice(18, 20)
_WAL = b"\x02\x02"
_NO_WAL = b"\x01\x01"
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
        before = stamps(original)
        for suffix in _SUFFIXES:
            if before[suffix] is not None:
                shutil.copyfile(original + suffix, working + suffix)
            else:
                Path(working + suffix).unlink(missing_ok=True)
        if stamps(original) == before:
            break
    else:
        raise ConfigError(f"{original} is being written to: stop what uses it, then run this again")
    check_database(working, original)


def check_database(path: str, name: str) -> None:
    """Raise ConfigError, calling the file ``name``, when it is no sound database."""
    try:
        with contextlib.closing(open_plain(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise ConfigError(f"{name} is no sound SQLite database ({found}): name another file")


def stamps(original: str) -> dict[str, tuple[int, int] | None]:
    """When the file, its WAL and its journal were last written, and how large they are."""
    found: dict[str, tuple[int, int] | None] = {}
    for suffix in _SUFFIXES:
        try:
            status = os.stat(original + suffix)  # noqa: PTH116
            found[suffix] = (status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            found[suffix] = None
    return found


def back_up(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database over another. Raises sqlite3.OperationalError when one of them is locked,
    for which Connection.backup() would wait without an end."""

    def progress(status: int, *_: int) -> None:
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise sqlite3.OperationalError("database is locked")

    source.backup(target, progress=progress)


class PagedFile:
    """A database file that is taken as it is, and put back.

    A ``private`` file is one that nothing but this process uses. Where another may use it, and in
    WAL mode when the number of pages changed, which the WAL's index holds, SQLite's backup does
    the work. The file is kept open until :meth:`close`: closing it drops the locks that SQLite's
    own connections in this process have on it.
    """

    def __init__(self, path: str, *, private: bool) -> None:
        self.path = path
        self._private = private
        self._file = os.open(path, os.O_RDWR)
        self._kept: list[bytes] = []
        self._memory: sqlite3.Connection | None = None
        self._counter = 0
        self._cookie = 0

    @property
    def wal(self) -> bool:
        """Whether the database is in WAL mode now."""
        return os.pread(self._file, 2, _MODE.start) == _WAL

    def keep(self) -> None:
        """Take the pages as they are now; of an empty file SQLite makes one page first."""
        self._forget_memory()
        if os.fstat(self._file).st_size == 0:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("PRAGMA user_version = 0")
        with self._still():
            size = os.fstat(self._file).st_size
            self._kept = [os.pread(self._file, _CHUNK, at) for at in range(0, size, _CHUNK)]

    def restore(self) -> None:
        """Put back what was kept. Raises sqlite3.OperationalError when the file stays locked."""
        with self._still() as wal:
            paged = self._private and (not wal or os.fstat(self._file).st_size == self._size)
            if paged:
                self._write_pages()
        if not paged:
            self._back_up()
        elif wal:
            self._tell_wal()

    def close(self) -> None:
        self._forget_memory()
        os.close(self._file)

    @property
    def _size(self) -> int:
        return (len(self._kept) - 1) * _CHUNK + len(self._kept[-1])

    def _write_pages(self) -> None:
        self._kept[0] = self._first_chunk()
        for at, kept in enumerate(self._kept):
            if os.pread(self._file, _CHUNK, at * _CHUNK) != kept:
                os.pwrite(self._file, kept, at * _CHUNK)
        if os.fstat(self._file).st_size > self._size:
            os.ftruncate(self._file, self._size)

    def _first_chunk(self) -> bytes:
        """What was kept, in the journal mode that the target uses now, with a change counter that
        no connection has seen; and if the schema was changed, with a schema cookie likewise."""
        now = os.pread(self._file, _HEADER, 0)
        kept = bytearray(self._kept[0])
        self._counter = max(self._counter, _number(now[_COUNTER])) + 1
        self._cookie = max(self._cookie, _number(now[_COOKIE]))
        if now[_COOKIE] != kept[_COOKIE]:
            self._cookie += 1
            kept[_COOKIE] = _four_bytes(self._cookie)
        kept[_MODE] = now[_MODE]
        kept[_COUNTER] = kept[_VALID_FOR] = _four_bytes(self._counter)
        return bytes(kept)

    @contextlib.contextmanager
    def _still(self) -> Iterator[bool]:
        """All that was committed is in the file, and nobody writes; gives whether in WAL mode."""
        with contextlib.closing(self._connect()) as connection:
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
        with contextlib.closing(self._connect()) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version={version}")

    def _back_up(self) -> None:
        if self._memory is None:
            kept = bytearray(b"".join(self._kept))
            kept[_MODE] = _NO_WAL  # a database in memory has none
            self._memory = open_plain(":memory:")
            self._memory.deserialize(bytes(kept))
        with contextlib.closing(self._connect()) as connection:
            back_up(self._memory, connection)

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _connect(self) -> sqlite3.Connection:
        connection = open_plain(self.path)
        if self._private:
            connection.execute("PRAGMA synchronous=OFF")
        return connection


def _number(four_bytes: bytes) -> int:
    return int.from_bytes(four_bytes, "big")


def _four_bytes(number: int) -> bytes:
    return (number % 2**32).to_bytes(4, "big")
