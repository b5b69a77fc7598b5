# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Reads the rows of PostgreSQL tables as plain Python values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crowdsafe.find.database.postgres_catalog import Relation, quoted
from crowdsafe.find.model import Rows, State

if TYPE_CHECKING:
    import psycopg

__all__ = ["read_tables", "selected"]

_PLAIN = frozenset(
    {"int2", "int4", "int8", "float4", "float8", "bool", "text", "varchar", "bytea", "name", "oid"}
)
_TIMES = frozenset({"timestamp", "timestamptz", "date", "time", "timetz"})


def selected(name: str, kind: str) -> str:
    """The column, in a form that comes out as int, float, str, bytes, bool or None.

    Times come in ISO 8601, JSON in the order and spacing of jsonb, all else as PostgreSQL
    writes it.
    """
    if kind in _PLAIN:
        return name
    if kind in _TIMES:
        return f"to_json({name}) #>> '{{}}'"
    if kind == "json":
        return f"{name}::jsonb::text"
    return f"{name}::text"


def read_tables(
    side: psycopg.Connection[tuple[Any, ...]],
    relations: Iterable[Relation],
    tables: frozenset[str] | None,
) -> State:
    """All rows of those tables (None = all), in one round trip."""
    wanted = [r for r in relations if tables is None or r.table.name in tables]
    with side.pipeline():
        cursors = [side.execute(_query(relation).encode()) for relation in wanted]
    return {
        relation.table.name: Rows(
            relation.table.column_names, relation.table.primary_key, cursor.fetchall()
        )
        for relation, cursor in zip(wanted, cursors, strict=True)
    }


def _query(relation: Relation) -> str:
    columns = [
        selected(quoted(name), kind)
        for name, kind in zip(relation.table.column_names, relation.types, strict=True)
    ]
    order = ", ".join(quoted(name) for name in relation.table.primary_key)
    if not order:
        order = ", ".join(str(place + 1) for place in range(len(columns))) or "1"
    only = "" if relation.parts else "ONLY "
    return f"SELECT {', '.join(columns)} FROM {only}{relation.sql} ORDER BY {order}"
