"""Copies of the other SQLite files that a target opens, so that none of them is written either."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from crowdsafe.find.gates.redirect import sqlite_file

__all__ = ["Elsewhere"]

_BYTES_MAX = 256 << 20


class Elsewhere:
    """Gives each file a copy of its own, made when it is first opened and kept until
    :meth:`close`. What is written to a copy is not put back between runs.

    A file of more than 256 MiB is opened for reading only. ``connect`` is the driver's own.
    """

    def __init__(self, connect: Callable[..., sqlite3.Connection]) -> None:
        self._connect = connect
        self._copies: dict[str, str] = {}
        self._folder: str | None = None
        self._lock = threading.Lock()

    def instead_of(
        self, path: str | bytes | os.PathLike[str], *, uri: bool
    ) -> tuple[str | bytes | os.PathLike[str], bool]:
        """What to open in place of that file, and whether it is a URI. A database in memory, and a
        URI that only reads, are opened as they are."""
        file = sqlite_file(path, uri)
        text = os.fsdecode(path)
        if file is None or (uri and text.startswith("file:") and "mode=ro" in text):
            return path, uri
        real = os.path.realpath(file)
        with contextlib.suppress(OSError):
            if Path(real).stat().st_size > _BYTES_MAX:
                return f"file:{quote(real)}?mode=ro", True
        with self._lock:
            if real not in self._copies:
                self._copies[real] = self._copied(real)
            return self._copies[real], False

    def _copied(self, real: str) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="crowdsafe-find-other-")
        copy = str(Path(self._folder) / f"{len(self._copies)}-{Path(real).name}")
        if Path(real).is_file():
            source = self._connect(f"file:{quote(real)}?mode=ro", uri=True)
            target = self._connect(copy)
            with contextlib.closing(source), contextlib.closing(target):
                source.backup(target)
        return copy

    def close(self) -> None:
        """Remove the copies."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        self._copies.clear()
