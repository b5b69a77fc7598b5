"""Learns what is volatile from two runs of the same operations in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.canonical import is_refused
from crowdsafe.find.judge.delta import Change, Delta
from crowdsafe.find.judge.leaves import Leaves, Tree, domains_of, is_key, located, shape
from crowdsafe.find.judge.moments import Window
from crowdsafe.find.judge.volatile import Domain, Habits, Path, aligned, paired, route
from crowdsafe.find.model import Reply, Run

__all__ = ["Seen", "learn_pair"]

_WORDS_MAX = 4000


@dataclass(frozen=True, slots=True)
class Seen:
    """A run with what it changed and when it was looked at."""

    run: Run
    delta: Delta
    window: Window


Pair = tuple[Path, Any, Any]


def learn_pair(schema: Schema, habits: Habits, one: Seen, two: Seen) -> None:
    """Add to ``habits`` where these two runs differ. They must be of one serial order."""
    pairs = [
        *_row_pairs(one.delta, two.delta),
        *_touched_once(one.delta, two.delta),
        *_answer_pairs(one.run, two.run),
    ]
    different = [(path, a, b) for path, a, b in pairs if a != b or type(a) is not type(b)]
    habits.seen |= {path for path, _, _ in pairs}
    habits.volatile |= {path for path, _, _ in different}
    _learn_keys(schema, habits)
    first = Leaves(schema, habits, one.delta, one.window)
    second = Leaves(schema, habits, two.delta, two.window)
    for path, a, b in different:
        if _int(a) >= 0 and _int(b) >= 0:
            _learn_home(habits, path, first.numbers.get(_int(a)), second.numbers.get(_int(b)))
    for path, a, b in different:
        _learn_noise(habits, path, first.tree(path, a), second.tree(path, b))
    for path, a, b in different:
        if shape(first.tree(path, a)) != shape(second.tree(path, b)):
            habits.masked.add(path)


def _row_pairs(one: Delta, two: Delta) -> Iterator[Pair]:
    for table in one.changes.keys() & two.changes.keys():
        for a, b in _same_rows(list(one.changes[table]), list(two.changes[table])):
            if a.after is None or b.after is None:
                continue
            ours = dict(zip(a.columns, a.after, strict=True))
            theirs = dict(zip(b.columns, b.after, strict=True))
            for column in a.cells().keys() | b.cells().keys():
                if column in ours and column in theirs:
                    yield from paired(("row", table, column), ours[column], theirs[column])


def _touched_once(one: Delta, two: Delta) -> Iterator[Pair]:
    """The texts of rows that only one of the runs changed: written in the second in which they
    were made, they may be as before."""
    for here, there in ((one, two), (two, one)):
        for table, changes in here.changes.items():
            others = {change.key for change in there.changes.get(table, ())}
            for change in changes:
                if change.before is None or change.after is None or change.key in others:
                    continue
                was = dict(zip(change.columns, change.before, strict=True))
                for column, value in change.cells().items():
                    if isinstance(value, str | bytes | float):
                        yield ("row", table, column), was[column], value


def _same_rows(one: list[Change], two: list[Change]) -> Iterator[tuple[Change, Change]]:
    """Changed rows by their key; new ones, whose keys may be drawn, by what they hold."""
    changed = {change.key: change for change in two if not change.is_new}
    yield from (
        (change, changed[change.key])
        for change in one
        if not change.is_new and change.key in changed
    )
    ones = sorted((change for change in one if change.is_new), key=_order)
    twos = sorted((change for change in two if change.is_new), key=_order)
    rows = aligned([change.after for change in ones], [change.after for change in twos])
    by_row = {id(change.after): change for change in [*ones, *twos]}
    yield from ((by_row[id(a)], by_row[id(b)]) for a, b in rows)


def _order(change: Change) -> tuple[Any, ...]:
    return tuple((type(value).__name__, value if isinstance(value, int | str) else 0)
                 for value in change.key)  # fmt: skip


def _answer_pairs(one: Run, two: Run) -> Iterator[Pair]:
    for ones, twos in zip(one.answers, two.answers, strict=False):
        for a, b in zip(ones.replies, twos.replies, strict=False):
            if not is_refused(a) and not is_refused(b):
                yield from _reply_pairs(a, b)


def _reply_pairs(one: Reply, two: Reply) -> Iterator[Pair]:
    path: Path = ("answer", route(one.request))
    yield from paired(path, one.body, two.body)
    heads = [{name.lower(): text for name, text in reply.headers.items()} for reply in (one, two)]
    if all("location" in head for head in heads):
        (where, ones, address), (there, twos, other) = (
            located(path, head["location"]) for head in heads
        )
        if where == there:
            yield from paired(where, ones, twos)
            yield (*where, "address"), address, other
    if all("etag" in head for head in heads):
        yield (*path, "etag"), heads[0]["etag"], heads[1]["etag"]


def _learn_keys(schema: Schema, habits: Habits) -> None:
    """Keys that differ are nodes; generated ones were moved on."""
    domains = domains_of(schema)
    for table in schema:
        for column in table.column_names:
            place: Domain = (table.name, column)
            if ("row", *place) not in habits.volatile:
                continue
            if domains.get(place) == place:
                habits.moved.add(place)
            elif place not in domains and is_key(table, column):
                habits.nodes.add(place)


def _learn_home(
    habits: Habits, path: Path, ones: set[Domain] | None, twos: set[Domain] | None
) -> None:
    found = frozenset((ones or set()) & (twos or set()))
    known = habits.homes.get(path)
    habits.homes[path] = found if not known else (known & found or known)


def _int(value: Any) -> int:
    """A number, also where it is written as a text; -1 for anything else."""
    if isinstance(value, bool):
        return -1
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 19 else -1


def _learn_noise(habits: Habits, path: Path, one: Tree, two: Tree) -> None:
    """The words of two texts that differ, by the word before them."""
    if not _is_text(one) or not _is_text(two):
        return
    a, b = [[shape(part) for part in tree[1][:_WORDS_MAX]] for tree in (one, two)]
    if a == b:
        return
    for kind, start, end, other, last in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "replace" and end - start == last - other:
            for place in range(start, end):
                before = a[place - 1] if place else ""
                habits.noise.add((path, before if isinstance(before, str) else ""))


def _is_text(tree: Tree) -> bool:
    return isinstance(tree, tuple) and tree[0] in {"text", "list"}
