"""A working copy of a SQLite database."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.database.sqlite_file import (
    PagedFile,
    back_up,
    check_database,
    copy_database,
    open_plain,
    stamps,
)
from crowdsafe.find.database.sqlite_locks import SqliteLocks
from crowdsafe.find.database.sqlite_tables import read_schema, read_state
from crowdsafe.find.gates.redirect import Redirect, sqlite_file
from crowdsafe.find.gates.sqlite_gate import release
from crowdsafe.find.model import State

__all__ = ["SqliteDatabase"]

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - the copy is in a folder of its own in there
_PREFIX = "crowdsafe-find-"
_ROOM = 4


class SqliteDatabase:
    """Implements :class:`crowdsafe.find.database.Database`.

    The copy lies in a folder of its own in /dev/shm where that has room for four times the file,
    else in the directory for temporary files; :meth:`close` removes it, and so does the next copy
    when a process was killed. The original is only read, with its WAL; no lock is taken on it. In
    place, what was there is kept in a file beside it (``.before-crowdsafe``) until :meth:`close`.
    """

    dialect = "sqlite"

    def __init__(self, url: str, *, in_place: bool = False) -> None:
        original = os.path.realpath(_path_of(url))
        if not Path(original).is_file():
            raise ConfigError(f"there is no SQLite file {original}: create it, or name another one")
        self.original_url = self.shown_url = url
        self._folder: Path | None = None
        self._before = Path(original + ".before-crowdsafe")
        if in_place:
            self._working = original
            check_database(original, original)
            self._save_original()
        else:
            self._folder = _new_folder(Path(original))
            self._working = str(self._folder / Path(original).name)
            self._copy(original)
        self.working_url = f"sqlite:///{self._working}"
        self.redirect = Redirect("sqlite", original, self._working)
        self._file = PagedFile(self._working, private=not in_place)
        self.locks = SqliteLocks(lambda: self._file.wal)
        self._connection = open_plain(self._working)
        self._connection.text_factory = _text
        self._schemas: dict[int, Schema] = {}
        self._closed = False
        atexit.register(self.close)
        self.keep()

    def schema(self) -> Schema:
        (version,) = self._connection.execute("PRAGMA schema_version").fetchone()
        if version not in self._schemas:
            self._schemas = {version: read_schema(self._connection)}
        return self._schemas[version]

    def keep(self) -> None:
        release()
        self._file.keep()

    def restore(self, tables: frozenset[str] | None = None) -> None:
        """Back to what was kept, all tables and SQLite's own counters (``tables`` is a hint that
        is not needed). Transactions and cursors that the target left open are ended first.

        Raises sqlite3.OperationalError when the file stays locked for 2 seconds nevertheless (by
        a connection that another process, or a factory function of the target's, has made).
        """
        release()
        self._file.restore()

    def read(self, tables: frozenset[str] | None = None) -> State:
        """The rows as SQLite stores them: int, float, str, bytes and None, never anything else.

        Virtual tables, what they store their content in, and ``sqlite_sequence`` are left out.
        What the target left open is rolled back first, since it may hold the file locked.
        """
        release()
        return read_state(self._connection, self.schema(), tables)

    def perturb(self, by: int = 1000) -> None:
        """Move the counters of AUTOINCREMENT tables on, each by an amount of its own.

        A plain INTEGER PRIMARY KEY has no counter: SQLite gives it the largest id in the table
        and 1, so two runs of the same order give the same ids, and such ids look stable. That
        does no harm to a comparison with serial runs. Operations that run at once get their ids
        in the order of their inserts, which one of the serial orders gives too.
        """
        names = [name for (name,) in self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            "AND sql LIKE '%autoincrement%' COLLATE NOCASE"
        )]  # fmt: skip
        for place, name in enumerate(names):
            step = by + 7 * place
            changed = self._connection.execute(
                "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (step, name)
            ).rowcount
            if not changed:
                self._connection.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, step)
                )

    def set_isolation(self, level: str | None) -> None:
        if level is not None:
            raise ConfigError(
                "SQLite has one isolation level, serializable: leave --isolation out, or name a "
                "PostgreSQL database"
            )

    def original_mark(self) -> object:
        return None if self._folder is None else stamps(self.redirect.original)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        release()
        self._connection.close()
        self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            _copy_over(str(self._before), self._working)
            self._before.unlink()

    def _copy(self, original: str) -> None:
        try:
            copy_database(original, self._working)
        except BaseException:
            assert self._folder is not None
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _save_original(self) -> None:
        if self._before.exists():
            raise ConfigError(
                f"{self._before} is what a run that was cut left of the database as it was: move "
                "it back over the database, or delete it"
            )
        _copy_over(self._working, str(self._before))


def _copy_over(source: str, target: str) -> None:
    with (
        contextlib.closing(open_plain(source)) as reading,
        contextlib.closing(open_plain(target)) as writing,
    ):
        back_up(reading, writing)


def _path_of(url: str) -> str:
    rest = url.partition("://")[2]
    path, _, query = rest.removeprefix("/").partition("?")
    plain = sqlite_file(f"{path}?{query}" if path.startswith("file:") else path, uri=True)
    if plain is None or not rest:
        raise ConfigError(
            "the finder cannot copy a database in memory: let the target use a file, and name it "
            "as sqlite:///path/to/file.db"
        )
    return plain


def _new_folder(original: Path) -> Path:
    base = Path(tempfile.gettempdir())
    if os.access(_MEMORY_FOLDER, os.W_OK):
        room = shutil.disk_usage(_MEMORY_FOLDER).free
        if room > _ROOM * original.stat().st_size:
            base = _MEMORY_FOLDER
    _sweep(base)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _sweep(base: Path) -> None:
    """Remove what processes that are no longer there have left."""
    for folder in base.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
