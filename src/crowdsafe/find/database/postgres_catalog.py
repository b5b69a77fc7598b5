# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Reads what tables, keys, sequences and views a PostgreSQL database has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table

if TYPE_CHECKING:
    import psycopg

__all__ = ["OWN_SCHEMA", "Catalogue", "Relation", "quoted", "read_catalogue"]

OWN_SCHEMA = "crowdsafe_find"

_USERS = f"""
n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', '{OWN_SCHEMA}')
AND n.nspname NOT LIKE 'pg\\_temp\\_%' AND n.nspname NOT LIKE 'pg\\_toast\\_temp\\_%'
AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                AND e.objid = c.oid AND e.deptype = 'e')
"""
_RELATIONS = f"""
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition,
       EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
               AND t.tgname NOT LIKE 'crowdsafe\\_find\\_%') OR c.relhasrules,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {_USERS}
ORDER BY n.nspname, c.relname
"""
_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), t.typname,
       a.attnotnull, a.attidentity <> '', a.attgenerated <> '',
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
_KEYS = """
SELECT i.indrelid, i.indisprimary, i.indnkeyatts, i.indkey::int2[]
FROM pg_index i
WHERE i.indrelid = ANY(%s) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, i.indexrelid
"""
_FOREIGN = """
SELECT conrelid, conkey, confrelid, confkey FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY(%s) AND conparentid = 0
ORDER BY conrelid, conname
"""
_SEQUENCES = f"""
SELECT c.oid, n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_USERS} ORDER BY n.nspname, c.relname
"""
_VIEWS = f"""
SELECT DISTINCT n.nspname, c.relname, tn.nspname, tc.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_rewrite w ON w.ev_class = c.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
 AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
JOIN pg_class tc ON tc.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = tc.relnamespace
WHERE c.relkind IN ('v', 'm') AND {_USERS}
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as PostgreSQL sees it; ``parts`` are the partitions that hold its rows."""

    oid: int
    schema: str
    name: str
    table: Table
    types: tuple[str, ...]
    computed: frozenset[str]
    parts: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def rows_of(self) -> str:
        """What to read, or delete from, for its own rows: not those of tables that inherit."""
        return self.sql if self.parts else f"ONLY {self.sql}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    schema: Schema
    relations: tuple[Relation, ...]
    sequences: tuple[tuple[int, str, int, int, int], ...]
    """(oid, quoted name, increment, minimum, maximum) of each."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _spelled(schema: str, name: str) -> str:
    return (name if schema == "public" else f"{schema}.{name}").lower()


def read_catalogue(side: psycopg.Connection[tuple[Any, ...]]) -> Catalogue:
    """All tables of users: not the catalogue's, not those of extensions; partitions are part of
    the table that they are partitions of."""
    rows = side.execute(_RELATIONS).fetchall()
    roots = [row for row in rows if not row[4]]
    oids = [row[0] for row in roots]
    names = {row[0]: _spelled(row[1], row[2]) for row in roots}
    parts: dict[int, list[str]] = defaultdict(list)
    for _, schema, name, kind, is_part, _, root in rows:
        if is_part and kind == "r":
            parts[root].append(f"{quoted(schema)}.{quoted(name)}")
    columns: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in side.execute(_COLUMNS, [oids]).fetchall():
        columns[row[0]].append(row)
    keys = side.execute(_KEYS, [oids]).fetchall()
    foreign = side.execute(_FOREIGN, [oids]).fetchall()
    relations = tuple(
        _relation(root, columns[root[0]], keys, _foreign(root[0], foreign, columns, names), parts)
        for root in roots
    )
    views: dict[str, set[str]] = defaultdict(set)
    for view_schema, view, schema, name in side.execute(_VIEWS).fetchall():
        views[_spelled(view_schema, view)].add(_spelled(schema, name))
    sequences = side.execute(_SEQUENCES).fetchall()
    return Catalogue(
        Schema(
            {relation.table.name: relation.table for relation in relations},
            {view: frozenset(tables) for view, tables in views.items()},
        ),
        relations,
        tuple((s[0], f"{quoted(s[1])}.{quoted(s[2])}", *s[3:]) for s in sequences),
    )


def _relation(
    row: tuple[Any, ...],
    columns: list[tuple[Any, ...]],
    keys: list[tuple[Any, ...]],
    foreign: tuple[ForeignKey, ...],
    parts: dict[int, list[str]],
) -> Relation:
    oid, schema, name, _, _, has_triggers, _ = row
    by_number = {column[1]: column[2] for column in columns}
    primary: tuple[str, ...] = ()
    unique: list[tuple[str, ...]] = []
    for relid, is_primary, count, numbers in keys:
        if relid != oid:
            continue
        key = tuple(by_number[number] for number in numbers[:count])
        if is_primary:
            primary = key
        else:
            unique.append(key)
    table = Table(
        _spelled(schema, name),
        tuple(_column(column) for column in columns),
        primary,
        tuple(unique),
        foreign,
        has_triggers,
    )
    return Relation(
        oid,
        schema,
        name,
        table,
        tuple(column[4] for column in columns),
        frozenset(column[2] for column in columns if column[7]),
        tuple(parts[oid]),
    )


def _column(row: tuple[Any, ...]) -> Column:
    _, _, name, declared, _, required, identity, computed, default = row
    serial = default is not None and "nextval(" in default
    return Column(
        name, declared.lower(), not required, bool(identity or computed or serial), default
    )


def _foreign(
    oid: int,
    rows: list[tuple[Any, ...]],
    columns: dict[int, list[tuple[Any, ...]]],
    names: dict[int, str],
) -> tuple[ForeignKey, ...]:
    def named(relid: int, numbers: list[int]) -> tuple[str, ...]:
        by_number = {column[1]: column[2] for column in columns[relid]}
        return tuple(by_number[number] for number in numbers)

    return tuple(
        ForeignKey(named(relid, own), names[to], named(to, other))
        for relid, own, to, other in rows
        if relid == oid and to in names
    )
