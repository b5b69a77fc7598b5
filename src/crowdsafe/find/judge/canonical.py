"""An outcome in a form in which two outcomes are equal when they mean the same.

Ids that a run made, and whatever else was drawn for it, become *nodes*: what matters is not
their value but what refers to them. Each node gets a colour from the rows and answers that it
stands in, and from the colours in there, round after round until no more nodes can be told
apart (colour refinement; Weisfeiler and Leman 1968). Rows, and the elements of lists, are
compared as multisets. Two outcomes whose nodes differ only in ways that refinement cannot tell
(regular graphs) are taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.delta import Change, Delta
from crowdsafe.find.judge.leaves import Leaves, Ref, Tree, domains_of
from crowdsafe.find.judge.moments import MOMENT, Window
from crowdsafe.find.judge.volatile import Domain, Habits, Path, route
from crowdsafe.find.model import Reply, Run

__all__ = ["Canon", "Outcome", "Told"]

_ROUNDS_MAX = 6


@dataclass(frozen=True, slots=True)
class Told:
    """One reply as it is compared: of a refused one only that, and with what status."""

    reply: Reply
    refused: bool
    token: int


@dataclass
class Outcome:
    """What came out of a run. Tokens are equal for what is equal, within one :class:`Canon`.

    ``linked`` tells the changed rows together with what the answers say of them, and so do the
    tokens of ``answers``.
    """

    delta: Delta
    leaves: Leaves
    answers: list[list[Told]]
    linked: tuple[int, ...]
    of_rows_alone: Callable[[], dict[str, list[tuple[int, Change]]]]

    @cached_property
    def changes(self) -> dict[str, list[tuple[int, Change]]]:
        """The changed rows by table, each with its token, which the answers have no part in."""
        return self.of_rows_alone()

    @cached_property
    def rows(self) -> dict[str, tuple[int, ...]]:
        """The tokens of :attr:`changes`, sorted."""
        return {
            table: tuple(sorted(token for token, _ in ones)) for table, ones in self.changes.items()
        }


@dataclass(slots=True)
class _Entity:
    """A row or a reply: its label (what it is, told by no id) and its tree."""

    label: Hashable
    path: Path
    tree: Tree
    is_row: bool
    change: Change | None = None


@dataclass(slots=True)
class Canon:
    """Makes outcomes comparable; all that are compared must come from the same one."""

    schema: Schema
    habits: Habits
    _names: dict[Hashable, int] = field(default_factory=dict)
    _domains: dict[tuple[str, str], Domain] = field(init=False)

    def __post_init__(self) -> None:
        self._domains = domains_of(self.schema)

    def outcome(
        self, run: Run, delta: Delta, window: Window, limits: Sequence[int | None] = ()
    ) -> Outcome:
        """``limits`` are those that the run was made with, if any."""
        whole = [limit is None for limit in limits] or [True] * len(run.answers)
        leaves = Leaves(self.schema, self.habits, delta, window, self._domains)
        rows = list(self._row_entities(delta, leaves))
        told = [
            [
                self._reply_entity(
                    number, place, reply, leaves, last=whole[number] and reply is ones[-1]
                )
                for place, reply in enumerate(ones)
            ]
            for number, ones in enumerate(answer.replies for answer in run.answers)
        ]
        replies = [entity for ones in told for entity in ones]
        colours = self._colours([*rows, *replies])
        answers = [
            [
                Told(reply, is_refused(reply), self._token(entity, colours))
                for reply, entity in zip(answer.replies, ones, strict=True)
            ]
            for answer, ones in zip(run.answers, told, strict=True)
        ]
        linked = tuple(sorted(self._token(entity, colours) for entity in rows))
        return Outcome(delta, leaves, answers, linked, partial(self._rows_alone, rows))

    def _rows_alone(self, rows: list[_Entity]) -> dict[str, list[tuple[int, Change]]]:
        colours = self._colours(rows)
        changes: dict[str, list[tuple[int, Change]]] = {}
        for entity in rows:
            if entity.change is not None:
                token = self._token(entity, colours)
                changes.setdefault(entity.change.table, []).append((token, entity.change))
        return changes

    def _row_entities(self, delta: Delta, leaves: Leaves) -> Iterator[_Entity]:
        for table, changes in delta.changes.items():
            for change in changes:
                path = ("row", table)
                if change.after is None:
                    yield _Entity(("gone", table, repr(change.before)), path, None, True, change)
                    continue
                cells = self._compared(change, leaves)
                if not cells:
                    continue
                label = ("new", table) if change.is_new else ("changed", table, repr(change.key))
                yield _Entity(label, path, leaves.row(table, cells), True, change)

    def _compared(self, change: Change, leaves: Leaves) -> dict[str, Any]:
        """Its cells, without the times and the volatile texts of a row that was there before:
        whether such a one (last seen, a signed session) changed may be a matter of the clock."""
        if change.is_new:
            return change.cells()
        return {
            column: value
            for column, value in change.cells().items()
            if not self._is_touch(("row", change.table, column), value, leaves)
        }

    def _is_touch(self, path: Path, value: Any, leaves: Leaves) -> bool:
        if isinstance(value, str | bytes | float) and path in self.habits.volatile:
            return True
        return leaves.tree(path, value) in {MOMENT, ("text", (MOMENT,))}

    def _reply_entity(
        self, number: int, place: int, reply: Reply, leaves: Leaves, *, last: bool
    ) -> _Entity:
        label = ("answer", number, place, reply.status, reply.error if is_refused(reply) else None)
        if is_refused(reply) or is_preparation(reply, last=last):
            return _Entity(label, (), None, False)
        return _Entity(label, (), leaves.reply(route(reply.request), reply), False)

    def _name(self, what: Hashable) -> int:
        return self._names.setdefault(what, len(self._names))

    def _token(self, entity: _Entity, colours: Mapping[Ref, int]) -> int:
        return self._name((entity.label, self._sign(entity.tree, colours)))

    def _sign(self, tree: Tree, colours: Mapping[Ref, int]) -> Hashable:
        """A tree with its nodes replaced by their colours, and what has no order sorted."""
        if isinstance(tree, Ref):
            return ("node", colours[tree])
        if not isinstance(tree, tuple):
            return tree if tree is None else (type(tree).__name__, tree)
        kind, parts = tree
        if kind == "list":
            return (kind, tuple(sorted(self._name(self._sign(part, colours)) for part in parts)))
        if kind == "map":
            pairs = ((self._sign(k, colours), self._sign(v, colours)) for k, v in parts)
            return (kind, tuple(sorted(self._name(pair) for pair in pairs)))
        if kind == "text":
            return (kind, tuple(self._sign(part, colours) for part in parts))
        return tree

    def _colours(self, entities: list[_Entity]) -> dict[Ref, int]:
        """Refine until no more nodes are told apart."""
        colours = {
            ref: self._name(("domain", ref.domain))
            for entity in entities
            for ref in _refs(entity.tree)
        }
        if not colours:
            return colours
        kinds = 0
        for _ in range(_ROUNDS_MAX):
            found: dict[Ref, list[int]] = {ref: [] for ref in colours}
            for entity in entities:
                self._place(entity.tree, self._token(entity, colours), colours, found)
            colours = {
                ref: self._name(("colour", colour, tuple(sorted(found[ref]))))
                for ref, colour in colours.items()
            }
            now = len(set(colours.values()))
            if now in {kinds, len(colours)}:
                break
            kinds = now
        return colours

    def _place(
        self, tree: Tree, where: int, colours: Mapping[Ref, int], found: dict[Ref, list[int]]
    ) -> None:
        """Note for each node where it stands: in which of the elements around it, at what name."""
        if isinstance(tree, Ref):
            found[tree].append(where)
        elif isinstance(tree, tuple):
            kind, parts = tree
            if kind == "list":
                for part in parts:
                    inside = self._name(("in", where, self._sign(part, colours)))
                    self._place(part, inside, colours, found)
            elif kind == "map":
                for name, part in parts:
                    inside = self._name(("at", where, self._sign(name, colours)))
                    self._place(name, self._name(("key", inside)), colours, found)
                    self._place(part, inside, colours, found)
            elif kind == "text":
                for number, part in enumerate(parts):
                    self._place(part, self._name(("text", where, number)), colours, found)


def _refs(tree: Tree) -> Iterator[Ref]:
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, tuple):
        kind, parts = tree
        if kind == "map":
            for name, part in parts:
                yield from _refs(name)
                yield from _refs(part)
        elif kind in {"list", "text"}:
            for part in parts:
                yield from _refs(part)


def is_refused(reply: Reply) -> bool:
    """Whether it did not do what it was asked for: a status from 400 on, or an exception."""
    return reply.error is not None or (reply.status is not None and reply.status >= 400)


def is_preparation(reply: Reply, *, last: bool) -> bool:
    """Whether an operation only looked something up, to go on with it: a page with a form, an
    ETag. What it saw is not compared, but what it then did with it; others may act meanwhile."""
    return not last and reply.request.split(" ")[0] in {"GET", "HEAD", "OPTIONS"}
