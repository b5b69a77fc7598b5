"""A run read as events: who read and wrote which rows, in which transaction, seen from when.

Steps are in the order in which they took effect. What a transaction wrote is seen by others from
the place of its COMMIT on; a statement outside of a transaction is seen at once. Rows are told
apart by the values that statements compare and that reads gave; where those do not tell, two
statements on one table may be about the same row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from crowdsafe.find.model import Run, Statement, Step, Verb
from crowdsafe.find.sql import analyse, values_of

__all__ = ["Analyse", "Event", "analyse_for", "events_of", "literal", "may_be_same_row"]

Analyse = Callable[[str], Statement]
"""From the text of a statement to what it does, for one dialect."""

_SQLITE_DRIVERS = frozenset({"sqlite3", "aiosqlite", "sqlite"})
_PARAMETER = re.compile(r"%\(\w+\)s|(?<!:)[:@$](?!:)\w+")
_WRITING = frozenset({Verb.INSERT, Verb.UPDATE, Verb.DELETE, Verb.OTHER})


@dataclass(eq=False, slots=True)
class Event:
    """One statement that reached a table, or ended a transaction.

    ``number`` is its place in the run's steps. ``seen_from`` is the place from which others see
    what it wrote (None: never, it was rolled back), ``transaction`` tells the transactions of a
    run apart. ``sets`` are the columns that it assigns or inserts, ``where`` those that it
    compares and does not assign, ``given`` the rows that it read as columns → literals.
    """

    number: int
    step: Step
    statement: Statement
    transaction: int
    seen_from: int | None = None
    sets: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    given: tuple[dict[str, str], ...] = ()

    @property
    def operation(self) -> int:
        return self.step.operation

    @property
    def verb(self) -> Verb:
        return self.statement.verb

    @property
    def writes(self) -> frozenset[str]:
        return self.statement.writes

    @property
    def inserts(self) -> bool:
        return self.verb is Verb.INSERT

    @property
    def looks(self) -> frozenset[str]:
        """The tables that it reads for the program to see, or to decide what it inserts: not an
        UPDATE's own row, unless there was none, which is something to know as well."""
        statement = self.statement
        if self.missed_all:
            return statement.tables
        if self.inserts and not statement.on_conflict and len(statement.writes) == 1:
            return statement.reads
        if self.verb is Verb.SELECT or (statement.reads and not statement.writes):
            return statement.reads
        return statement.reads - statement.writes

    @property
    def missed_all(self) -> bool:
        """Whether an UPDATE or a DELETE is known to have met no row."""
        return self.verb in {Verb.UPDATE, Verb.DELETE} and self.step.rowcount == 0

    @property
    def in_place(self) -> bool:
        """Whether an UPDATE counts from the row as it is (``n = n - 1``)."""
        return any(_mentions(value, column) for column, value in self.statement.assignments)

    @property
    def found_nothing(self) -> bool:
        """Whether a read is known to have found no row, or counted none."""
        if self.step.rows is None:
            return self.step.rowcount == 0 and self.verb in {Verb.SELECT, Verb.UPDATE}
        if not self.step.rows:
            return True
        return len(self.step.rows) == 1 and all(
            value in (0, None, False) for value in self.step.rows[0]
        )


def analyse_for(run: Run) -> Analyse:
    """The analysis that fits the driver of a run."""
    sqlite = any(step.driver.lower() in _SQLITE_DRIVERS for step in run.steps)
    dialect = "sqlite" if sqlite else "postgresql"
    return lambda text: analyse(text, dialect)


def events_of(run: Run, analyse: Analyse | None = None, *, failed: bool = False) -> list[Event]:
    """The steps of a run as events, in order; with ``failed`` also those that failed, which
    nobody ever sees anything of."""
    analyse = analyse or analyse_for(run)
    events: list[Event] = []
    open_: dict[tuple[int, int], list[Event]] = {}
    for number, step in enumerate(run.steps):
        if step.error is not None:
            if failed:
                events.append(_event(number, step, analyse(step.sql)))
            continue
        event = _event(number, step, analyse(step.sql))
        events.append(event)
        group = open_.setdefault((step.operation, step.connection), [])
        if event.verb is Verb.BEGIN:
            _alone(group)
            group.append(event)
        elif event.statement.ends_transaction:
            _end(group, event)
        else:
            group.append(event)
    for group in open_.values():
        if not (group and group[0].verb is Verb.BEGIN):
            _alone(group)
    return events


