# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Writes the function that puts a PostgreSQL database back to what was kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crowdsafe.find.database.postgres_catalog import OWN_SCHEMA, Relation, quoted

__all__ = ["LARGE_ROWS", "Taken", "restore_function"]

LARGE_ROWS = 500
"""A table with more rows, and a primary key, is restored row by row."""
_TRUNCATED = 1000000


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
    def writable(self) -> tuple[str, ...]:
        """The columns that can be written: those that are computed cannot."""
        computed = self.relation.computed
        return tuple(
            quoted(name) for name in self.relation.table.column_names if name not in computed
        )

    def same_key(self, one: str, other: str) -> str:
        return " AND ".join(
            f"{one}.{quoted(name)} = {other}.{quoted(name)}"
            for name in self.relation.table.primary_key
        )

    @property
    def insert(self) -> str:
        columns = ", ".join(self.writable)
        if not columns:
            return f"INSERT INTO {self.relation.sql} SELECT FROM {self.kept} s"
        return (
            f"INSERT INTO {self.relation.sql} ({columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {columns} FROM {self.kept} s"
        )


def restore_function(
    tables: tuple[Taken, ...], *, superuser: bool, waits_for_end: bool = True
) -> str:
    """SQL that creates ``restore()``: it gives the pids of the sessions that it ended, and the
    numbers of the small tables whose rows found free space in an order that was not theirs (and
    -1 when tables were created or altered). ``waits_for_end``: PostgreSQL 14 can end a session
    and wait until it is gone."""
    end = "pg_terminate_backend(pid, 1000)" if waits_for_end else "pg_terminate_backend(pid)"
    whole = [*map(_delete, tables), *map(_insert, tables)]
    body = whole if superuser else _one_by_one(tables)
    forgets = [
        f"IF {_written(taken)} THEN DELETE FROM {taken.touched}; END IF;"
        for taken in tables
        if taken.large
    ]
    work = "\n    ".join([*body, *forgets])
    return f"""
CREATE FUNCTION {OWN_SCHEMA}.restore(OUT ended int[], OUT mixed int[]) LANGUAGE plpgsql AS $$
DECLARE
  dirty int[];
BEGIN
  WITH leaked AS MATERIALIZED (
    SELECT pid FROM pg_stat_get_activity(NULL)
    WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND backend_xid IS NOT NULL AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()
  )
  SELECT array_agg(pid) INTO ended FROM leaked WHERE {end};
  SELECT array_agg(DISTINCT n) INTO dirty FROM {OWN_SCHEMA}.dirty;
  IF dirty IS NOT NULL THEN
    mixed := CASE WHEN -1 = ANY(dirty) THEN ARRAY[-1] END;
    {work}
    DELETE FROM {OWN_SCHEMA}.dirty;
  END IF;
  PERFORM setval(oid, value, called) FROM {OWN_SCHEMA}.sequences
    WHERE pg_sequence_last_value(oid) IS DISTINCT FROM last;
END $$;
"""


def _written(taken: Taken) -> str:
    return f"dirty && ARRAY[{taken.number}, {taken.number + _TRUNCATED}]"


def _delete(taken: Taken) -> str:
    table = taken.relation.rows_of
    if not taken.large:
        return f"IF {_written(taken)} THEN DELETE FROM {table}; END IF;"
    return (
        f"IF {_written(taken)} THEN DELETE FROM {table} x USING {taken.touched} k"
        f" WHERE {taken.same_key('x', 'k')}; END IF;"
    )


def _insert(taken: Taken) -> str:
    if taken.large:
        return _insert_missing(taken)
    if taken.relation.parts:
        return f"IF {_written(taken)} THEN {taken.insert}; END IF;"
    return (
        f"IF {_written(taken)} THEN WITH placed AS ({taken.insert} RETURNING ctid)"
        " SELECT CASE WHEN (SELECT array_agg(ctid) FROM placed)"
        " <> (SELECT array_agg(ctid ORDER BY ctid) FROM placed)"
        f" THEN mixed || {taken.number} ELSE mixed END INTO mixed; END IF;"
    )


