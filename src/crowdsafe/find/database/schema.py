"""What the finder knows of a database's tables: columns, keys and what refers to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Column", "ForeignKey", "Schema", "Table"]


@dataclass(frozen=True, slots=True)
class Column:
    """``type`` as the database declares it, lower case; ``generated`` when the database computes
    the value (a generated column, an identity, a serial's default, SQLite's rowid alias)."""

    name: str
    type: str = ""
    nullable: bool = True
    generated: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """``columns`` of this table refer to ``to_columns`` of ``to_table``, place by place."""

    columns: tuple[str, ...]
    to_table: str
    to_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table. ``name`` is spelled as in a :class:`~crowdsafe.find.model.Statement`: lower
    case, with its schema only where that is not ``public`` or ``main``. ``unique`` holds the
    columns of each unique key besides the primary one; one on an expression or with a condition
    is in none, and ``watched`` are the columns that such keys, or exclusion constraints, look at.
    ``has_triggers`` when a write to it may run other statements, ``has_policies`` when a read
    of it may."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    has_triggers: bool = False
    has_policies: bool = False
    watched: frozenset[str] = frozenset()

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Schema:
    """All tables by name, and ``views`` with the tables that each reads where that is known.

    ``functions`` are those of the database's users that may look at tables, lower case. A name
    without a schema may mean a table of any schema: ``homonyms`` has all that it may mean where
    that is another one than the name itself, or more than one. ``sequences`` are their names,
    without a schema.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    views: Mapping[str, frozenset[str]] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()
    homonyms: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sequences: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Table]:
        return iter(self.tables.values())
