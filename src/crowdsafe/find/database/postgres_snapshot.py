# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Keeps the rows of a PostgreSQL database beside them, and puts back what was changed.

Statement triggers of the finder's own note which tables were written (by whom and how ever:
cascades, other triggers, functions), in a table that a rollback takes the note from again. So a
restore touches only what was written, in one round trip. Of large tables, a second trigger notes
the keys of the rows that changed, and only those are put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.postgres_catalog import (
    OWN_SCHEMA,
    Catalogue,
    Relation,
    quoted,
    read_catalogue,
)
from crowdsafe.find.database.postgres_restore import Taken, restore_function

if TYPE_CHECKING:
    import psycopg

__all__ = ["Snapshot"]

_COMPACT_EVERY = 64
_RESTORE = f"SELECT ended, mixed FROM {OWN_SCHEMA}.restore()".encode()
_WRITTEN = f"SELECT DISTINCT n % 1000000 FROM {OWN_SCHEMA}.dirty".encode()
_PERTURB = f"""
SELECT setval(oid, greatest(low, least(high,
           coalesce(pg_sequence_last_value(oid), value)
           + (%s::bigint + 7 * row_number() OVER (ORDER BY oid)) * increment)))
FROM {OWN_SCHEMA}.sequences
""".encode()
_NOTES = f"""
CREATE TABLE {OWN_SCHEMA}.dirty (n int NOT NULL);
CREATE FUNCTION {OWN_SCHEMA}.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  INSERT INTO {OWN_SCHEMA}.dirty VALUES
    (TG_ARGV[0]::int + CASE TG_OP WHEN 'TRUNCATE' THEN 1000000 ELSE 0 END);
  RETURN NULL;
END $$;
CREATE TABLE {OWN_SCHEMA}.sequences (oid oid, value bigint, called boolean,
  last bigint, increment bigint, low bigint, high bigint);
GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO PUBLIC;
"""
_HEIRS = """
WITH RECURSIVE heirs (oid, heir) AS (
  SELECT inhparent, inhrelid FROM pg_inherits
  UNION SELECT heirs.oid, inhrelid FROM heirs JOIN pg_inherits ON inhparent = heir
) SELECT oid, heir FROM heirs
"""
_DDL = -1
_NOTE_DDL = f"""
CREATE FUNCTION {OWN_SCHEMA}.note_ddl() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
  INSERT INTO {OWN_SCHEMA}.dirty SELECT {_DDL} FROM pg_event_trigger_ddl_commands()
    WHERE schema_name NOT LIKE 'pg\\_temp%' LIMIT 1;
END $$;
CREATE EVENT TRIGGER crowdsafe_find_ddl ON ddl_command_end EXECUTE FUNCTION {OWN_SCHEMA}.note_ddl();
"""