def _insert_missing(taken: Taken) -> str:
    """Rows that are gone: looked for among all after a TRUNCATE, else among those touched."""
    missing = (
        f"{taken.insert} WHERE NOT EXISTS"
        f" (SELECT 1 FROM {taken.relation.rows_of} x WHERE {taken.same_key('x', 's')})"
    )
    if not taken.large:
        return f"IF {_written(taken)} THEN {missing}; END IF;"
    return (
        f"IF {taken.number + _TRUNCATED} = ANY(dirty) THEN {missing};"
        f" ELSIF {taken.number} = ANY(dirty) THEN"
        f" {missing} AND ({taken.key}) IN (SELECT {taken.key} FROM {taken.touched}); END IF;"
    )


def _one_by_one(tables: Iterable[Taken]) -> list[str]:
    """Put back the rows that differ, so that foreign keys hold at each moment and no cascade
    fires: new rows go, referring ones first; changed rows are updated; lost rows come back,
    those referred to first."""
    ordered = _parents_first(tables)
    keyed = [taken for taken in ordered if taken.relation.table.primary_key]
    other = [taken for taken in ordered if not taken.relation.table.primary_key]
    quiet = [taken for taken in ordered if taken.relation.table.has_triggers]
    return [
        "SET CONSTRAINTS ALL DEFERRED;",
        *(_triggers(taken, "DISABLE") for taken in quiet),
        *(f"IF {_written(t)} THEN DELETE FROM {t.relation.rows_of}; END IF;" for t in other),
        *(_delete_new(taken) for taken in reversed(keyed)),
        *(_update_changed(taken) for taken in keyed),
        *(_insert_missing(taken) for taken in keyed),
        *(f"IF {_written(taken)} THEN {taken.insert}; END IF;" for taken in other),
        "SET CONSTRAINTS ALL IMMEDIATE;",
        *(_triggers(taken, "ENABLE") for taken in quiet),
    ]


def _triggers(taken: Taken, what: str) -> str:
    return (
        f"IF {_written(taken)} THEN ALTER TABLE {taken.relation.sql} {what} TRIGGER USER; END IF;"
    )


def _touched_only(taken: Taken, alias: str) -> str:
    if not taken.large:
        return ""
    key = ", ".join(f"{alias}.{quoted(name)}" for name in taken.relation.table.primary_key)
    return f" AND ({key}) IN (SELECT {taken.key} FROM {taken.touched})"


def _delete_new(taken: Taken) -> str:
    return (
        f"IF {_written(taken)} THEN DELETE FROM {taken.relation.rows_of} x WHERE NOT EXISTS"
        f" (SELECT 1 FROM {taken.kept} s WHERE {taken.same_key('x', 's')})"
        f"{_touched_only(taken, 'x')}; END IF;"
    )


def _update_changed(taken: Taken) -> str:
    key = {quoted(name) for name in taken.relation.table.primary_key}
    columns = [name for name in taken.writable if name not in key]
    if not columns:
        return ""
    sets = ", ".join(f"{name} = s.{name}" for name in columns)
    now, then = (", ".join(f"{alias}.{name}" for name in columns) for alias in "xs")
    return (
        f"IF {_written(taken)} THEN UPDATE {taken.relation.rows_of} x SET {sets}"
        f" FROM {taken.kept} s WHERE {taken.same_key('x', 's')}"
        f" AND ROW({now})::text IS DISTINCT FROM ROW({then})::text"
        f"{_touched_only(taken, 'x')}; END IF;"
    )


def _parents_first(tables: Iterable[Taken]) -> list[Taken]:
    """Tables after those that they refer to, as far as there is no cycle."""
    by_name = {taken.relation.table.name: taken for taken in tables}
    ordered: dict[str, Taken] = {}
    open_: set[str] = set()

    def visit(name: str) -> None:
        if name in ordered or name in open_ or name not in by_name:
            return
        open_.add(name)
        for key in by_name[name].relation.table.foreign_keys:
            visit(key.to_table)
        ordered[name] = by_name[name]

    for name in by_name:
        visit(name)
    return list(ordered.values())
