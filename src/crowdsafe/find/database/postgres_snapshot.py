# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Keeps the rows of a PostgreSQL database beside them, and puts back what was changed.

Statement triggers of the finder's own note which tables were written (by whom and how ever:
cascades, other triggers, functions), in a table that a rollback takes the note from again. So a
restore touches only what was written, in one round trip: a function that :meth:`Snapshot.keep`
writes. Small tables are written anew in their first order, so that a query without ORDER BY
reads the same each time; of large ones, a second trigger notes the keys of rows that changed and
only those are put back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crowdsafe.find.database.postgres_catalog import (
    OWN_SCHEMA,
    Catalogue,
    Relation,
    quoted,
    read_catalogue,
)

if TYPE_CHECKING:
    import psycopg

__all__ = ["LARGE_ROWS", "Snapshot", "Taken"]

LARGE_ROWS = 1000
"""A table with more rows, and a primary key, is restored row by row."""


@dataclass(slots=True)
class Taken:
    """One table as it was kept; ``number`` is its place in the list of all."""

    number: int
    relation: Relation
    rows: int

    @property
    def large(self) -> bool:
        return self.rows > LARGE_ROWS and bool(self.relation.table.primary_key)

    @property
    def kept(self) -> str:
        return f"{OWN_SCHEMA}.t{self.number}"

    @property
    def touched(self) -> str:
        return f"{OWN_SCHEMA}.k{self.number}"

    @property
    def key(self) -> str:
        return ", ".join(quoted(name) for name in self.relation.table.primary_key)

    @property
    def writable(self) -> str:
        """The columns that can be written: those that are computed cannot."""
        computed = self.relation.computed
        return ", ".join(
            quoted(name) for name in self.relation.table.column_names if name not in computed
        )

    def same_key(self, one: str, other: str) -> str:
        return " AND ".join(
            f"{one}.{quoted(name)} = {other}.{quoted(name)}"
            for name in self.relation.table.primary_key
        )


