"""What a run changed: its rows against those that were there before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.model import Rows, State

__all__ = ["Change", "Delta", "delta_of"]

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
    places = _places(now)
    if old.columns != now.columns:
        old = _reordered(old, now.columns)
    if not places:
        return _without_key(table, now, old)
    before = {tuple(row[place] for place in places): row for row in old.rows}
    after = {tuple(row[place] for place in places): row for row in now.rows}
    names = tuple(now.key)
    changes = [
        Change(table, now.columns, names, key, before.get(key), row)
        for key, row in after.items()
        if before.get(key) != row
    ]
    changes += [
        Change(table, now.columns, names, key, row, None)
        for key, row in before.items()
        if key not in after
    ]
    return changes


def _places(rows: Rows) -> Sequence[int]:
    """Where the key's columns stand; none when the key does not tell the rows apart (SQLite
    allows NULL in it)."""
    if not rows.key or not set(rows.key) <= set(rows.columns):
        return ()
    places = [rows.columns.index(name) for name in rows.key]
    if any(row[place] is None for row in rows.rows for place in places):
        return ()
    return places


def _without_key(table: str, now: Rows, old: Rows) -> list[Change]:
    before, after = Counter(map(frozen, old.rows)), Counter(map(frozen, now.rows))
    made = [Change(table, now.columns, (), (), None, row) for row in (after - before).elements()]
    gone = [Change(table, now.columns, (), (), row, None) for row in (before - after).elements()]
    return made + gone


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
