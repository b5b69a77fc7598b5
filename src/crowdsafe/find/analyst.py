"""What a statement does in this database: its text, and what the schema makes of it.

Deleting a row reaches into the tables that refer to it, a trigger may do anything, and a name
that is no table is a view or a function's result, of which the text does not tell enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.model import Statement, Verb
from crowdsafe.find.sql import analyse

__all__ = ["Analyse", "analyst"]

Analyse = Callable[[str], Statement]


def analyst(schema: Schema, dialect: str) -> Analyse:
    """A function from the text of a statement to what it does in a database of this schema."""
    referring = _referring(schema)
    triggered = frozenset(name for name, table in schema.tables.items() if table.has_triggers)

    @lru_cache(maxsize=20_000)
    def known(text: str) -> Statement:
        statement = analyse(text, dialect)
        if statement.opaque:
            return statement
        reads = _through_views(statement.reads, schema)
        unknown = (reads | statement.writes) - schema.tables.keys()
        if (unknown and statement.verb is not Verb.DDL) or statement.writes & triggered:
            return replace(statement, opaque=True)
        if reads != statement.reads:
            statement = replace(statement, reads=reads)
        if statement.verb is Verb.DELETE or _changes_keys(statement, schema):
            reached = _closure(statement.writes, referring)
            return replace(statement, writes=statement.writes | reached)
        return statement

    return known


def _through_views(tables: frozenset[str], schema: Schema) -> frozenset[str]:
    """These tables, with the tables that a view reads in place of the view."""
    if not tables & schema.views.keys():
        return tables
    seen = (schema.views.get(name, frozenset({name})) for name in tables)
    return frozenset().union(*seen)


def _referring(schema: Schema) -> dict[str, frozenset[str]]:
    """Table → the tables that have a foreign key to it."""
    found: dict[str, set[str]] = {}
    for name, table in schema.tables.items():
        for key in table.foreign_keys:
            found.setdefault(key.to_table, set()).add(name)
    return {name: frozenset(tables) for name, tables in found.items()}


def _changes_keys(statement: Statement, schema: Schema) -> bool:
    """Whether an UPDATE may change what foreign keys refer to."""
    if statement.verb is not Verb.UPDATE:
        return False
    if statement.columns_written is None:
        return True
    referred = {
        (key.to_table, column)
        for table in schema
        for key in table.foreign_keys
        for column in key.to_columns
    }
    return not referred.isdisjoint(statement.columns_written)


def _closure(tables: frozenset[str], referring: dict[str, frozenset[str]]) -> frozenset[str]:
    reached = set(tables)
    waiting = list(tables)
    while waiting:
        for name in referring.get(waiting.pop(), frozenset()) - reached:
            reached.add(name)
            waiting.append(name)
    return frozenset(reached)