class Snapshot:
    """What the working copy is put back to. Needs a role that owns the tables."""

    def __init__(self, side: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._side = side
        self.catalogue: Catalogue = read_catalogue(side)
        self.tables: tuple[Taken, ...] = ()
        self._superuser = _is_superuser(side)

    def keep(self) -> None:
        """Take all tables and sequences as they are now."""
        self.drop()
        self.catalogue = read_catalogue(self._side)
        with self._side.transaction():
            self._side.execute("SET LOCAL lock_timeout = '5s'")
            self._execute(f"CREATE SCHEMA {OWN_SCHEMA}")
            self._execute(_NOTES)
            self._execute(f"GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO PUBLIC")
            self.tables = tuple(
                self._take(number, relation)
                for number, relation in enumerate(self.catalogue.relations)
            )
            self._take_sequences()
            self._execute(_restore_function(self.tables, self._superuser))
        self._execute("ANALYZE")

    def drop(self) -> None:
        """Remove everything that was put into the database beside the target's own."""
        for taken in self.tables:
            for name in _TRIGGERS:
                self._execute(f"DROP TRIGGER IF EXISTS {name} ON {taken.relation.sql}")
        self._execute(f"DROP SCHEMA IF EXISTS {OWN_SCHEMA} CASCADE")
        self.tables = ()

    def written(self) -> list[int]:
        """The numbers of the tables that were written since they were restored."""
        return [number for (number,) in self._execute(f"SELECT DISTINCT n FROM {OWN_SCHEMA}.dirty")]

    def restore(self) -> list[int]:
        """Put all back that was changed; returns the pids of sessions that had to be ended
        because they had left a transaction with writes open."""
        row = self._side.execute(_RESTORE).fetchone()
        return list(row[0] or ()) if row else []

    def _execute(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self._side.execute(sql.encode(), prepare=False)
        return cursor.fetchall() if cursor.description else []

    def _take(self, number: int, relation: Relation) -> Taken:
        kept = f"{OWN_SCHEMA}.t{number}"
        self._execute(f"CREATE UNLOGGED TABLE {kept} AS TABLE {_only(relation)}")
        ((rows,),) = self._execute(f"SELECT count(*) FROM {kept}")
        taken = Taken(number, relation, rows)
        note = f"EXECUTE FUNCTION {OWN_SCHEMA}.note('{number}')"
        for target in (relation.sql, *relation.parts):
            self._execute(
                "CREATE TRIGGER crowdsafe_find_note AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE"
                f" ON {target} FOR EACH STATEMENT {note}"
            )
        if taken.large:
            self._execute(f"CREATE UNIQUE INDEX ON {kept} ({taken.key})")
            self._execute(
                f"CREATE UNLOGGED TABLE {taken.touched} AS SELECT {taken.key} FROM {kept} LIMIT 0"
            )
            self._execute(_touch_function(taken))
            self._execute(
                "CREATE TRIGGER crowdsafe_find_touch AFTER INSERT OR UPDATE OR DELETE"
                f" ON {relation.sql} FOR EACH ROW EXECUTE FUNCTION {OWN_SCHEMA}.touch{number}()"
            )
        return taken

    def _take_sequences(self) -> None:
        self._execute(
            f"CREATE UNLOGGED TABLE {OWN_SCHEMA}.sequences (oid oid, value bigint, called boolean,"
            " last bigint, increment bigint, low bigint, high bigint)"
        )
        for oid, name, increment, low, high in self.catalogue.sequences:
            self._execute(
                f"INSERT INTO {OWN_SCHEMA}.sequences SELECT {oid}, last_value, is_called,"
                f" pg_sequence_last_value({oid}), {increment}, {low}, {high} FROM {name}"
            )


_RESTORE = f"SELECT {OWN_SCHEMA}.restore()".encode()
_TRIGGERS = ("crowdsafe_find_note", "crowdsafe_find_touch")
_NOTES = f"""
CREATE UNLOGGED TABLE {OWN_SCHEMA}.dirty (n int NOT NULL);
CREATE FUNCTION {OWN_SCHEMA}.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO {OWN_SCHEMA}.dirty VALUES (TG_ARGV[0]::int + CASE TG_OP WHEN 'TRUNCATE' THEN
                                                            1000000 ELSE 0 END);
  RETURN NULL;
END $$;
"""


def _is_superuser(side: Any) -> bool:
    (row,) = side.execute("SELECT current_setting('is_superuser') = 'on'").fetchall()
    return bool(row[0])


def _only(relation: Relation) -> str:
    return relation.sql if relation.parts else f"ONLY {relation.sql}"


def _touch_function(taken: Taken) -> str:
    def noted(row: str) -> str:
        values = ", ".join(f"{row}.{quoted(name)}" for name in taken.relation.table.primary_key)
        return f"INSERT INTO {taken.touched} VALUES ({values});"

    return f"""
CREATE FUNCTION {OWN_SCHEMA}.touch{taken.number}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN {noted("OLD")} END IF;
  IF TG_OP <> 'DELETE' THEN {noted("NEW")} END IF;
  RETURN NULL;
END $$;
"""


def _restore_function(tables: tuple[Taken, ...], superuser: bool) -> str:
    deletes = "\n".join(_delete(taken) for taken in tables)
    inserts = "\n".join(_insert(taken) for taken in tables)
    forgets = "\n".join(f"DELETE FROM {taken.touched};" for taken in tables if taken.large)
    quiet = "SET LOCAL session_replication_role = replica;" if superuser else ""
    return f"""
CREATE FUNCTION {OWN_SCHEMA}.restore() RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
  dirty int[];
  ended int[];
BEGIN
  SELECT array_agg(pid) INTO ended FROM pg_stat_get_activity(NULL) a
    JOIN pg_database d ON d.oid = a.datid AND d.datname = current_database()
    WHERE pid <> pg_backend_pid() AND backend_xid IS NOT NULL AND backend_type = 'client backend'
      AND pg_terminate_backend(pid, 1000);
  SELECT array_agg(DISTINCT n) INTO dirty FROM {OWN_SCHEMA}.dirty;
  IF dirty IS NOT NULL THEN
    {quiet}
    SET CONSTRAINTS ALL DEFERRED;
    {deletes}
    {inserts}
    {forgets}
    DELETE FROM {OWN_SCHEMA}.dirty;
  END IF;
  PERFORM setval(oid, value, called) FROM {OWN_SCHEMA}.sequences
    WHERE pg_sequence_last_value(oid) IS DISTINCT FROM last;
  RETURN ended;
END $$;
"""


def _delete(taken: Taken) -> str:
    table = _only(taken.relation)
    if not taken.large:
        return f"IF {taken.number} = ANY(dirty) THEN DELETE FROM {table}; END IF;"
    return (
        f"IF {taken.number} = ANY(dirty) THEN DELETE FROM {table} x USING {taken.touched} k"
        f" WHERE {taken.same_key('x', 'k')}; END IF;"
    )


def _insert(taken: Taken) -> str:
    table, columns = taken.relation.sql, taken.writable
    into = f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns}"
    if not columns:
        into = f"INSERT INTO {table} SELECT"
    if not taken.large:
        return f"IF {taken.number} = ANY(dirty) THEN {into} FROM {taken.kept}; END IF;"
    some = f"{into} FROM {taken.kept} s"
    return (
        f"IF {taken.number + 1000000} = ANY(dirty) THEN {some} WHERE NOT EXISTS"
        f" (SELECT 1 FROM {table} x WHERE {taken.same_key('x', 's')});"
        f" ELSIF {taken.number} = ANY(dirty) THEN {some} WHERE ({taken.key}) IN"
        f" (SELECT {taken.key} FROM {taken.touched}); END IF;"
    )
