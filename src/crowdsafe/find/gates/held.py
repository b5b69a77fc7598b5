"""Which locks SQLite holds for a connection of the target, as far as statements tell.

SQLite itself says only whether a transaction is open. What it holds follows from the statements
that were let through (https://www.sqlite.org/lockingv3.html and /wal.html): a read takes SHARED
(in WAL mode: a snapshot), the first write RESERVED (in WAL mode: the one write lock), and both are
kept until the transaction ends. Outside of a transaction a SELECT that was not read to its end
keeps SHARED, which is asked of SQLite when somebody wants to know.
"""

from __future__ import annotations

import functools
import re
import sqlite3
import weakref
from enum import IntEnum, StrEnum

from crowdsafe.find.sql import analyse

__all__ = ["Held", "Lock", "Wish", "wish_of"]

_PROBE = "crowdsafe_find_probe"
_WRITERS = frozenset(
    {"insert", "update", "delete", "replace", "create", "drop", "alter", "reindex", "analyze"}
)
_WRITING_PRAGMA = re.compile(
    r"pragma\s+(\w+\.)?(user_version|application_id)\s*[=(]", re.IGNORECASE
)
_FROM = re.compile(r"\bfrom\b", re.IGNORECASE)
_COMMENTS = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.DOTALL)


class Lock(IntEnum):
    NONE = 0
    SHARED = 1
    RESERVED = 2
    EXCLUSIVE = 3


class Wish(StrEnum):
    """What a statement asks of the file's locks."""

    NOTHING = "nothing"
    BEGIN = "begin"
    IMMEDIATE = "begin immediate"
    EXCLUSIVE = "begin exclusive"
    READ = "read"
    WRITE = "write"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"


@functools.lru_cache(maxsize=10_000)
def first_word(sql: str) -> str:
    """The statement's first word in lower case, comments left out."""
    start = _COMMENTS.match(sql)
    words = sql[start.end() if start else 0 :].split(None, 1)
    return words[0].rstrip(";").lower() if words else ""


@functools.lru_cache(maxsize=10_000)
def wish_of(sql: str) -> Wish:
    """What that text asks for, by its first word; only a WITH has to be understood."""
    word = first_word(sql)
    if word in _WRITERS:
        return Wish.WRITE
    if word in {"select", "values", "explain"}:
        return Wish.READ if _FROM.search(sql) else Wish.NOTHING
    if word == "with":
        statement = analyse(sql, "sqlite")
        return Wish.WRITE if statement.writes or statement.opaque else Wish.READ
    if word == "begin":
        words = set(sql.lower().rstrip("; \n").split()[1:2])
        return (
            Wish.IMMEDIATE
            if "immediate" in words
            else (Wish.EXCLUSIVE if "exclusive" in words else Wish.BEGIN)
        )
    if word in {"commit", "end"}:
        return Wish.COMMIT
    if word == "rollback":
        return Wish.NOTHING if " to " in f"{sql.lower()} " else Wish.ROLLBACK
    if word in {"savepoint", "release"}:
        return Wish(word)
    return Wish.WRITE if _WRITING_PRAGMA.match(sql.lstrip()) else Wish.NOTHING


class Held:
    """The locks of one connection. ``file`` is the real path of its database; ``timeout_ms`` how
    long the target said that the connection waits for a lock (0: it never does).

    ``maybe_reading`` is set when a SELECT was begun, ``parked_inside`` while a statement stands at
    the gate inside of SQLite, where nothing can be asked of the connection, ``gives_way`` while one
    stands there whose operation was refused with BUSY and has slept since, to try again later.
    """

    def __init__(self, connection: sqlite3.Connection, file: str, timeout_ms: int) -> None:
        self._connection = weakref.ref(connection)
        self.file = file
        self.timeout_ms = timeout_ms
        self.parked_inside = False
        self.maybe_reading = False
        self.gives_way = False
        self._lock = Lock.NONE
        self._outermost: str | None = None

    @property
    def connection(self) -> sqlite3.Connection | None:
        return self._connection()

    @property
    def in_transaction(self) -> bool:
        connection = self._connection()
        try:
            return connection is not None and connection.in_transaction
        except sqlite3.ProgrammingError:  # closed
            return False

    @property
    def lock(self) -> Lock:
        """The strongest lock that the connection holds on the file now."""
        if self.in_transaction:
            return self._lock
        return Lock.SHARED if self.reading else Lock.NONE

    @property
    def reading(self) -> bool:
        """Whether a SELECT of this connection was begun and not read to its end.

        SQLite refuses to replace a collation under running statements, which takes no lock.
        """
        connection = self._connection()
        if connection is None or self.parked_inside or not self.maybe_reading:
            return False
        try:
            connection.create_collation(_PROBE, _compare)
        except sqlite3.OperationalError:
            return True
        except sqlite3.ProgrammingError:  # closed
            pass
        self.maybe_reading = False
        return False

    def prepare(self) -> None:
        """Make :attr:`reading` work; right after the connection was opened."""
        connection = self._connection()
        if connection is not None:
            connection.create_collation(_PROBE, _compare)

    def commits(self, sql: str) -> bool:
        """Whether this statement ends the open transaction with its changes kept."""
        wish = wish_of(sql)
        return wish == Wish.COMMIT or (wish == Wish.RELEASE and _name(sql) == self._outermost)

    def before(self, sql: str) -> None:
        """A statement is about to run."""
        if not self.in_transaction:
            wish = wish_of(sql)
            began_under_a_read = wish in {Wish.BEGIN, Wish.SAVEPOINT} and self.reading
            self._lock = Lock.SHARED if began_under_a_read else Lock.NONE
            self._outermost = _name(sql) if wish == Wish.SAVEPOINT else None

    def after(self, sql: str) -> None:
        """A statement ran, if perhaps into an error that came after it had its locks."""
        wish = wish_of(sql)
        self.maybe_reading |= wish == Wish.READ
        if wish == Wish.ROLLBACK or self.commits(sql):
            self._lock = Lock.NONE  # in_transaction may stay true: Connection(autocommit=False)
        elif wish == Wish.EXCLUSIVE:
            self._lock = Lock.EXCLUSIVE
        elif wish in {Wish.IMMEDIATE, Wish.WRITE}:
            self._lock = max(self._lock, Lock.RESERVED)
        elif wish == Wish.READ:
            self._lock = max(self._lock, Lock.SHARED)


def _compare(one: str, other: str) -> int:
    return (one > other) - (one < other)


def _name(sql: str) -> str | None:
    words = sql.rstrip("; \n\t").split()
    return words[-1].strip("\"'`[]").lower() if len(words) > 1 else None
