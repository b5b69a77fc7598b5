"""Which transaction of which connection a statement belongs to, and what the statement touches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.engine.touch import EVERYTHING, NOTHING, Mode, Rows, Touch, all_of, dependent
from crowdsafe.find.gates.control import Link
from crowdsafe.find.model import Statement, Verb

__all__ = ["Habits", "TouchOf", "Transactions"]

TouchOf = Callable[[Statement, str, Any], Touch | None]
"""What a statement touches by itself, from its text and parameters; None: everything."""

_ADVISORY = "#advisory"
_SNAPSHOT = "#snapshot"
_FILE = "#file"
_READERS = "#readers"
_DRAWN: Touch = {"#sequence": (Mode.READ, None)}
"""A number drawn from a sequence: only what may set it, which touches everything, minds."""
_WRITING = Mode.LOCK | Mode.ADD | Mode.SHARE
_BOUNDS = {Verb.BEGIN, Verb.SAVEPOINT, Verb.RELEASE, Verb.SET}


@dataclass(slots=True)
class Habits:
    """What statements (by their texts) were seen to do, in this run and earlier ones.

    What a step touches must not depend on whether it has to wait or fails: the search reverses
    steps by what they touched where they stood before. So one that failed once, and so let go of
    its transaction's locks, counts as if it might always; one that has to wait counts as if it
    committed by itself, unless it was only seen not to.
    """

    failing: set[str] = field(default_factory=set)
    committing: set[str] = field(default_factory=set)
    staying: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Open:
    """What is known of a connection's transaction: what it locked, wrote and read."""

    begun: bool = False
    level: str | None = None
    locked: Touch = field(default_factory=dict)
    dirty: Touch = field(default_factory=dict)
    read: Touch = field(default_factory=dict)
    snapshot: bool = False
    savepoints: list[str] = field(default_factory=list)
    from_savepoint: bool = False


