# ruff: noqa: S608  (all names are quoted, and come from the catalogue)
"""Reads the rows of PostgreSQL tables as plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crowdsafe.find.database.postgres_catalog import Relation, quoted
from crowdsafe.find.database.postgres_restore import Taken
from crowdsafe.find.model import Rows

if TYPE_CHECKING:
    import psycopg

__all__ = ["changes_query", "rows_query", "run_queries"]

_PLAIN = frozenset(
    {"int2", "int4", "int8", "float4", "float8", "bool", "text", "varchar", "bytea", "name", "oid"}
)
_TIMES = frozenset({"timestamp", "timestamptz", "date", "time", "timetz"})


def run_queries(
    side: psycopg.Connection[tuple[Any, ...]], queries: Sequence[tuple[Relation, str]]
) -> dict[str, Rows]:
    """The rows that each query gives, in one round trip."""
    if len(queries) == 1:
        cursors = [side.execute(queries[0][1].encode())]
    else:
        with side.pipeline():
            cursors = [side.execute(query.encode()) for _, query in queries]
    return {
        relation.table.name: Rows(
            relation.table.column_names, relation.table.primary_key, cursor.fetchall()
        )
        for (relation, _), cursor in zip(queries, cursors, strict=True)
    }


def rows_query(relation: Relation) -> str:
    """All rows, in the order of the primary key (without one: in the order of the columns)."""
    columns = _columns(relation, "x")
    order = _key(relation, "x") or ", ".join(str(n + 1) for n in range(len(columns))) or "1"
    return f"SELECT {', '.join(columns)} FROM {relation.rows_of} x ORDER BY {order}"


def changes_query(taken: Taken) -> str:
    """The rows that differ from what was kept; one that is gone has its key only, all else NULL."""
    relation = taken.relation
    key = set(relation.table.primary_key)
    values = [
        _column(f"k.{quoted(name)}" if name in key else f"x.{quoted(name)}", kind)
        for name, kind in zip(relation.table.column_names, relation.types, strict=True)
    ]
    keys = (
        f"(SELECT DISTINCT {taken.key} FROM (SELECT {taken.key} FROM {taken.touched}"
        f" UNION ALL SELECT {taken.key} FROM {taken.kept} WHERE EXISTS"
        f" (SELECT 1 FROM crowdsafe_find.dirty WHERE n = {taken.number + 1000000})) touched) k"
    )
    return (
        f"SELECT {', '.join(values)} FROM {keys}"
        f" LEFT JOIN {relation.rows_of} x ON {taken.same_key('x', 'k')}"
        f" LEFT JOIN {taken.kept} s ON {taken.same_key('s', 'k')}"
        f" WHERE {_as_text(relation, 'x')} IS DISTINCT FROM {_as_text(relation, 's')}"
        f" ORDER BY {_key(relation, 'k')}"
    )


def _as_text(relation: Relation, alias: str) -> str:
    return f"ROW({', '.join(f'{alias}.{quoted(n)}' for n in relation.table.column_names)})::text"


def _key(relation: Relation, alias: str) -> str:
    return ", ".join(f"{alias}.{quoted(name)}" for name in relation.table.primary_key)


def _columns(relation: Relation, alias: str) -> list[str]:
    return [
        _column(f"{alias}.{quoted(name)}", kind)
        for name, kind in zip(relation.table.column_names, relation.types, strict=True)
    ]


def _column(name: str, kind: str) -> str:
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
