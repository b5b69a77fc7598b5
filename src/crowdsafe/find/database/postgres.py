"""The working copy of a PostgreSQL database."""

from __future__ import annotations

import contextlib

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.postgres_catalog import Catalogue, Relation, read_catalogue
from crowdsafe.find.database.postgres_copy import (
    connect_side,
    default_isolation,
    drop_copy,
    make_copy,
    parse_address,
)
from crowdsafe.find.database.postgres_locks import PostgresLocks
from crowdsafe.find.database.postgres_rows import changes_query, rows_query, run_queries
from crowdsafe.find.database.postgres_snapshot import Snapshot
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.roundtrip import assume_isolation, force_isolation
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
        if in_place:
            self.notes.append(
                "the finder worked on the database itself, and has put it back as it was; each "
                "deadlock took the server's own deadlock_timeout to show"
            )
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
        self._closing = contextlib.ExitStack()
        if not in_place:
            self._closing.callback(drop_copy, self._address)
        with contextlib.ExitStack() as undo:
            undo.push(self._closing)
            self._side = self._closing.enter_context(connect_side(self._address))
            self._watch = self._closing.enter_context(connect_side(self._address))
            self.locks = PostgresLocks(self._watch)
            self._snapshot = Snapshot(self._side, in_place=in_place)
            undo.pop_all()
        assume_isolation(default_isolation(self._address))
        self._unchanged: dict[int, Rows] = {}

    def schema(self) -> Schema:
        return self._catalogue().schema

    def keep(self) -> None:
        self._snapshot.keep()
        self._unchanged = {}

    def restore(self, tables: frozenset[str] | None = None) -> None:
        """Back to what was kept, in whichever tables were written: ``tables`` is not needed.

        A session that sits in a transaction that has written is ended, and so is, after 200 ms,
        any that is in the way; ``notes`` says so. Raises ConfigError when that does not help.
        """
        import psycopg

        try:
            try:
                ended = self._snapshot.restore()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                self._note_ended(len(self._end_all_in_the_way()))
                ended = self._snapshot.restore()
        except psycopg.Error as error:
            raise ConfigError(
                f"the database cannot be put back to what it was ({error}): does something else "
                "than the target work on it? A superuser's URL helps against constraints"
            ) from error
        self._note_ended(len(ended))
        if self._snapshot.altered and _ALTERED not in self.notes:
            self.notes.append(_ALTERED)

    def read(self, tables: frozenset[str] | None = None) -> State:
        """The rows now. Of a table with more than 500 rows (and a primary key) only those that
        differ from what was kept, a deleted one as its key with all other columns None.

        Rows of tables that were not written are read once and given again: do not change them.
        """
        taken = self._snapshot.tables
        if not taken:
            return run_queries(
                self._side,
                [(r, rows_query(r)) for r in self._catalogue().relations if _in(r, tables)],
            )
        wanted = [one for one in taken if _in(one.relation, tables)]
        written = self._snapshot.written()
        queries = [
            (one.relation, changes_query(one) if one.large else rows_query(one.relation))
            for one in wanted
            if one.number in written or (one.number not in self._unchanged and not one.large)
        ]
        found = run_queries(self._side, queries) if queries else {}
        state: State = {}
        for one in wanted:
            name, table = one.relation.table.name, one.relation.table
            if one.number in written:
                state[name] = found[name]
            elif one.large:
                state[name] = Rows(table.column_names, table.primary_key, [])
            else:
                state[name] = self._unchanged.setdefault(one.number, found.get(name, _NONE))
        return state

    def perturb(self, by: int = 1000) -> None:
        """Move all sequences on, within their bounds and each by an amount of its own: serial and
        identity columns then differ, from before and from each other."""
        self._snapshot.perturb(by)

    def set_isolation(self, level: str | None) -> None:
        """Have each transaction that begins from now on, on open connections too, run at that
        level, whatever the target asks for. Statements in autocommit keep their own."""
        if level is not None and level.lower() not in _LEVELS:
            raise ConfigError(f"{level!r} is no isolation level: use one of {sorted(_LEVELS)}")
        force_isolation(level)

    def original_mark(self) -> object:
        if self._in_place:
            return None
        return self._watch.execute(_SESSIONS, [self.redirect.original] * 2).fetchone()

    def close(self) -> None:
        force_isolation(None)
        assume_isolation(None)
        with self._closing:
            if self._in_place:
                self.restore()
                self._snapshot.drop()

    def _catalogue(self) -> Catalogue:
        if not self._snapshot.tables:
            self._snapshot.catalogue = read_catalogue(self._side)
        return self._snapshot.catalogue

    def _end_all_in_the_way(self) -> list[int]:
        """End every other session that is in a transaction, and roll back prepared ones."""
        ours = [self._side.info.backend_pid, self._watch.info.backend_pid]
        rows = self._watch.execute(_END, [ours]).fetchall()
        for (gid,) in self._watch.execute(_PREPARED).fetchall():
            self._watch.execute("ROLLBACK PREPARED '" + gid.replace("'", "''") + "'")
        return [pid for (pid,) in rows]

    def _note_ended(self, sessions: int) -> None:
        if sessions and len(self.notes) < _NOTES_MAX:
            self.notes.append(
                f"{sessions} connection(s) were left in an open transaction by an operation, and "
                "ended by the finder: commit, roll back or close them"
            )


def _in(relation: Relation, tables: frozenset[str] | None) -> bool:
    return tables is None or relation.table.name in tables


_NONE = Rows((), (), [])
_NOTES_MAX = 20
_ALTERED = (
    "an operation creates or alters tables: what it creates is dropped again after each run, "
    "what it alters stays"
)
# Found first, ended then: as one condition among others, ending might be tried before the others
# are, on sessions of other databases of the server.
_END = b"""
WITH others AS MATERIALIZED (
  SELECT pid FROM pg_stat_activity
  WHERE datname = current_database() AND xact_start IS NOT NULL AND NOT pid = ANY(%s)
    AND backend_type = 'client backend'
)
SELECT pid FROM others WHERE pg_terminate_backend(pid)
"""
# The count of sessions is there from PostgreSQL 14 on; one that is over is only seen by it.
_SESSIONS = b"""
SELECT (SELECT to_jsonb(d) -> 'sessions' FROM pg_stat_database d WHERE datname = %s),
       (SELECT array_agg((pid, state_change)::text ORDER BY pid) FROM pg_stat_activity
        WHERE datname = %s AND backend_type = 'client backend')
"""
_PREPARED = b"SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