class Transactions:
    """Follows the transactions of a run; ``touch_of`` tells what each statement touches by
    itself (without it: the tables of its text)."""

    def __init__(
        self, dialect: str, *, touch_of: TouchOf | None = None, habits: Habits | None = None
    ) -> None:
        self._dialect = dialect
        self._habits = habits or Habits()
        self._touch_of = touch_of or plain_touch
        self._open: dict[Link, _Open] = {}
        self._levels: dict[Link, str] = {}

    def holds_locks(self, link: Link) -> bool:
        """Whether the transaction that is open on that connection locked anything."""
        return link in self._open and bool(self._open[link].locked)

    def meets_locks(self, link: Link, statement: Statement, sql: str, parameters: Any) -> bool:
        """Whether a statement may come upon rows that another open transaction locked."""
        touch = _only(self._own(_Open(), statement, sql, parameters), _WRITING)
        return any(
            other is not link and dependent(touch, _with(Mode.LOCK, tx.locked))
            for other, tx in self._open.items()
        )

    def attempt(self, link: Link, statement: Statement, sql: str, parameters: Any) -> Touch:
        """What a statement touches that has to wait: all that it would if it did not."""
        tx = self._open.get(link, _Open())
        if statement.verb in {Verb.COMMIT, Verb.ROLLBACK}:
            return self._ending(tx, statement.verb)
        own = self._own(tx, statement, sql, parameters)
        written = _only(own, _WRITING)
        parts = [own, self._failing(tx, statement), _drawn(statement)]
        stays = statement.text in self._habits.staying - self._habits.committing
        if not (tx.begun or link.in_transaction or stays):
            parts += [_released(written), _published(written)]
        return all_of(parts)

    def _failing(self, tx: _Open, statement: Statement) -> Touch:
        return _released(tx.locked) if statement.text in self._habits.failing else NOTHING

    def left(
        self, link: Link, statement: Statement, sql: str, parameters: Any, *, failed: bool
    ) -> Touch:
        """What a statement touched that ended just now."""
        if self._dialect == "sqlite":
            return self._left_sqlite(link, statement, sql, parameters, failed=failed)
        return self._left_postgresql(link, statement, sql, parameters, failed=failed)

    def _own(self, tx: _Open, statement: Statement, sql: str, parameters: Any) -> Touch:
        """The tables of a statement, without what its transaction makes of it."""
        if statement.verb in _BOUNDS:
            return NOTHING
        if statement.opaque or statement.verb in {Verb.DDL, Verb.LOCK}:
            return EVERYTHING  # a lock on a table keeps even readers out
        touch = self._touch_of(statement, sql, parameters)
        if touch is None:
            return EVERYTHING
        if statement.advisory:
            return all_of([touch, {_ADVISORY: (Mode.LOCK, None)}])
        return touch

    def _left_postgresql(
        self, link: Link, statement: Statement, sql: str, parameters: Any, *, failed: bool
    ) -> Touch:
        tx = self._open.setdefault(link, _Open())
        if statement.verb in {Verb.COMMIT, Verb.ROLLBACK}:
            del self._open[link]
            return self._ending(tx, statement.verb)
        if statement.isolation is not None:
            self._set_level(link, tx, statement)
        if statement.verb is Verb.BEGIN:
            tx.begun = not failed
        if statement.verb is Verb.ROLLBACK_TO or failed:
            own = self._own(tx, statement, sql, parameters)
            return all_of([own, _released(all_of([own, tx.locked]))])
        if statement.verb in _BOUNDS:
            return NOTHING
        return self._in_level(link, tx, statement, sql, parameters)

    def _in_level(
        self, link: Link, tx: _Open, statement: Statement, sql: str, parameters: Any
    ) -> Touch:
        own = self._own(tx, statement, sql, parameters)
        level = tx.level or link.isolation or self._levels.get(link)
        parts = [own, self._failing(tx, statement), _drawn(statement)]
        if level in {"repeatable read", "serializable", None}:  # None: it may be any
            if tx.snapshot and level == "repeatable read":
                parts[0] = _only(own, _WRITING)
            elif not tx.snapshot:
                parts.append({_SNAPSHOT: (Mode.READ, None)})
            tx.snapshot = True
        written = _only(own, _WRITING)
        if level in {"serializable", None}:
            tx.read = all_of([tx.read, own])
            parts.append(_published(written))
        open_now = link.in_transaction
        if open_now is None and tx.begun:
            open_now = True
        if open_now is not None and written:
            (self._habits.staying if open_now else self._habits.committing).add(statement.text)
        if open_now is not True and written:
            parts += [_released(written), _published(written), {_SNAPSHOT: (Mode.PUBLISH, None)}]
        if open_now is not False:
            tx.locked = all_of([tx.locked, written])
            if statement.writes or statement.opaque:
                tx.dirty = all_of([tx.dirty, written])
        return all_of(parts)

    def _set_level(self, link: Link, tx: _Open, statement: Statement) -> None:
        session_wide = statement.verb is Verb.SET and not statement.text.lower().startswith(
            ("set transaction", "set local")
        )
        if session_wide:
            self._levels[link] = str(statement.isolation)
        else:
            tx.level = statement.isolation

    def _ending(self, tx: _Open, verb: Verb) -> Touch:
        """The end of a transaction lets go of its locks; COMMIT shows what it wrote."""
        parts = [_released(tx.locked)]
        if verb is Verb.COMMIT:
            parts.append(_published(tx.dirty))
            if tx.dirty:
                parts.append({_SNAPSHOT: (Mode.PUBLISH, None)})
            if tx.read:
                parts.append(_with(Mode.READ, tx.read))
        return all_of(parts)

    def _left_sqlite(
        self, link: Link, statement: Statement, sql: str, parameters: Any, *, failed: bool
    ) -> Touch:
        tx = self._open.setdefault(link, _Open())
        verb = self._sqlite_verb(tx, statement)
        if verb in {Verb.COMMIT, Verb.ROLLBACK}:
            touch = self._sqlite_ending(tx, verb)
            if not (failed and verb is Verb.COMMIT and link.in_transaction is not False):
                del self._open[link]
            return touch
        if verb in {Verb.BEGIN, Verb.SAVEPOINT}:
            return self._sqlite_begin(tx, statement, failed=failed)
        own = self._own(tx, statement, sql, parameters)
        written = _only(own, _WRITING)
        if not tx.begun:
            return self._sqlite_alone(own, written)
        parts = [] if tx.snapshot else [_only(own, Mode.READ), {_FILE: (Mode.READ, None)}]
        if own:
            tx.snapshot = True
        if written:
            if _FILE not in tx.locked:
                parts.append({_FILE: (Mode.LOCK, None)})
            parts.append(written)
            tx.locked = all_of([tx.locked, written, {_FILE: (Mode.LOCK, None)}])
            tx.dirty = all_of([tx.dirty, written])
        return all_of(parts) if own else NOTHING

    @staticmethod
    def _sqlite_alone(own: Touch, written: Touch) -> Touch:
        """A statement outside of a transaction: it commits by itself."""
        if not written:
            return own
        ends = Mode.LOCK | Mode.PUBLISH | Mode.RELEASE
        return all_of(
            [
                own,
                _released(written),
                _published(written),
                {_FILE: (ends, None), _READERS: (Mode.LOCK, None)},
            ]
        )

    @staticmethod
    def _sqlite_verb(tx: _Open, statement: Statement) -> Verb:
        """RELEASE of the savepoint that began the transaction is its COMMIT."""
        if statement.verb is Verb.RELEASE and tx.from_savepoint:
            name = _last_word(statement.text)
            if name in tx.savepoints:
                del tx.savepoints[tx.savepoints.index(name) :]
            return Verb.RELEASE if tx.savepoints else Verb.COMMIT
        return statement.verb

    @staticmethod
    def _sqlite_begin(tx: _Open, statement: Statement, *, failed: bool) -> Touch:
        words = statement.text.lower().split()
        at_once = statement.verb is Verb.BEGIN and ("immediate" in words or "exclusive" in words)
        touch: Touch = {_FILE: (Mode.LOCK, None)} if at_once else NOTHING
        if failed:
            return touch
        if statement.verb is Verb.SAVEPOINT:
            if not tx.begun:
                tx.from_savepoint = True
            tx.savepoints.append(_last_word(statement.text))
        tx.begun = True
        if at_once:
            tx.locked = touch
            tx.snapshot = True
        return touch

    @staticmethod
    def _sqlite_ending(tx: _Open, verb: Verb) -> Touch:
        parts: list[Touch] = [_released(tx.locked)]
        if tx.snapshot:
            parts.append({_READERS: (Mode.RELEASE, None)})
        if verb is Verb.COMMIT and tx.dirty:
            parts.append(_published(tx.dirty))
            parts.append({_FILE: (Mode.PUBLISH, None), _READERS: (Mode.LOCK, None)})
        return all_of(parts)


