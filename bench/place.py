"""Where a comparison runs: the real servers, and a folder on a real disk."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.valkey_server import DATABASES, ValkeyServer

from bench.databases import Postgres


@dataclass(slots=True)
class Place:
    """PostgreSQL, Valkey and the folder of the run."""

    postgres: Postgres
    valkey: ValkeyServer
    folder: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def sqlite_url(self) -> str:
        """The URL of an SQLite file that is not there yet."""
        return f"sqlite:///{self.folder / f'bench-{next(self._numbers)}.db'}"

    def postgres_url(self) -> str:
        """The URL of a new, empty database."""
        return self.postgres.empty()

    def valkey_url(self) -> str:
        """The URL of a Valkey database that holds nothing."""
        database = next(self._numbers) % DATABASES
        self.valkey.execute("FLUSHDB", database=database)
        return self.valkey.url(database)
