"""The gate of sqlite3: connections and cursors that ask before each statement.

Statements are stopped before sqlite3 is entered, so that nothing is held or decided while they
wait: not SQLite's own mutex either, which lets operations share a connection. The driver's own
BEGIN is run here, as a step before the statement that caused it. What comes to SQLite by another
way (a cursor made round the connection, the statements of a script) is stopped in the trace
callback, right before it takes its locks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.gates.elsewhere import Elsewhere
from crowdsafe.find.gates.held import Wish, first_word, wish_of
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.redirect import Redirect, sqlite_file
from crowdsafe.find.gates.sqlite_gate import Gate, Trip

__all__ = ["GateConnection", "GateCursor", "install"]

_ROWS_MAX = 20
_OPTIONS = (
    "timeout", "detect_types", "isolation_level", "check_same_thread", "factory",
    "cached_statements", "uri",
)  # fmt: skip
_DML = ("insert", "update", "delete", "replace")
_LEGACY = -1

_guarded: list[Redirect] = []
_hooked = False


class GateCursor(sqlite3.Cursor):
    """A cursor of a gated connection. A subclass of the target's comes before it, so that it sees
    what that class makes of a statement."""

    _crowdsafe_trip: Trip | None = None
    _crowdsafe_rows: deque[Any] | None = None
    _crowdsafe_seen: list[tuple[Any, ...]] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        trip = self._trip()
        if trip is None or not isinstance(sql, str):
            return super().execute(sql, parameters)
        began = _begin(trip, self.connection, sql)

        def call() -> int:
            with _forgetting(trip, self.connection, began):
                super(GateCursor, self).execute(sql, parameters)
            self._drain(sql)
            return self.rowcount

        trip.run(sql, parameters or None, call)
        trip.gate.adjusted(self.connection, sql)
        if trip.wants_rows and self.description is not None:
            self._crowdsafe_trip, self._crowdsafe_seen = trip, []
            if self._crowdsafe_rows is not None:
                self._saw(list(self._crowdsafe_rows))
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        trip = self._trip()
        if trip is None or not isinstance(sql, str):
            return super().executemany(sql, parameters)
        began = _begin(trip, self.connection, sql)

        def gated() -> Iterator[Any]:
            for each in parameters:
                trip.enter(sql, each)
                yield each

        def call() -> int:
            with _forgetting(trip, self.connection, began):
                super(GateCursor, self).executemany(sql, gated())
            return self.rowcount

        trip.run_all(call)
        return self

    def executescript(self, sql_script: str, /) -> Any:
        trip = self._trip()
        if trip is None:
            return super().executescript(sql_script)
        trip.run_script(lambda: super(GateCursor, self).executescript(sql_script))
        trip.gate.adjusted(self.connection, sql_script)
        return self

    def fetchone(self) -> Any:
        if self._crowdsafe_rows is not None:
            return self._crowdsafe_rows.popleft() if self._crowdsafe_rows else None
        row = super().fetchone()
        if self._crowdsafe_seen is not None:
            self._saw([] if row is None else [row])
        return row

    def fetchmany(self, size: int | None = None) -> list[Any]:
        size = self.arraysize if size is None else size
        if self._crowdsafe_rows is not None:
            count = min(size, len(self._crowdsafe_rows)) if size else len(self._crowdsafe_rows)
            return [self._crowdsafe_rows.popleft() for _ in range(count)]
        rows = super().fetchmany(size)
        if self._crowdsafe_seen is not None:
            self._saw(rows)
        return rows

    def fetchall(self) -> list[Any]:
        if self._crowdsafe_rows is not None:
            rows = list(self._crowdsafe_rows)
            self._crowdsafe_rows.clear()
            return rows
        rows = super().fetchall()
        if self._crowdsafe_seen is not None:
            self._saw(rows)
        return rows

    def __next__(self) -> Any:
        if self._crowdsafe_rows is not None:
            if not self._crowdsafe_rows:
                raise StopIteration
            return self._crowdsafe_rows.popleft()
        try:
            row = super().__next__()
        except StopIteration:
            self._saw([])
            raise
        self._saw([row])
        return row

    def _trip(self) -> Trip | None:
        connection = self.connection
        gate = _gate_of(connection)
        if gate is None:
            return None
        self._crowdsafe_trip = self._crowdsafe_rows = self._crowdsafe_seen = None
        return gate.trip(connection)

    def _drain(self, sql: str) -> None:
        """Take the rows of a RETURNING at once: SQLite commits when the last one is fetched, which
        belongs to this step."""
        if self.description is not None and wish_of(sql) == Wish.WRITE:
            self._crowdsafe_rows = deque(super().fetchall())

    def _saw(self, rows: list[Any]) -> None:
        """Keep these rows; none of them, that there are no more."""
        seen, trip = self._crowdsafe_seen, self._crowdsafe_trip
        if seen is None or trip is None or len(seen) >= _ROWS_MAX or (seen and not rows):
            return
        seen.extend(_plain(row) for row in rows[: _ROWS_MAX - len(seen)])
        trip.keep_rows(tuple(column[0] for column in self.description or ()), seen)


class GateConnection(sqlite3.Connection):
    """A connection of the target. Like sqlite3's, its shortcuts do not come to a :meth:`cursor`
    of a subclass, nor its ``with`` to a :meth:`commit` of one."""

    crowdsafe_gate: Gate | None = None

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        gate = self.crowdsafe_gate
        if gate is None:
            return super().cursor(factory)
        gate.check_thread()
        made = super().cursor(_gated(factory, GateCursor) or factory)
        gate.cursors.add(made)
        return made

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return GateConnection.cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        return GateConnection.cursor(self).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        return GateConnection.cursor(self).executescript(sql_script)

    def commit(self) -> None:
        self._end("COMMIT", super().commit)

    def rollback(self) -> None:
        self._end("ROLLBACK", super().rollback)

    def close(self) -> None:
        """What is open is rolled back, which is a step.

        A cursor that a traceback keeps would keep SQLite's transaction open after this: it ends.
        """
        gate = self.crowdsafe_gate
        if gate is None:
            super().close()
            return
        gate.check_thread()
        for cursor in list(gate.cursors):
            sqlite3.Cursor.close(cursor)
        if gate.held.in_transaction:
            gate.trip(self).run("ROLLBACK", None, super().close)
        else:
            super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Any:
        if error is not None or kind is not None:
            GateConnection.rollback(self)
            return False
        try:
            GateConnection.commit(self)
        except BaseException:
            GateConnection.rollback(self)
            raise
        return False

    def set_trace_callback(self, trace_callback: Callable[[str], object] | None) -> None:
        gate = self.crowdsafe_gate
        if gate is None or gate.stranger is not None:
            super().set_trace_callback(trace_callback)
        else:
            gate.theirs = trace_callback

    def _end(self, sql: str, call: Callable[[], None]) -> None:
        gate = self.crowdsafe_gate
        if gate is None:
            call()
            return
        gate.check_thread()
        if self.in_transaction and getattr(self, "autocommit", _LEGACY) is not True:
            gate.trip(self).run(sql, None, call)
        else:
            call()


def install(redirect: Redirect) -> Callable[[], None]:
    """Make all connects of this process from now on gated ones; returns what undoes it."""
    original: Callable[..., sqlite3.Connection] = sqlite3.connect
    always_uri = _always_uri()
    elsewhere = Elsewhere(original)

    @functools.wraps(original)
    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        options = dict(zip(("database", *_OPTIONS), args, strict=False)) | kwargs
        database = options.pop("database", None)
        if not isinstance(database, str | bytes | os.PathLike):
            return original(*args, **kwargs)
        uri = bool(options.get("uri", False)) or always_uri
        stranger = _stranger(redirect, database, uri)
        factory = _gated(options.get("factory", sqlite3.Connection), GateConnection)
        inner = dict(options)
        if stranger is None:
            database = redirect.sqlite_path(database, uri)
            inner["check_same_thread"] = options.get("check_same_thread", True) and factory is None
        elif not redirect.in_place:
            database, inner["uri"] = elsewhere.instead_of(database, uri=uri)
        if factory is not None:
            inner["factory"] = factory
        connection = original(database, **inner)
        gate = Gate(connection, redirect, stranger, options)
        if isinstance(connection, GateConnection):
            connection.crowdsafe_gate = gate
        return connection

    patches = Patches()
    patches.set_everywhere(original, connect)
    _guard(redirect)

    def undo() -> None:
        patches.undo()
        _guarded.remove(redirect)
        elsewhere.close()

    return undo


def _guard(redirect: Redirect) -> None:
    """Refuse a connection to the original that is not made by connect()."""
    global _hooked  # noqa: PLW0603
    _guarded.append(redirect)
    if not _hooked:
        _hooked = True
        sys.addaudithook(_on_audit)


def _on_audit(event: str, args: tuple[Any, ...]) -> None:
    if event != "sqlite3.connect":
        return
    for redirect in _guarded:
        if not redirect.in_place and redirect.sqlite_names_original(args[0], uri=True):
            raise ConfigError(
                f"the target opens {redirect.original} by sqlite3.Connection(...), which cannot be "
                "led to the finder's copy: open it by sqlite3.connect(...)"
            )


def _stranger(redirect: Redirect, database: Any, uri: bool) -> str | None:
    """The name to show of a database that is not the one that the target was said to use."""
    if redirect.sqlite_names(database, uri):
        return None
    return sqlite_file(database, uri) or "a database in memory"


@functools.cache
def _gated(base: Any, gate: type) -> Any:
    """A subclass of a class of the target's with the gate beneath it; None for another callable,
    or where Python cannot join the two."""
    if not isinstance(base, type) or not issubclass(base, gate.__base__ or object):
        return None
    if base is gate.__base__ or issubclass(base, gate):
        return gate if base is gate.__base__ else base
    try:
        return type(base.__name__, (base, gate), {"__module__": base.__module__})
    except TypeError:
        return None


def _gate_of(connection: Any) -> Gate | None:
    gate = getattr(connection, "crowdsafe_gate", None)
    return gate if isinstance(gate, Gate) else None


def _begin(trip: Trip, connection: sqlite3.Connection, sql: str) -> bool:
    """Do what sqlite3 does before a statement that changes rows, as a step of its own."""
    level = connection.isolation_level
    if (
        not trip.watched
        or level is None
        or connection.in_transaction
        or getattr(connection, "autocommit", _LEGACY) != _LEGACY
        or not first_word(sql).startswith(_DML)
    ):
        return False
    begin = f"BEGIN {level}".strip()
    trip.run(begin, None, lambda: sqlite3.Cursor(connection).execute(begin).rowcount)
    return True


@contextlib.contextmanager
def _forgetting(trip: Trip, connection: sqlite3.Connection, began: bool) -> Iterator[None]:
    """sqlite3 would not have begun for a statement that it cannot prepare."""
    try:
        yield
    except sqlite3.Error:
        if began and not trip.gate.fired:
            with trip.gate.quiet():
                sqlite3.Connection.rollback(connection)
        raise


def _plain(row: Any) -> tuple[Any, ...]:
    if isinstance(row, dict):
        return tuple(row.values())
    return tuple(row) if isinstance(row, tuple | list | sqlite3.Row) else (row,)


def _always_uri() -> bool:
    connection = sqlite3.Connection(":memory:")
    try:
        return ("USE_URI",) in connection.execute("PRAGMA compile_options").fetchall()
    finally:
        connection.close()