def _event(number: int, step: Step, statement: Statement) -> Event:
    event = Event(number, step, statement, transaction=number)
    values = _values(statement, step)
    compared = {_bare(column) for column, _ in statement.equalities}
    assigned = {_bare(column) for column, _ in statement.assignments}
    for column, value in values.items():
        name = _bare(column)
        if name in assigned or (statement.verb is Verb.INSERT and name not in compared):
            event.sets[name] = value
        else:
            event.where[name] = value
    event.given = tuple(_given(step, statement.reads))
    return event


def _values(statement: Statement, step: Step) -> dict[str, str]:
    if not statement.tables:
        return {}
    return values_of(statement, step.sql, step.parameters)


def _given(step: Step, tables: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows that were read; ``stock_on_hand`` of ``stock`` is its ``on_hand`` too."""
    if not step.rows or not step.columns:
        return
    prefixes = tuple(f"{table.rpartition('.')[2]}_" for table in tables)
    for row in step.rows:
        known: dict[str, str] = {}
        for column, value in zip(step.columns, row, strict=False):
            name = _bare(str(column))
            known[name] = literal(value)
            for prefix in prefixes:
                if name.startswith(prefix):
                    known.setdefault(name.removeprefix(prefix), literal(value))
        yield known


def _end(group: list[Event], end: Event) -> None:
    committed = end.verb is Verb.COMMIT
    number = group[0].number if group else end.number
    for event in (*group, end):
        event.transaction = number
        event.seen_from = end.number if committed else None
    group.clear()


def _alone(group: list[Event]) -> None:
    for event in group:
        event.seen_from = event.number
    group.clear()


def may_be_same_row(one: Event, other: Event) -> bool:
    """Whether two statements on one table can be about the same row, as far as they tell."""
    for name in one.where.keys() & other.where.keys():
        if name not in one.sets and name not in other.sets and _plain(one.where[name]):
            same = _loosely(one.where[name]) == _loosely(other.where[name])
            if not same and _plain(other.where[name]):
                return False
    return not (_not_among(one, other) or _not_among(other, one))


def _not_among(reader: Event, writer: Event) -> bool:
    """Whether the rows that were read are known, and none is the one that was written."""
    if not reader.given or len(reader.given) >= _KEPT_ROWS_MAX:
        return False
    for name, value in writer.where.items():
        if _plain(value) and all(name in row for row in reader.given):
            return all(_loosely(row[name]) != _loosely(value) for row in reader.given)
    return False


_KEPT_ROWS_MAX = 20


def literal(value: Any) -> str:
    """A value as SQL writes it, as :func:`crowdsafe.find.sql.values_of` does."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"x'{bytes(value[:40]).hex()}'"
    return "'" + str(value)[:200].replace("'", "''") + "'"


def _plain(value: str) -> bool:
    """Whether it is a literal: a number, a text, a truth."""
    return value[:1] in "'-0123456789" or value in {"NULL", "TRUE", "FALSE"}


def _loosely(value: str) -> str:
    """``7`` and ``'7'`` are one key; so are ``TRUE`` and ``1``."""
    return {"TRUE": "1", "FALSE": "0"}.get(value, value.strip("'"))


def _bare(column: str) -> str:
    return column.rpartition(".")[2].strip('"').lower()


@lru_cache(maxsize=4096)
def _mentions(expression: str, column: str) -> bool:
    """Whether the column itself is in there; a parameter of its name says nothing."""
    plain = _PARAMETER.sub(" ", expression.lower())
    words: Sequence[str] = "".join(
        letter if letter.isalnum() or letter == "_" else " " for letter in plain
    ).split()
    return _bare(column) in words
