# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Reads what tables, keys, sequences and views a PostgreSQL database has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
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
               AND t.tgname NOT LIKE 'crowdsafe\\_find\\_%') OR c.relhasrules OR EXISTS (
           SELECT 1 FROM pg_depend e JOIN pg_depend f USING (classid, objid)
           JOIN pg_proc p ON f.refclassid = 'pg_proc'::regclass AND p.oid = f.refobjid
           WHERE e.classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass)
           AND e.refclassid = 'pg_class'::regclass AND e.refobjid = c.oid AND p.provolatile <> 'i'),
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END,
       c.relrowsecurity AND EXISTS (
           SELECT 1 FROM pg_policy p JOIN pg_depend e ON e.classid = 'pg_policy'::regclass
           AND e.objid = p.oid WHERE p.polrelid = c.oid AND e.refobjid <> c.oid
           AND e.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass))
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
_WATCHED = """
SELECT i.indrelid, a.attname FROM pg_index i
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'x'
WHERE i.indrelid = ANY(%s) AND d.refobjsubid > 0
  AND (i.indisunique AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL) OR i.indisexclusion)
  AND (d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
       OR d.classid = 'pg_constraint'::regclass AND d.objid = k.oid)
"""
_FUNCTIONS = """
SELECT DISTINCT lower(p.proname) FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', %s) AND p.provolatile <> 'i'
  AND l.lanname NOT IN ('c', 'internal')
  AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass
                  AND e.objid = p.oid AND e.deptype = 'e')
"""
_FOREIGN = """
SELECT conrelid, conkey, confrelid, confkey FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY(%s) AND conparentid = 0
ORDER BY conrelid, conname
"""
_SEQUENCES = f"""
SELECT c.oid, n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax, lower(c.relname)
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


def _names(roots: list[tuple[Any, ...]]) -> dict[int, str]:
    """How each table is spelled; two that differ in upper case only keep theirs."""
    names = {row[0]: _spelled(row[1], row[2]) for row in roots}
    taken = Counter(names.values())
    for oid, schema, name, *_ in roots:
        if taken[names[oid]] > 1:
            names[oid] = name if schema == "public" else f"{schema}.{name}"
    return names


def _homonyms(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """What a name may mean besides the table that is called so, wherever it is looked for."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found[name.lower()].add(name)
        found[name.lower().rpartition(".")[2]].add(name)
    return {name: frozenset(all_) for name, all_ in found.items() if all_ != {name}}


def read_catalogue(side: psycopg.Connection[tuple[Any, ...]]) -> Catalogue:
    """All tables of users: not the catalogue's, not those of extensions; partitions are part of
    the table that they are partitions of."""
    rows = side.execute(_RELATIONS).fetchall()
    roots = [row for row in rows if not row[4]]
    oids = [row[0] for row in roots]
    names = _names(roots)
    parts: dict[int, list[str]] = defaultdict(list)
    for _, schema, name, kind, is_part, _, root, _ in rows:
        if is_part and kind == "r":
            parts[root].append(f"{quoted(schema)}.{quoted(name)}")
    columns: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in side.execute(_COLUMNS, [oids]).fetchall():
        columns[row[0]].append(row)
    keys = side.execute(_KEYS, [oids]).fetchall()
    watched: dict[int, set[str]] = defaultdict(set)
    for oid, column in side.execute(_WATCHED, [oids]).fetchall():
        watched[oid].add(column)
    foreign = side.execute(_FOREIGN, [oids]).fetchall()
    relations = tuple(
        _relation(
            root,
            names[root[0]],
            columns[root[0]],
            keys,
            frozenset(watched[root[0]]),
            _foreign(root[0], foreign, columns, names),
            parts,
        )
        for root in roots
    )
    views: dict[str, set[str]] = defaultdict(set)
    for view_schema, view, schema, name in side.execute(_VIEWS).fetchall():
        views[_spelled(view_schema, view)].add(_spelled(schema, name))
    sequences = side.execute(_SEQUENCES).fetchall()
    functions = side.execute(_FUNCTIONS, [OWN_SCHEMA]).fetchall()
    return Catalogue(
        Schema(
            {relation.table.name: relation.table for relation in relations},
            {view: frozenset(tables) for view, tables in views.items()},
            frozenset(name for (name,) in functions),
            _homonyms([*names.values(), *views]),
            frozenset(bare for *_, bare in sequences),
        ),
        relations,
        tuple((s[0], f"{quoted(s[1])}.{quoted(s[2])}", *s[3:6]) for s in sequences),
    )


def _relation(
    row: tuple[Any, ...],
    spelled: str,
    columns: list[tuple[Any, ...]],
    keys: list[tuple[Any, ...]],
    watched: frozenset[str],
    foreign: tuple[ForeignKey, ...],
    parts: dict[int, list[str]],
) -> Relation:
    oid, schema, name, _, _, has_triggers, _, has_policies = row
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
        spelled,
        tuple(_column(column) for column in columns),
        primary,
        tuple(unique),
        foreign,
        has_triggers,
        has_policies,
        watched,
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
