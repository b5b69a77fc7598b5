"""What a statement does in this database: its text, and what the schema makes of it.

Deleting a row reaches into the tables that refer to it, a trigger or a function of the
database's users may do anything, and a name that is no table is a view or a function's result,
of which the text does not tell enough. A name without a schema means what the search path says,
which the text does not tell either: it counts as every table of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.model import Statement, Verb
from crowdsafe.find.sql import analyse

__all__ = ["Analyse", "analyst", "reader"]

Analyse = Callable[[str], Statement]

_REPLACES = re.compile(r"\b(or\s+replace|replace\s+into)\b", re.IGNORECASE)


def analyst(schema: Schema, dialect: str) -> Analyse:
    """A function from the text of a statement to what it does in a database of this schema."""
    referring = _referring(schema)
    triggered = frozenset(table.name for table in schema if table.has_triggers)
    guarded = frozenset(table.name for table in schema if table.has_policies)
    calls = _calls(schema.functions)

    @lru_cache(maxsize=20_000)
    def known(text: str) -> Statement:
        statement = analyse(text, dialect)
        if statement.opaque:
            return statement
        statement = _with_homonyms(statement, schema)
        reads = _through_views(statement.reads, schema)
        if reads != statement.reads:
            statement = replace(statement, reads=reads)
        if _deletes(statement) or _changes_keys(statement, schema):
            reached = _closure(statement.writes, referring)
            statement = replace(statement, writes=statement.writes | reached)
        unknown = statement.verb is not Verb.DDL and statement.tables - schema.tables.keys()
        runs_more = statement.writes & triggered or statement.tables & guarded
        if unknown or runs_more or (calls is not None and calls.search(text)):
            counts = any(name.rpartition(".")[2] in schema.sequences for name in unknown or ())
            return replace(statement, opaque=True, counts=statement.counts or counts)
        return statement

    return known


def reader(schema: Schema, dialect: str) -> Analyse:
    """A function from the text of a statement to what its text says, to name it by: a view of one
    table is that table, and what triggers do besides is left out."""
    stands_for = {view: one for view, tables in schema.views.items() for one in _only(tables)}

    def table_of(name: str) -> str:
        return stands_for.get(name, name)

    def columns_of(
        columns: frozenset[tuple[str, str]] | None,
    ) -> frozenset[tuple[str, str]] | None:
        if columns is None:
            return None
        return frozenset((table_of(name), column) for name, column in columns)

    def said(text: str) -> Statement:
        statement = _with_homonyms(analyse(text, dialect), schema)
        if statement.tables.isdisjoint(schema.views.keys()):
            return statement
        return replace(
            statement,
            reads=_through_views(statement.reads, schema),
            writes=frozenset(map(table_of, statement.writes)),
            columns_read=columns_of(statement.columns_read),
            columns_written=columns_of(statement.columns_written),
        )

    return said


def _only(tables: frozenset[str]) -> list[str]:
    return list(tables) if len(tables) == 1 else []


def _calls(functions: frozenset[str]) -> re.Pattern[str] | None:
    """What finds a call of one of these functions in a text."""
    if not functions:
        return None
    names = "|".join(re.escape(name) for name in sorted(functions))
    return re.compile(rf'(?<![\w$])({names})"?\s*\(', re.IGNORECASE)


def _with_homonyms(statement: Statement, schema: Schema) -> Statement:
    """The same statement about every table that its names may mean."""
    meant = schema.homonyms
    if statement.tables.isdisjoint(meant):
        return statement

    def all_of(names: frozenset[str]) -> frozenset[str]:
        return frozenset().union(*(meant.get(name, frozenset({name})) for name in names))

    def columns_of(
        columns: frozenset[tuple[str, str]] | None,
    ) -> frozenset[tuple[str, str]] | None:
        if columns is None:
            return None
        return frozenset((t, column) for name, column in columns for t in all_of(frozenset({name})))

    return replace(
        statement,
        reads=all_of(statement.reads),
        writes=all_of(statement.writes),
        columns_read=columns_of(statement.columns_read),
        columns_written=columns_of(statement.columns_written),
    )


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


def _deletes(statement: Statement) -> bool:
    """Whether it may delete rows: REPLACE deletes those that are in its way."""
    return statement.verb is Verb.DELETE or _REPLACES.search(statement.text) is not None


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