def plain_touch(statement: Statement, _sql: str, _parameters: Any) -> Touch:
    """What the text of a statement tells, without knowing the database."""
    locks = statement.tables if statement.locks_rows else statement.writes
    touch: dict[str, tuple[Mode, Rows]] = dict.fromkeys(locks, (Mode.LOCK, None))
    touch.update(dict.fromkeys(statement.reads - locks, (Mode.READ, None)))
    return touch


def _drawn(statement: Statement) -> Touch:
    return _DRAWN if statement.draws else NOTHING


def _published(touch: Touch) -> Touch:
    """What was written, made visible; rows that are only referred to were not written."""
    return _with(Mode.PUBLISH, _only(touch, Mode.LOCK | Mode.ADD))


def _released(touch: Touch) -> Touch:
    return {
        name: (Mode.RELEASE if mode & ~Mode.SHARE else Mode.UNSHARE, rows)
        for name, (mode, rows) in touch.items()
    }


def _only(touch: Touch, modes: Mode) -> Touch:
    return {name: (mode & modes, rows) for name, (mode, rows) in touch.items() if mode & modes}


def _with(mode: Mode, touch: Touch) -> Touch:
    """The same tables and rows, touched in that way."""
    return {name: (mode, rows) for name, (_, rows) in touch.items()}


def _last_word(text: str) -> str:
    return text.rstrip("; \n\t").split()[-1].strip("\"'`[]").lower()
