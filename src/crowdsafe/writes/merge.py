"""Three-way merge of the fields of one record, as a pure function.

The rule is diff3's for lines, applied to fields: a side that left a field as it was does not count.
``web/static/merge.js`` is the same function; one file of cases holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Merge", "merge", "same"]


@dataclass(frozen=True, slots=True)
class Merge:
    """``merged`` holds every field that needs no decision, ``conflicts`` the others, each as
    (base, yours, theirs)."""

    merged: dict[str, Any]
    conflicts: dict[str, tuple[Any, Any, Any]]


def merge(base: Mapping[str, Any], yours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Merge:
    """Merge two edits of one base, field by field.

    A field missing from ``yours`` or ``theirs`` is unchanged by that side; one missing from
    ``base`` counts as None. Lists and dicts are values: compared whole, never merged inside.

    >>> merge({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 3}).merged
    {'a': 2, 'b': 3}
    """
    merged: dict[str, Any] = {}
    conflicts: dict[str, tuple[Any, Any, Any]] = {}
    for name in {**base, **yours, **theirs}:
        before = base.get(name)
        mine = yours.get(name, before)
        other = theirs.get(name, before)
        if same(mine, before):
            merged[name] = other
        elif same(other, before) or same(mine, other):
            merged[name] = mine
        else:
            conflicts[name] = (before, mine, other)
    return Merge(merged, conflicts)


def same(a: Any, b: Any) -> bool:
    """JSON's equality: 1 equals 1.0, True is not 1, lists in order, dicts by keys."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
