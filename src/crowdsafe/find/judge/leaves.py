"""Turns values into trees in which ids that the run made are nodes, and times are all the same.

Whether a number is an id or a quantity is told by, in this order: the schema's keys, what was
learned from repeated runs, and, only for ids whose generator cannot be moved on (SQLite's plain
rowids) or where nothing was learned, the name that it goes by. A number that is learned to be
stable is never touched.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Hashable, Mapping
from datetime import date, datetime
from typing import Any

from crowdsafe.find.database.schema import Schema, Table
from crowdsafe.find.judge.delta import Delta
from crowdsafe.find.judge.moments import (
    MOMENT,
    Window,
    is_drawn,
    is_opaque,
    may_be_moment,
    plain_uuid,
    without_clock,
)
from crowdsafe.find.judge.names import is_id_name, tables_meant
from crowdsafe.find.judge.volatile import Domain, Habits, Path, opened
from crowdsafe.find.model import Reply

__all__ = ["Leaves", "Ref", "Tree", "domains_of", "is_key", "located", "shape"]

Tree = Any
"""None, a plain value, a :class:`Ref`, or (kind, parts) of kind list, map, text or mask."""

_ANYONE: Domain = ("", "")
_DRAWN = re.compile(r"nextval|uuid|random|identity", re.IGNORECASE)
_NUMBERS = re.compile(r"(?<=[/=])\d{1,18}(?=[/?&#.]|$)")
_SEGMENTS = re.compile(r"(?<=/)[A-Za-z_]+(?=/|$)")
_WORDS = re.compile(r"[\w\-]+|[^\w\s]")
_PAGE_CHARS = 300
_NODE_CHARS_MIN = 8
_NUMBER_MIN = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """A node: an id of ``domain``, or a value that was drawn at random."""

    domain: Domain
    value: Hashable


def is_key(table: Table, column: str) -> bool:
    return column in table.primary_key or any(column in unique for unique in table.unique)


def domains_of(schema: Schema) -> dict[tuple[str, str], Domain]:
    """For each column that holds generated ids or refers to some: whose ids those are."""
    target: dict[tuple[str, str], Domain] = {
        (table.name, ours): (key.to_table, theirs)
        for table in schema
        for key in table.foreign_keys
        for ours, theirs in zip(key.columns, key.to_columns, strict=False)
    }
    found = {place: _end(place, target) for place in target}
    for table in schema:
        for column in table.columns:
            drawn = column.default is not None and _DRAWN.search(column.default)
            if drawn or (column.generated and is_key(table, column.name)):
                found.setdefault((table.name, column.name), (table.name, column.name))
    return found


def _end(place: tuple[str, str], target: Mapping[tuple[str, str], Domain]) -> Domain:
    """Follow references to the table that makes the ids (a key can itself be a reference)."""
    seen = {place}
    while place in target and target[place] not in seen:
        place = target[place]
        seen.add(place)
    return place


class Leaves:
    """Reads the values of one run; what its new rows hold in key columns are its nodes.

    ``domains`` are those of the schema, where the caller knows them already.
    """

    def __init__(
        self,
        schema: Schema,
        habits: Habits,
        delta: Delta,
        window: Window,
        domains: Mapping[tuple[str, str], Domain] | None = None,
    ) -> None:
        self.schema = schema
        self.habits = habits
        self.window = window
        self.domains = dict(domains_of(schema) if domains is None else domains)
        self.domains |= {node: node for node in habits.nodes}
        self.numbers: dict[int, set[Domain]] = {}
        self.texts: set[str] = set()
        for table in delta.changes:
            self._note_nodes(table, delta)

    def _note_nodes(self, table: str, delta: Delta) -> None:
        known = self.schema.tables.get(table)
        for change in delta.new(table):
            for column, value in zip(change.columns, change.after or (), strict=False):
                place = (table, column)
                domain = self.domains.get(place)
                if domain == place and isinstance(value, int):
                    self.numbers.setdefault(value, set()).add(place)
                elif isinstance(value, str | bytes) and (
                    domain == place
                    or (
                        known is not None and is_key(known, column) and self._is_drawn(place, value)
                    )
                ):
                    self.texts.add(_plain(value))

    def _is_drawn(self, place: tuple[str, str], value: str | bytes) -> bool:
        """Whether a key's text was drawn, where nothing was learned of it."""
        return ("row", *place) not in self.habits.seen and is_opaque(_plain(value))

    def row(self, table: str, cells: Mapping[str, Any]) -> Tree:
        return (
            "map",
            tuple((name, self.cell(table, name, value)) for name, value in cells.items()),
        )

    def cell(self, table: str, column: str, value: Any) -> Tree:
        domain = self.domains.get((table, column))
        if domain is not None and isinstance(value, int) and not isinstance(value, bool):
            return Ref(domain, value) if domain in self.numbers.get(value, ()) else value
        return self.tree(("row", table, column), value)

    def reply(self, request: str, reply: Reply) -> Tree:
        """The body and the headers that say something; an ETag only where it is no hash."""
        path: Path = ("answer", request)
        parts: list[tuple[Tree, Tree]] = [("body", self.tree(path, reply.body))]
        headers = {name.lower(): text for name, text in reply.headers.items()}
        if "location" in headers:
            where, numbers, address = located(path, headers["location"])
            parts.append(("location", self.tree((*where, "address"), address)))
            parts.append(("numbers", self.tree(where, numbers)))
        etag = headers.get("etag", "").removeprefix("W/").strip('"')
        if etag and not is_opaque(etag):
            parts.append(("etag", self.tree((*path, "etag"), etag)))
        return ("map", tuple(parts))

    def tree(self, path: Path, value: Any) -> Tree:
        """Any plain value; what is none goes by the name of its type. A tuple has its order, a
        list is a multiset."""
        value = opened(_plainer(value))
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, tuple):
            value = {f"[{place}]": item for place, item in enumerate(value)}
        if isinstance(value, dict):
            return ("map", tuple(self._item(path, str(name), v) for name, v in value.items()))
        if isinstance(value, list | set | frozenset):
            return ("list", tuple(self.tree((*path, "*"), item) for item in value))
        if isinstance(value, int):
            return self._number(path, value)
        if isinstance(value, float):
            if self.window.has_number(value):
                return MOMENT
            return ("mask", "float") if path in self.habits.volatile else repr(value)
        if isinstance(value, str | bytes):
            return self._text(path, value)
        return type(value).__name__

    def _item(self, path: Path, name: str, value: Any) -> tuple[Tree, Tree]:
        """A member of a map, whose name may be an id too."""
        if name in self.texts or (name.isdecimal() and int(name) in self.numbers):
            return self._text((*path, "id"), name), self.tree((*path, "*"), value)
        return name, self.tree((*path, name), value)

    def _number(self, path: Path, value: int) -> Tree:
        if self.window.has_number(value):
            return MOMENT
        home = self.home(path, value)
        if home is not None:
            return Ref(home, value)
        if path not in self.habits.seen and self.window.is_about(value):
            return MOMENT
        if path not in self.habits.volatile or self.habits.homes.get(path):
            return value
        return Ref(_ANYONE, value) if _is_drawn_number(value) else ("mask", "int")

    def home(self, path: Path, value: int) -> Domain | None:
        """Whose new id a number is; None when it is none, or is business data.

        Nobody's in particular, which compares only with what stands at the same path, when
        neither names nor what was learned tell whose.
        """
        owners = self.numbers.get(value)
        if not owners:
            return None
        if path in self.habits.volatile:
            owners = owners & self.habits.homes.get(path, frozenset(owners))
            return self._one_of(owners, path) if owners else None
        if not is_id_name(path):
            return None
        if path in self.habits.seen:
            owners = owners - self.habits.moved
        meant = tables_meant(path, self.schema.tables)
        if meant is None:
            return _nobody(path) if owners else None
        owners = {owner for owner in owners if owner[0] in meant}
        return self._one_of(owners, path) if owners else None

    def _one_of(self, owners: set[Domain], path: Path) -> Domain:
        if len(owners) > 1:
            meant = tables_meant(path, self.schema.tables)
            owners = {owner for owner in owners if meant and owner[0] in meant} or owners
        return next(iter(owners)) if len(owners) == 1 else _nobody(path)

    def _text(self, path: Path, value: str | bytes) -> Tree:
        text = _plain(value)
        habits = self.habits
        if path in habits.masked:
            return ("mask", "text")
        if text in self.texts:
            return Ref(_ANYONE, text)
        if self._was_drawn(path, text):
            return Ref(_ANYONE, text)
        if isinstance(value, bytes):
            return text
        if path in habits.volatile and len(text) > 1 and text[0] == "0" and text.isdecimal():
            return Ref(_ANYONE, text)  # a code of some digits, as long as its likes
        if text.isdecimal() and len(text) < 19:
            found = self._number(path, int(text))
            return text if found == int(text) else found
        return self._pieces(path, text)

    def _was_drawn(self, path: Path, text: str) -> bool:
        if path in self.habits.volatile:
            return is_drawn(text) and self.window.cut(text, else_too="all") is None
        return path not in self.habits.seen and is_opaque(text)

    def _pieces(self, path: Path, text: str) -> Tree:
        """A text with the times, ids and drawn values in it replaced; a page as a bag of words."""
        is_page = path[0] == "answer" and (len(text) > _PAGE_CHARS or "\n" in text)
        if is_page:
            text = without_clock(text)
        cut = self.window.cut(text, else_too=self._further(path))
        if (
            cut is None
            and not is_page
            and path not in self.habits.volatile
            and not self.texts
            and not (self.numbers and (path not in self.habits.seen or is_id_name(path)))
        ):
            return text
        parts: list[Tree] = []
        before = ""
        for number, piece in enumerate(cut or [text]):
            if number % 2:
                parts.append(piece)
                before = piece
                continue
            for word in _WORDS.findall(piece):
                part = self._word(path, before, word, is_page)
                parts.append(part)
                before = part if isinstance(part, str) else ""
        if is_page:
            return ("list", tuple(parts))
        return ("text", tuple(parts))

    def _may_be_id(self, path: Path, value: int) -> bool:
        """Of a number in a text. Ids that were moved on are known by the noise that they made."""
        owners = self.numbers.get(value, set())
        return bool(owners - self.habits.moved if path in self.habits.seen else owners)

    def _further(self, path: Path) -> str:
        """Which times outside of the window are taken for made by the run as well."""
        if path in self.habits.volatile:
            return "all"
        return "none" if path in self.habits.seen else "odd"

    def _word(self, path: Path, before: str, word: str, is_page: bool) -> Tree:
        if (path, before) in self.habits.noise:
            return ("mask", "word")
        if len(word) >= _NODE_CHARS_MIN and _plain(word) in self.texts:
            return Ref(_ANYONE, _plain(word))
        if word.isdecimal() and len(word) < 19:
            nobody = ("", repr((path, before)))
            return Ref(nobody, int(word)) if self._may_be_id(path, int(word)) else word
        if is_opaque(word) and (is_page or path in self.habits.volatile):
            return ("mask", "word")
        return word


