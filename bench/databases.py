"""Real databases for the run: PostgreSQL as its tests start it, SQLite files on a real disk."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import create_engine, insert
from tests.support.pg_server import ROOT, PgServer

from bench.tables import ROWS, STOCK, Base, HandCounter, Stock, VersionedStock
from crowdsafe import Store


@dataclass(slots=True)
class Postgres:
    """One server; a database of its own for each contender, so that none bloats another's."""

    server: PgServer
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def database(self) -> str:
        """The URL of a new database with the benchmark's tables and rows in it."""
        url = self.empty()
        fill(url)
        return url

    def empty(self) -> str:
        """The URL of a new database with nothing in it."""
        name = f"bench_{next(self._numbers)}"
        self.server.execute(f"CREATE DATABASE {name}")
        return self.server.url(name)

    def drop_all(self) -> None:
        """Remove the databases made so far."""
        for (name,) in self.server.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'bench%'"
        ):
            self.server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(url: str) -> None:
    """Create crowdsafe's and the benchmark's tables, and the rows."""
    with Store(url) as store:
        store.create_all(Base.metadata)
        engine = create_engine(store.url)
    rows = [{"id": number, "on_hand": STOCK} for number in range(1, ROWS + 1)]
    with engine.begin() as connection:
        connection.execute(insert(Stock), rows)
        connection.execute(insert(VersionedStock), [row | {"version": 1} for row in rows])
        connection.execute(insert(HandCounter), {"name": "document", "value": 0})
    engine.dispose()


@contextmanager
def sqlite_folder() -> Iterator[Path]:
    """A temporary folder on a disk: where the system's is in memory, one in the project."""
    base = Path(tempfile.gettempdir())
    if file_system(base) == "tmpfs":
        base = ROOT
    with tempfile.TemporaryDirectory(prefix="crowdsafe-bench-", dir=base) as folder:
        yield Path(folder)


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path``, such as ext4."""
    mounts = [part for part in psutil.disk_partitions(all=True)
              if path.resolve().is_relative_to(part.mountpoint)]  # fmt: skip
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"