class Snapshot:
    """What the working copy is put back to.

    Needs a role that owns the tables. A superuser has triggers and foreign keys off while
    restoring, and small tables are written anew in their first order, so that a query without
    ORDER BY reads the same each time. For another role the rows that differ are put back one by
    one: a row that was changed may then stand elsewhere in its table.

    Tables that were created since :meth:`keep` are dropped (a superuser notices them), tables
    that were altered or dropped are not put back: :attr:`altered` says that some were.
    """

    def __init__(self, side: psycopg.Connection[tuple[Any, ...]], *, in_place: bool) -> None:
        self._side = side
        self._in_place = in_place
        self._superuser = _as_replica(side)
        self._restores = 0
        self.altered = False
        self.catalogue: Catalogue = read_catalogue(side)
        self.tables: tuple[Taken, ...] = ()
        self._recover()

    def keep(self) -> None:
        """Take all tables and sequences as they are now. Raises ConfigError without the right."""
        import psycopg

        self.drop()
        self.catalogue = read_catalogue(self._side)
        try:
            with self._side.transaction():
                self._execute("SET LOCAL lock_timeout = '5s'")
                self._execute(f"CREATE SCHEMA {OWN_SCHEMA}")
                self._execute(_NOTES)
                self.tables = tuple(
                    self._take(number, relation)
                    for number, relation in enumerate(self.catalogue.relations)
                )
                self._note_heirs()
                self._take_sequences()
                self._execute(
                    restore_function(
                        self.tables,
                        superuser=self._superuser,
                        waits_for_end=self._side.info.server_version >= 140000,
                    )
                )
                if self._superuser:
                    self._execute(_NOTE_DDL)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigError(
                f"the role may not keep a snapshot ({error.diag.message_primary}): give the URL "
                "of the role that owns the tables, or of a superuser"
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise ConfigError(
                "the target holds locks on its tables before an operation runs (a transaction "
                "that its start-up or --setup left open): commit or close it"
            ) from error
        self._execute("ANALYZE")

    def drop(self) -> None:
        """Remove everything that was put into the database beside the target's own."""
        self._execute(f"DROP SCHEMA IF EXISTS {OWN_SCHEMA} CASCADE")
        self.tables = ()

    def written(self) -> set[int]:
        """The numbers of the tables that were written since they were restored."""
        numbers = {row[0] for row in self._side.execute(_WRITTEN).fetchall()}
        if _DDL in numbers:
            numbers.discard(_DDL)
            self.altered = True
        return numbers

    def restore(self) -> list[int]:
        """Put all back that was changed; returns the pids of sessions that were ended because
        they sat in a transaction that had written. Raises psycopg's errors."""
        if not self.tables:
            return []
        self._restores += 1
        if self._restores % _COMPACT_EVERY == 0:
            self._empty(self.written())
        ended, mixed = self._put_back()
        if _DDL in mixed:
            self._drop_new_tables()
            mixed.remove(_DDL)
        if mixed:
            self._empty(mixed)
            self._put_back()
        return list(ended)

    def _put_back(self) -> tuple[list[int], list[int]]:
        row = self._side.execute(_RESTORE).fetchone()
        assert row is not None
        return row[0] or [], row[1] or []

    def _drop_new_tables(self) -> None:
        self.altered = True
        known = {relation.oid for relation in self.catalogue.relations}
        for relation in read_catalogue(self._side).relations:
            if relation.oid not in known:
                self._execute(f"DROP TABLE IF EXISTS {relation.sql} CASCADE")
        self._execute(f"DELETE FROM {OWN_SCHEMA}.dirty WHERE n = {_DDL}")

    def perturb(self, by: int) -> None:
        self._side.execute(_PERTURB, [by])

    def _execute(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self._side.execute(sql.encode(), prepare=False)
        return cursor.fetchall() if cursor.description else []

    def _recover(self) -> None:
        """Put back what a finder that was killed while it worked in place had changed."""
        (found,) = self._execute(f"SELECT to_regproc('{OWN_SCHEMA}.restore') IS NOT NULL")
        if found[0] and self._in_place:
            self._side.execute(_RESTORE)
            self.drop()

    def _take(self, number: int, relation: Relation) -> Taken:
        logged = "" if self._in_place else "UNLOGGED"
        kept = f"{OWN_SCHEMA}.t{number}"
        self._execute(f"CREATE {logged} TABLE {kept} AS TABLE {relation.rows_of}")
        ((rows,),) = self._execute(f"SELECT count(*) FROM {kept}")
        taken = Taken(number, relation, rows)
        for target in (relation.sql, *relation.parts):
            self._execute(
                "CREATE TRIGGER crowdsafe_find_note AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE"
                f" ON {target} FOR EACH STATEMENT EXECUTE FUNCTION {OWN_SCHEMA}.note('{number}')"
            )
        if not self._in_place:
            for target in relation.parts or (relation.sql,):
                self._execute(f"ALTER TABLE {target} SET (autovacuum_enabled = false)")
        if relation.table.primary_key and (taken.large or not self._superuser):
            self._execute(f"CREATE UNIQUE INDEX ON {kept} ({taken.key})")
        if taken.large:
            self._note_keys(taken)
        return taken

    def _note_heirs(self) -> None:
        """A statement on a table writes to those that inherit from it too, and fires its own
        triggers only."""
        by_oid = {taken.relation.oid: taken for taken in self.tables}
        for oid, heir in self._execute(_HEIRS):
            if oid in by_oid and heir in by_oid:
                number = by_oid[heir].number
                self._execute(
                    f"CREATE TRIGGER crowdsafe_find_note_{number}"
                    f" AFTER UPDATE OR DELETE OR TRUNCATE ON {by_oid[oid].relation.sql}"
                    " FOR EACH STATEMENT"
                    f" EXECUTE FUNCTION {OWN_SCHEMA}.note('{number}')"
                )

    def _note_keys(self, taken: Taken) -> None:
        """Have the keys of changed rows noted, old and new."""

        def noted(row: str) -> str:
            values = ", ".join(f"{row}.{quoted(n)}" for n in taken.relation.table.primary_key)
            return f"INSERT INTO {taken.touched} VALUES ({values});"

        function = f"{OWN_SCHEMA}.touch{taken.number}()"
        self._execute(f"""
CREATE TABLE {taken.touched} AS SELECT {taken.key} FROM {taken.kept} LIMIT 0;
CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN {noted("OLD")} END IF;
  IF TG_OP <> 'DELETE' THEN {noted("NEW")} END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER crowdsafe_find_touch AFTER INSERT OR UPDATE OR DELETE ON {taken.relation.sql}
  FOR EACH ROW EXECUTE FUNCTION {function};
""")

    def _take_sequences(self) -> None:
        for oid, name, increment, low, high in self.catalogue.sequences:
            self._execute(
                f"INSERT INTO {OWN_SCHEMA}.sequences SELECT {oid}, last_value, is_called,"
                f" pg_sequence_last_value({oid}), {increment}, {low}, {high} FROM {name}"
            )

    def _empty(self, numbers: Iterable[int]) -> None:
        """Vacuum these tables: rewriting rows leaves dead ones behind.

        A small table is emptied before, so that its rows are written from its beginning again.
        """
        names = [f"{OWN_SCHEMA}.dirty"]
        for taken in (self.tables[number] for number in sorted(numbers)):
            names += taken.relation.parts or [taken.relation.sql]
            if taken.large:
                names.append(taken.touched)
            elif self._superuser and not self._in_place:
                self._execute(f"DELETE FROM {taken.relation.rows_of}")
                self._execute(f"INSERT INTO {OWN_SCHEMA}.dirty VALUES ({taken.number})")
        self._execute(f"VACUUM (INDEX_CLEANUP ON, SKIP_LOCKED) {', '.join(names)}")


def _as_replica(side: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Have triggers and foreign keys not fire for the finder's own writes; False where only a
    superuser may."""
    import psycopg

    try:
        side.execute("SET session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True
