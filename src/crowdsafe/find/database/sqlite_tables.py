"""The tables of a SQLite database: how they are made, and what is in them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table
from crowdsafe.find.model import Rows, State
from crowdsafe.find.sql import analyse

__all__ = ["read_schema", "read_state"]

_AS = re.compile(r"\bas\b", re.IGNORECASE)
_ROWIDS = ("rowid", "_rowid_", "oid")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_schema(connection: sqlite3.Connection) -> Schema:
    """The ordinary tables and views; not SQLite's own, virtual ones, and the shadows of those."""
    made = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\' ORDER BY name"
    ).fetchall()
    virtual = tuple(
        f"{name}_" for kind, name, _, sql in made if kind == "table" and _is_virtual(sql)
    )
    with_triggers = {table.lower() for kind, _, table, _ in made if kind == "trigger"}
    tables = {
        name.lower(): _table(connection, name, name.lower() in with_triggers)
        for kind, name, _, sql in made
        if kind == "table" and not _is_virtual(sql) and not name.startswith(virtual)
    }
    views = {name.lower(): _text_of(sql) for kind, name, _, sql in made if kind == "view"}
    reads = {name: _reads(name, views, frozenset(tables)) for name in views}
    return Schema(tables, reads, sequences=frozenset({"sqlite_sequence"}))


def _text_of(view: str) -> str:
    """The SELECT of a view."""
    return _AS.split(view, maxsplit=1)[-1]


def _reads(view: str, views: Mapping[str, str], tables: frozenset[str]) -> frozenset[str]:
    """The tables that a view reads, through other views too; all of them where it is not plain."""
    found: set[str] = set()
    waiting, done = [view], set()
    while waiting:
        name = waiting.pop()
        done.add(name)
        statement = analyse(views[name], "sqlite")
        if statement.opaque or not statement.reads <= tables | views.keys():
            return tables
        found |= statement.reads & tables
        waiting += (statement.reads & views.keys()) - done
    return frozenset(found)


def _is_virtual(sql: str | None) -> bool:
    return (sql or "").upper().split(None, 2)[:2] == ["CREATE", "VIRTUAL"]


def _table(connection: sqlite3.Connection, name: str, has_triggers: bool) -> Table:
    found = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
    keyed = sorted((row[5], row[1]) for row in found if row[5])
    primary_key = tuple(column for _, column in keyed)
    alias = (
        primary_key[0]
        if len(keyed) == 1 and _is_rowid_alias(connection, name, primary_key[0], found)
        else None
    )
    columns = tuple(
        Column(
            column,
            (kind or "").lower(),
            nullable=not required and column not in primary_key,
            generated=hidden in {2, 3} or column == alias,
            default=default,
        )
        for _, column, kind, required, default, _, hidden in found
        if hidden != 1
    )
    return Table(
        name.lower(),
        columns,
        primary_key,
        _unique_keys(connection, name),
        _foreign_keys(connection, name),
        has_triggers,
    )


def _is_rowid_alias(
    connection: sqlite3.Connection, table: str, column: str, found: list[Any]
) -> bool:
    """Whether SQLite gives out the key: an INTEGER PRIMARY KEY has no index of its own."""
    kind = next(row[2] for row in found if row[1] == column)
    indexes = connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall()
    return (kind or "").upper() == "INTEGER" and all(row[3] != "pk" for row in indexes)


def _unique_keys(connection: sqlite3.Connection, table: str) -> tuple[tuple[str, ...], ...]:
    keys = []
    for _, index, unique, origin, partial in connection.execute(
        f"PRAGMA index_list({quoted(table)})"
    ).fetchall():
        if unique and not partial and origin != "pk":
            parts = connection.execute(f"PRAGMA index_info({quoted(index)})").fetchall()
            if all(name is not None for _, _, name in parts):
                keys.append(tuple(name for _, _, name in parts))
    return tuple(sorted(keys))


def _foreign_keys(connection: sqlite3.Connection, table: str) -> tuple[ForeignKey, ...]:
    keys: dict[int, list[Any]] = {}
    for row in connection.execute(f"PRAGMA foreign_key_list({quoted(table)})").fetchall():
        keys.setdefault(row[0], []).append(row)
    return tuple(
        ForeignKey(
            tuple(row[3] for row in rows),
            rows[0][2].lower(),
            tuple(row[4] for row in rows)
            if all(row[4] for row in rows)
            else _key_of(connection, rows[0][2]),
        )
        for rows in (keys[number] for number in sorted(keys))
    )


def _key_of(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    found = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    return tuple(row[1] for row in sorted(found, key=lambda row: int(row[5])) if row[5])


def read_state(
    connection: sqlite3.Connection, schema: Schema, tables: frozenset[str] | None
) -> State:
    """All rows of those tables, ordered by the primary key, else by rowid."""
    wanted = schema.tables if tables is None else [name for name in schema.tables if name in tables]
    connection.execute("BEGIN")
    try:
        return {name: _rows(connection, schema.tables[name]) for name in wanted}
    finally:
        connection.execute("ROLLBACK")


def _rows(connection: sqlite3.Connection, table: Table) -> Rows:
    columns = table.column_names
    order = table.primary_key or (_rowid(columns),)
    rows = connection.execute(
        f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table.name)} "  # noqa: S608
        f"ORDER BY {', '.join(map(quoted, order)) if table.primary_key else order[0]}"
    ).fetchall()
    return Rows(columns, table.primary_key, rows)


def _rowid(columns: tuple[str, ...]) -> str:
    """A name for the rowid that no column has taken (else the first column does)."""
    taken = {column.lower() for column in columns}
    return next((name for name in _ROWIDS if name not in taken), "1")
