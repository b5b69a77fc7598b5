"""What a run changed: its rows against those that were there before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.model import Rows, State

__all__ = ["Change", "Delta", "delta_of", "frozen"]

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One row that is not what it was. ``before`` is None for a new row, ``after`` for one that
    is gone; ``key`` are the values of its primary key, () where the table has none."""

    table: str
    columns: tuple[str, ...]
    key_columns: tuple[str, ...]
    key: Row
    before: Row | None
    after: Row | None

    @property
    def is_new(self) -> bool:
        return self.before is None

    def cells(self) -> dict[str, Any]:
        """The columns that the run set: all of a new row, else those that are not as before."""
        if self.after is None:
            return {}
        if self.before is None:
            return dict(zip(self.columns, self.after, strict=True))
        rows = zip(self.columns, self.before, self.after, strict=True)
        return {column: now for column, was, now in rows if now != was}

    @property
    def label(self) -> str:
        """The row in words: ``stock[id=1]``."""
        if not self.key:
            return self.table
        pairs = zip(self.key_columns, self.key, strict=True)
        return f"{self.table}[{', '.join(f'{name}={value}' for name, value in pairs)}]"


@dataclass(frozen=True, slots=True)
class Delta:
    """All changes of a run, by table."""

    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    def new(self, table: str) -> list[Change]:
        return [change for change in self.changes.get(table, ()) if change.is_new]


def delta_of(state: State, base: State) -> Delta:
    """Compare a state with the one before. A table that ``base`` does not have was empty; one
    that ``state`` does not have was not looked at, and counts as unchanged."""
    found: dict[str, tuple[Change, ...]] = {}
    for table, rows in state.items():
        old = base.get(table)
        if old is rows:
            continue
        changes = _changes(table, rows, old or Rows(rows.columns, rows.key, []))
        if changes:
            found[table] = tuple(changes)
    return Delta(found)


def _changes(table: str, now: Rows, old: Rows) -> list[Change]:
    if old.columns != now.columns:
        old = _reordered(old, now.columns)
    places = _places(now)
    ours, theirs = _hashable(now.rows), _hashable(old.rows)
    made, gone = _difference(ours, theirs), _difference(theirs, ours)
    if not places:
        counts = Counter(ours), Counter(theirs)
        made, gone = (
            list((counts[0] - counts[1]).elements()),
            list((counts[1] - counts[0]).elements()),
        )
    names = tuple(now.key) if places else ()
    before = {tuple(row[place] for place in places): row for row in gone} if places else {}
    changes: list[Change] = []
    for row in made:
        key = tuple(row[place] for place in places)
        was = before.pop(key, None) if places else None
        changes.append(Change(table, now.columns, names, key, was, row))
    left = before.items() if places else (((), row) for row in gone)
    return changes + [Change(table, now.columns, names, key, row, None) for key, row in left]


def _difference(rows: list[Row], others: list[Row]) -> list[Row]:
    known = set(others)
    return [row for row in rows if row not in known]


def _hashable(rows: list[Row]) -> list[Row]:
    try:
        hash(tuple(rows))
    except TypeError:
        return [frozen(row) for row in rows]
    return rows


def _places(rows: Rows) -> Sequence[int]:
    """Where the key's columns stand; none when the key does not tell the rows apart (SQLite
    allows NULL in it)."""
    if not rows.key or not set(rows.key) <= set(rows.columns):
        return ()
    places = [rows.columns.index(name) for name in rows.key]
    if any(row[place] is None for row in rows.rows for place in places):
        return ()
    return places


def _reordered(rows: Rows, columns: tuple[str, ...]) -> Rows:
    """A table whose columns a run changed: those that it does not have any more are dropped."""
    places = [rows.columns.index(name) if name in rows.columns else None for name in columns]
    moved = [tuple(None if place is None else row[place] for place in places) for row in rows.rows]
    return Rows(columns, rows.key, moved)


def frozen(value: Any) -> Any:
    """The same value in a form that can be a key."""
    if isinstance(value, dict):
        return tuple(sorted((str(name), frozen(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    return value
