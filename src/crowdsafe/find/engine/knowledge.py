"""What a search knows of the database, and learns from its runs, about what depends on what.

Two things make the search faster and are taken for true until a run says otherwise; then they are
dropped and the search starts over (at most once for each statement and table):

An INSERT *only adds* when the database makes its key, the table has no other unique key, no
trigger, and nobody reads it or changes its rows in any run so far. Two such INSERTs commute: each
adds its own row; which got the lower id is a renaming that the comparison of outcomes undoes, and
nobody looked. Unique indexes that the schema does not tell (on an expression, with a condition)
cannot hide: if two of these rows collide, then one of the statements waits for the other or fails
in every run that has both of them, whatever their order, and such a run is among those made: what
makes an operation come to its INSERT, or not, are reads, whose orders are all tried.

A statement touches no more than its text and the schema tell. When one waits in the database for
an operation that by then did nothing which it depends on (an exclusion constraint, say), it is
taken to touch everything from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crowdsafe.find.database.schema import Schema, Table
from crowdsafe.find.engine.races import whole_touch
from crowdsafe.find.engine.touch import Mode, Rows, Touch, dependent
from crowdsafe.find.engine.trace import Grant
from crowdsafe.find.engine.transactions import Habits, Transactions
from crowdsafe.find.model import Statement, Verb
from crowdsafe.find.sql import values_of

if TYPE_CHECKING:
    from crowdsafe.find.database import Database

__all__ = ["Knowledge"]

_NUMBER = re.compile(r"-?\d{1,30}")
_TEXT = re.compile(r"'((?:[^']|'')*)'")
_PLAIN_TEXT = re.compile(r"char|text|clob|string", re.IGNORECASE)
_UUID = re.compile(r"uuid", re.IGNORECASE)
_KEYS = "#keys"


class Knowledge:
    """Makes the :class:`Transactions` of each run. Without a schema it assumes nothing good."""

    def __init__(self, dialect: str, schema: Schema | None = None) -> None:
        self._dialect = dialect
        self._schema = schema or Schema()
        self._referred = {key.to_table for table in self._schema for key in table.foreign_keys}
        self._read: set[str] = set()
        self._added: set[str] = set()
        self._not_adding: set[str] = set()
        self._unknown: set[str] = set()
        self._habits = Habits()

    @classmethod
    def of(cls, database: Database) -> Knowledge:
        return cls(database.dialect, database.schema())

    def transactions(self) -> Transactions:
        return Transactions(self._dialect, touch_of=self.touch_of, habits=self._habits)

    def touch_of(self, statement: Statement, sql: str, parameters: Any) -> Touch | None:
        """What a statement touches by itself; None: everything."""
        if statement.text in self._unknown:
            return None
        rows = self._rows_of(statement, sql, parameters)
        locks = statement.tables if statement.locks_rows else statement.writes
        write = Mode.LOCK
        if self._only_adds(statement, sql, parameters):
            write = Mode.ADD
            self._added |= statement.writes
        touch: dict[str, tuple[Mode, Rows]] = dict.fromkeys(locks, (write, rows))
        touch.update(dict.fromkeys(statement.reads - locks, (Mode.READ, rows)))
        if self._dialect == "postgresql":
            self._touch_keys(statement, touch, made=self._key_is_made(statement, sql, parameters))
        return touch

    def learn(self, grants: Sequence[Grant]) -> bool:
        """Take in a run; True when the dependencies have to be looked at anew."""
        known = self._known
        for grant in grants:
            step = grant.step
            fails = step.error is not None or bool(step.waited_for)
            if fails and self._only_adds(grant.statement, step.sql, step.parameters):
                self._not_adding |= grant.statement.writes
            self._read |= grant.statement.reads
        for place, grant in enumerate(grants):
            if grant.step.waited_for:
                meanwhile = grants[: _came_through(grants, place)]
                if any(not _explained(meanwhile, grant, who) for who in grant.step.waited_for):
                    self._unknown.add(grant.statement.text)
            if grant.step.error is not None and grant.statement.tables:
                self._habits.failing.add(grant.statement.text)
        spoiled = self._added & self._read
        self._added -= spoiled
        return bool(spoiled) or known != self._known

    @property
    def _known(self) -> int:
        failing = len(self._habits.failing) if self._dialect == "postgresql" else 0
        return failing + len(self._not_adding) + len(self._unknown)

    def _only_adds(self, statement: Statement, sql: str, parameters: Any) -> bool:
        if statement.verb is not Verb.INSERT or len(statement.writes) != 1:
            return False
        (name,) = statement.writes
        table = self._schema.tables.get(name)
        return (
            table is not None
            and name not in self._read
            and name not in self._not_adding
            and not statement.on_conflict
            and not table.unique
            and not table.has_triggers
            and self._key_is_made(statement, sql, parameters)
        )

    def _key_is_made(self, statement: Statement, sql: str, parameters: Any) -> bool:
        """Whether the database makes the key of what is inserted."""
        if statement.verb is not Verb.INSERT or len(statement.writes) != 1:
            return False
        (name,) = statement.writes
        table = self._schema.tables.get(name)
        if table is None or len(table.primary_key) != 1:
            return False
        (key,) = table.primary_key
        values = values_of(statement, sql, parameters)
        generated = any(column.name == key and column.generated for column in table.columns)
        return generated and bool(values) and key not in values

    def _touch_keys(
        self, statement: Statement, touch: dict[str, tuple[Mode, Rows]], *, made: bool
    ) -> None:
        """Foreign keys: a row that refers to another keeps it from being deleted meanwhile, and
        needs it to be there. Whoever refers to a key that was ``made`` by the database has read
        it, which says the same."""
        for name in statement.writes:
            table = self._schema.tables.get(name)
            if table is None:
                continue
            for key in table.foreign_keys:
                touch.setdefault(key.to_table + _KEYS, (Mode.SHARE, None))
        for name in self._referred & statement.tables:
            if name in statement.writes and statement.verb is Verb.INSERT:
                shared = touch.get(name + _KEYS, (Mode(0), None))[0]
                if not made:
                    touch[name + _KEYS] = (Mode.ADD | shared, None)
            elif statement.locks_rows or (
                name in statement.writes and self._changes_key(statement, name)
            ):
                touch[name + _KEYS] = (Mode.LOCK, None)

    def _changes_key(self, statement: Statement, name: str) -> bool:
        if statement.verb is not Verb.UPDATE or statement.columns_written is None:
            return True
        table = self._schema.tables.get(name)
        keys = {column for other in self._schema for key in other.foreign_keys
                if key.to_table == name for column in key.to_columns}  # fmt: skip
        if table is not None:  # a key that could be referred to is locked like one that is
            keys.update(table.primary_key, *table.unique)
        return any((name, column) in statement.columns_written for column in keys)

    def _rows_of(self, statement: Statement, sql: str, parameters: Any) -> Rows:
        """The one row that a statement is confined to by its primary key, if that is sure."""
        if not statement.equalities or len(statement.tables) != 1:
            return None
        (name,) = statement.tables
        table = self._schema.tables.get(name)
        if table is None or not _is_confined(table, statement) or _many_rows(parameters):
            return None
        values = values_of(statement, sql, parameters)
        kinds = {column.name: column.type for column in table.columns}
        parts = [_normal(values.get(c, ""), kinds.get(c, "")) for c in table.primary_key]
        return None if None in parts else frozenset({"|".join(str(part) for part in parts)})


def _came_through(grants: Sequence[Grant], place: int) -> int:
    """How many steps had been taken when a statement that had to wait came through."""
    operation = grants[place].operation
    for number, grant in enumerate(grants[place:], place + 1):
        if any(woken == operation for woken, _ in grant.woke):
            return number
    return place + 1


def _explained(before: Sequence[Grant], grant: Grant, who: int) -> bool:
    """Whether an operation did anything that the statement which waits for it depends on."""
    touch = whole_touch(grant)
    return any(dependent(whole_touch(one), touch) for one in before if one.operation == who)


def _is_confined(table: Table, statement: Statement) -> bool:
    """Whether WHERE fixes the whole primary key, and no key is changed."""
    fixed = {column for column, _ in statement.equalities}
    if not table.primary_key or not fixed.issuperset(table.primary_key):
        return False
    if statement.verb in {Verb.SELECT, Verb.DELETE}:
        return True
    if statement.verb is not Verb.UPDATE or statement.columns_written is None:
        return False
    keys = {*table.primary_key, *(column for unique in table.unique for column in unique)}
    keys |= table.watched
    return all(column not in keys for _, column in statement.columns_written)


def _many_rows(parameters: Any) -> bool:
    return (
        isinstance(parameters, list | tuple)
        and bool(parameters)
        and isinstance(parameters[0], Mapping | list | tuple)
    )


@lru_cache(maxsize=4096)
def _normal(text: str, kind: str) -> str | None:
    """A value of a key of that type such that what the database may take for equal is equal;
    None: unsure, as with a date, which can be written in many ways."""
    quoted = _TEXT.fullmatch(text)
    plain = quoted[1].strip().casefold() if quoted else text
    if _NUMBER.fullmatch(plain):
        return str(int(plain))
    if not quoted or not plain.isascii():
        return None
    if _UUID.search(kind):
        return plain.replace("-", "").strip("{}")
    return plain if _PLAIN_TEXT.search(kind) else None
