"""Two outcomes side by side: whether they are equal, and if not, where, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.judge.canonical import Outcome, Told
from crowdsafe.find.judge.delta import Change
from crowdsafe.find.judge.leaves import shape
from crowdsafe.find.judge.moments import may_be_moment
from crowdsafe.find.judge.volatile import Path, aligned, opened, paired, route
from crowdsafe.find.model import Reply

__all__ = ["Comparison", "compare"]

_SHOWN_MAX = 60
_SECONDS_MAX = 60
_TAG = re.compile(r"<(style|script|head)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spot:
    """One place where two outcomes differ: what it is, and the value in each. ``hard`` ones can
    be no matter of time and chance, ``linked`` ones are of what belongs together only; ``told``
    ones stand in an answer, where a number may count the seconds that are left."""

    where: str
    here: Any
    there: Any
    weight: int = 1
    hard: bool = False
    linked: bool = False
    told: bool = False

    @property
    def soft(self) -> bool:
        """Whether it may be a matter of time, as far as can be told."""
        if self.hard:
            return False
        values = (self.here, self.there)
        if self.told and all(type(value) is int for value in values):
            return bool(abs(self.here - self.there) <= _SECONDS_MAX)
        return all(
            isinstance(value, str | float | bytes)
            or (isinstance(value, int) and may_be_moment(value))
            for value in values
        )


@dataclass(slots=True)
class Comparison:
    """``rows_differ`` and ``answers_differ`` may both be False when only what refers to what
    differs; then it counts as a difference of the answers."""

    equal: bool
    rows_differ: bool = False
    answers_differ: bool = False
    tables: tuple[str, ...] = ()
    spots: list[Spot] = field(default_factory=list)

    @property
    def distance(self) -> tuple[int, int, int]:
        """The nearest is that with the fewest tables, then statuses, then values that differ."""
        return (len(self.tables), int(self.answers_differ), sum(spot.weight for spot in self.spots))

    @property
    def suspects_clock(self) -> bool:
        """Whether only texts, fractions, bytes and times differ, as far as can be told."""
        return not self.equal and all(spot.soft for spot in self.spots)

    def as_repeated(self) -> str:
        """The first difference, of two runs that should be equal."""
        for spot in self.spots:
            return f"{spot.where} is {_shown(spot.here)} one time and {_shown(spot.there)} another"
        return "other rows belong together each time"

    def words(self, others: Sequence[Comparison], most: int) -> list[str]:
        """The differences, with what the other comparisons have at the same places."""
        found: list[str] = []
        for spot in self.spots:
            there = [spot.there]
            for other in others:
                there += [one.there for one in other.spots if one.where == spot.where]
            shown = list(dict.fromkeys(_shown(value) for value in there))
            found.append(f"{spot.where} is {_shown(spot.here)}; one after another it is "
                         f"{' or '.join(shown[:4])}")  # fmt: skip
        if not found and not self.equal:
            found.append("other rows belong together than in any serial order")
        return found[:most]


def compare(here: Outcome, there: Outcome, limits: Sequence[int | None]) -> Comparison:
    """Compare a run with a serial one that ran each operation up to its limit only (None: whole,
    so that even its refusals are compared)."""
    same_answers = _same_answers(here, there, limits)
    if same_answers and here.linked == there.linked:
        return Comparison(equal=True)
    tables = tuple(
        sorted(
            table
            for table in here.rows.keys() | there.rows.keys()
            if here.rows.get(table) != there.rows.get(table)
        )
    )
    spots = [spot for table in tables for spot in _row_spots(table, here, there)]
    answers = list(_answer_spots(here, there, limits)) if not same_answers else []
    found = [*spots, *answers]
    return Comparison(
        equal=False,
        rows_differ=bool(tables),
        answers_differ=bool(answers) or not tables,
        tables=tables,
        spots=[spot for spot in found if not spot.linked] or found,
    )


def _same_answers(here: Outcome, there: Outcome, limits: Sequence[int | None]) -> bool:
    for ours, theirs, limit in zip(here.answers, there.answers, limits, strict=True):
        compared = ours if limit is None else ours[:limit]
        if [one.token for one in compared] != [one.token for one in theirs]:
            return False
    return True


def _row_spots(table: str, here: Outcome, there: Outcome) -> Iterator[Spot]:
    ours, theirs = _only_in(table, here, there), _only_in(table, there, here)
    changed = {change.key: change for change in theirs if not change.is_new}
    for change in [one for one in ours if not one.is_new]:
        yield from _changed_spots(change, changed.pop(change.key, None), here, there)
    for change in changed.values():
        yield from _unchanged_spots(change, here, there)
    new_here = [change for change in ours if change.is_new]
    new_there = [change for change in theirs if change.is_new]
    if len(new_here) != len(new_there):
        count = len(here.delta.new(table)), len(there.delta.new(table))
        yield Spot(f"the number of new rows in {table}", *count, weight=2, hard=True)
        return
    rows = aligned([change.after for change in new_here], [change.after for change in new_there])
    columns = new_here[0].columns if new_here else ()
    for ours_row, theirs_row in rows:
        for column, a, b in zip(columns, ours_row, theirs_row, strict=True):
            if _differs(("row", table, column), here, a, there, b):
                yield Spot(f"{column} of a new row in {table}", a, b)


def _only_in(table: str, one: Outcome, other: Outcome) -> list[Change]:
    left = Counter(other.rows.get(table, ()))
    found: list[Change] = []
    for token, change in one.changes.get(table, ()):
        if left[token]:
            left[token] -= 1
        else:
            found.append(change)
    return found


def _changed_spots(
    here: Change, there: Change | None, one: Outcome, two: Outcome
) -> Iterator[Spot]:
    if here.after is None or (there is not None and there.after is None):
        stayed = there is None or there.after is not None
        words = ("gone" if here.after is None else "there", "there" if stayed else "gone")
        yield Spot(here.label, *words, weight=2, hard=True)
        return
    other = here.before if there is None else there.after
    for column, a, b in zip(here.columns, here.after, other or (), strict=False):
        yield from _cell_spots(f"{here.label}.{column}", here.table, column, (one, a), (two, b))


def _unchanged_spots(there: Change, one: Outcome, two: Outcome) -> Iterator[Spot]:
    if there.after is None:
        yield Spot(there.label, "there", "gone", 2, hard=True)
        return
    for column, a, b in zip(there.columns, there.before or (), there.after, strict=False):
        yield from _cell_spots(f"{there.label}.{column}", there.table, column, (one, a), (two, b))


def _cell_spots(
    where: str, table: str, column: str, here: tuple[Outcome, Any], there: tuple[Outcome, Any]
) -> Iterator[Spot]:
    """Where two values of a column differ: inside of them, where they hold maps and lists."""
    (one, a), (two, b) = here, there
    start: Path = ("row", table, column)
    if not _differs(start, one, a, two, b):
        return
    inside = [
        Spot(".".join((where, *path[len(start) :])), ours, theirs)
        for path, ours, theirs in paired(start, a, b)
        if path != start and _differs(path, one, ours, two, theirs)
    ]
    yield from inside or [Spot(where, opened(a), opened(b))]


def _answer_spots(here: Outcome, there: Outcome, limits: Sequence[int | None]) -> Iterator[Spot]:
    for number, (ours, theirs) in enumerate(zip(here.answers, there.answers, strict=True)):
        limit = limits[number]
        ours = ours if limit is None else ours[:limit]  # noqa: PLW2901
        for one, two in zip(ours, theirs, strict=False):
            if one.token != two.token:
                yield from _reply_spots(number, one, two, here, there)
        if len(ours) != len(theirs):
            yield Spot(
                f"the number of answers to operation {number + 1}", len(ours), len(theirs), 3
            )


def _reply_spots(
    number: int, here: Told, there: Told, one: Outcome, two: Outcome
) -> Iterator[Spot]:
    where = f"the answer to {here.reply.request.split(' {')[0]} (operation {number + 1})"
    if here.refused or there.refused or here.reply.status != there.reply.status:
        yield Spot(where, _verdict(here.reply), _verdict(there.reply), 3, hard=True)
        return
    start: Path = ("answer", route(here.reply.request))
    pairs = [
        pair
        for pair in paired(start, here.reply.body, there.reply.body)
        if _differs(pair[0], one, pair[1], two, pair[2])
    ]
    for path, a, b in pairs:
        name = ".".join(path[2:])
        shown = _told_apart(path, one, a, two, b)
        yield Spot(f"{name} in {where}" if name else where, *shown, told=True)
    ours, theirs = opened(here.reply.body), opened(there.reply.body)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) != len(theirs):
        yield Spot(f"the length of {where}", len(ours), len(theirs), hard=True)
    elif not pairs:
        yield from _whole_spots(where, here, there, one, two)


def _whole_spots(where: str, here: Told, there: Told, one: Outcome, two: Outcome) -> Iterator[Spot]:
    """Where two answers differ that hold the same: in where they lead, or in what they are of."""
    route_of = route(here.reply.request)
    ones, twos = (
        shape(leaves.reply(route_of, told.reply))
        for leaves, told in ((one.leaves, here), (two.leaves, there))
    )
    heads = [
        {name.lower(): text for name, text in told.reply.headers.items()} for told in (here, there)
    ]
    if ones == twos:
        yield Spot(f"what {where} is of", "another row", "its own", hard=True, linked=True)
    elif opened(here.reply.body) != opened(there.reply.body):
        yield Spot(where, opened(here.reply.body), opened(there.reply.body), hard=True)
    elif heads[0].get("location") != heads[1].get("location"):
        yield Spot(f"where {where} leads", heads[0].get("location"), heads[1].get("location"))


def _differs(path: Path, one: Outcome, here: Any, two: Outcome, there: Any) -> bool:
    """Whether a value means something else, as far as can be told without what refers to it."""
    if type(here) is type(there) and here == there:
        return False
    ones, twos = (
        leaves.cell(path[1], path[2], value)
        if path[0] == "row" and len(path) == 3
        else leaves.tree(path, value)
        for leaves, value in ((one.leaves, here), (two.leaves, there))
    )
    return bool(shape(ones) != shape(twos))


def _told_apart(path: Path, one: Outcome, here: Any, two: Outcome, there: Any) -> tuple[Any, Any]:
    """Two pages by the words that only one of them shows; anything else as it is."""
    if not (isinstance(here, str) and isinstance(there, str) and "<" in here and "<" in there):
        return here, there
    ours, theirs = (
        [part for part in _parts(leaves.tree(path, _TAG.sub(" ", text))) if isinstance(part, str)]
        for leaves, text in ((one.leaves, here), (two.leaves, there))
    )
    only_here, only_there = _without(ours, theirs), _without(theirs, ours)
    if not only_here and not only_there:
        return here, there
    return _page(only_here), _page(only_there)


def _parts(tree: Any) -> tuple[Any, ...]:
    return tree[1] if isinstance(tree, tuple) and tree[0] in {"list", "text"} else (tree,)


def _without(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The words, in their order, less as many of each as the others have."""
    left = Counter(others)
    found: list[str] = []
    for word in words:
        if left[word]:
            left[word] -= 1
        else:
            found.append(word)
    return found


def _page(words: Sequence[str]) -> str:
    return f"a page with {' '.join(words)!r}" if words else "a page without that"


def _verdict(reply: Reply) -> str:
    if reply.status is not None:
        return str(reply.status)
    return reply.error or "done"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
