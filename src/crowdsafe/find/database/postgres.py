"""The working copy of a PostgreSQL database."""

from __future__ import annotations

from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.postgres_catalog import Catalogue, read_catalogue
from crowdsafe.find.database.postgres_copy import (
    connect_side,
    drop_copy,
    make_copy,
    parse_address,
)
from crowdsafe.find.database.postgres_locks import PostgresLocks
from crowdsafe.find.database.postgres_rows import read_tables
from crowdsafe.find.database.postgres_snapshot import Snapshot
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.roundtrip import force_isolation
from crowdsafe.find.model import Rows, State

__all__ = ["PostgresDatabase"]

_LEVELS = frozenset({"read uncommitted", "read committed", "repeatable read", "serializable"})


class PostgresDatabase:
    """A copy by template of the database that was named, or (``in_place``) that one itself.

    ``notes`` says what the user should know: sessions that had to be ended because they had
    left a transaction open, settings that the role may not change.
    """

    dialect = "postgresql"

    def __init__(self, url: str, *, in_place: bool = False) -> None:
        self.notes: list[str] = []
        self._in_place = in_place
        original = parse_address(url)
        self._address = original if in_place else make_copy(original, self.notes)
        self.original_url = url
        self.shown_url = original.shown
        self.working_url = self._address.url
        params = dict(original.params)
        self.redirect = Redirect(
            "postgresql",
            original.dbname,
            self._address.dbname,
            host=params.get("host", ""),
            port=int(params.get("port", "5432")),
        )
        self._side = connect_side(self._address)
        self._watch = connect_side(self._address)
        self.locks = PostgresLocks(self._watch)
        self._snapshot = Snapshot(self._side)
        self._unchanged: dict[str, Rows] = {}

    def schema(self) -> Schema:
        return self._catalogue().schema

    def keep(self) -> None:
        self._snapshot.keep()
        self._unchanged = {}

    def restore(self, tables: frozenset[str] | None = None) -> None:
        ended = self._snapshot.restore()
        self._note_ended(ended)

    def read(self, tables: frozenset[str] | None = None) -> State:
        return read_tables(self._side, self._catalogue().relations, tables)

    def perturb(self, by: int = 1000) -> None:
        self._side.execute(_PERTURB, [by])

    def set_isolation(self, level: str | None) -> None:
        if level is not None and level.lower() not in _LEVELS:
            raise ConfigError(f"{level!r} is no isolation level: use one of {sorted(_LEVELS)}")
        force_isolation(level)

    def close(self) -> None:
        force_isolation(None)
        if self._in_place:
            self._snapshot.restore()
            self._snapshot.drop()
        self._side.close()
        self._watch.close()
        if not self._in_place:
            drop_copy(self._address)

    def _catalogue(self) -> Catalogue:
        if not self._snapshot.tables:
            self._snapshot.catalogue = read_catalogue(self._side)
        return self._snapshot.catalogue

    def _note_ended(self, pids: list[Any]) -> None:
        if pids and len(self.notes) < 20:
            self.notes.append(
                f"{len(pids)} connection(s) were left with an open transaction that had written "
                "(ended by the finder): commit, roll back or close it"
            )


_PERTURB = b"""
SELECT setval(oid, greatest(low, least(high,
           coalesce(pg_sequence_last_value(oid), value) + %s::bigint * increment)))
FROM crowdsafe_find.sequences
"""