def _plainer(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, datetime | date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return value


def _plain(value: str | bytes) -> str:
    """A drawn text as it is compared: a UUID however it is written, bytes in hexadecimal."""
    text = value.hex() if isinstance(value, bytes) else value
    return plain_uuid(text) or text


def _is_drawn_number(value: int) -> bool:
    """Large enough that two are equal only when they are one and the same, and no time."""
    return value >= _NUMBER_MIN and not may_be_moment(value)


def _nobody(path: Path) -> Domain:
    return ("", repr(path))


def shape(tree: Tree) -> Any:
    """A tree whose nodes are told by their domain alone."""
    if isinstance(tree, Ref):
        return ("node", tree.domain)
    if isinstance(tree, tuple) and tree[0] != "mask":
        kind, parts = tree
        if kind == "map":
            return (kind, tuple((shape(name), shape(part)) for name, part in parts))
        shapes = [shape(part) for part in parts]
        return (kind, tuple(sorted(shapes, key=repr) if kind == "list" else shapes))
    return tree


def located(path: Path, text: str) -> tuple[Path, list[int], str]:
    """An address as where its numbers stand, the numbers, and the rest: in ``/orders/17`` stands
    the id of an order."""
    numbers = [int(number) for number in _NUMBERS.findall(text)]
    return (*path, "location", *_SEGMENTS.findall(text), "id"), numbers, _NUMBERS.sub("#", text)
