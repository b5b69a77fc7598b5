"""What decides for one connection of sqlite3, and the passage of its statements.

While an operation runs no connection waits for a lock (busy_timeout 0): who would have to wait
is not let go on before it can. Outside of operations the target's own timeout holds.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crowdsafe.find.gates.control import Gatekeeper, Link, Pass, keeper, scratch
from crowdsafe.find.gates.held import Held, Wish, first_word, wish_of
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.sources import calling_line

__all__ = ["Gate", "Trip", "open_links", "release"]

_SETTING = re.compile(
    r"\bpragma\s+(?:\w+\s*\.\s*)?(busy_timeout|synchronous)\s*[=(]", re.IGNORECASE
)
_OWN = re.compile(
    r"\s*pragma\s+(?:\w+\s*\.\s*)?(?:automatic_index|busy_timeout|cache_size|cache_spill"
    r"|case_sensitive_like|foreign_keys|journal_size_limit|mmap_size|recursive_triggers"
    r"|synchronous|temp_store|threads)\s*[=(]",
    re.IGNORECASE,
)
"""Settings of a connection, which no other one sees and which touch no data."""
_JOURNAL = re.compile(r"\s*pragma\s+journal_mode\s*[=(]\s*[\"']?(\w+)", re.IGNORECASE)
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_REFUSED = (*_BUSY, "SQLITE_INTERRUPT")

_gates: weakref.WeakSet[Gate] = weakref.WeakSet()
_gates_lock = threading.Lock()


def open_links() -> list[Link]:
    """The connections of the target to the working copy that are still there."""
    with _gates_lock:
        return [gate.link for gate in _gates]


def release() -> int:
    """Roll back what connections of the target left open, and close their unread cursors.

    For between two runs: no operation may be running. Returns how many connections held something.
    """
    with _gates_lock:
        gates = list(_gates)
    return sum(gate.release() for gate in gates)


class Gate:
    """What decides for one connection of the target.

    ``stranger`` names the database where it is another one than that which was named; its
    statements pass freely, and it is noted when an operation uses it. ``inside`` counts the calls
    that are in sqlite3 now, ``fired`` whether SQLite began to run the latest statement,
    ``theirs`` is the target's own trace callback.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        redirect: Redirect,
        stranger: str | None,
        options: Mapping[str, Any],
    ) -> None:
        timeout_ms = int(float(options.get("timeout", 5.0)) * 1000)
        self.redirect = redirect
        self.stranger = stranger
        self.held = Held(connection, redirect.working, timeout_ms)
        self.link = Link("sqlite3", state=self.held)
        self.inside = 0
        self.fired = False
        self.script: Trip | None = None
        self.theirs: Callable[[str], object] | None = None
        self.cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        self._quiet = False
        self._outside: str | None = None
        self._timeout_now_ms = timeout_ms
        self._thread = threading.get_ident() if options.get("check_same_thread", True) else None
        if stranger is None:
            self.held.prepare()
            self._hurry(connection)
            sqlite3.Connection.set_trace_callback(connection, self._traced)
            with _gates_lock:
                _gates.add(self)

    def check_thread(self) -> None:
        """The driver's own check, which is off so that :func:`release` can reach connections."""
        here = threading.get_ident()
        if self.stranger is None and self._thread not in {None, here}:
            raise sqlite3.ProgrammingError(
                "SQLite objects created in a thread can only be used in that same thread. The "
                f"object was created in thread id {self._thread} and this is thread id {here}."
            )

    def trip(self, connection: sqlite3.Connection) -> Trip:
        """Get ready for a call of the driver: its check of threads, the timeout that holds now."""
        self.check_thread()
        self._outside = None
        kept = self._asked()
        if self.stranger is None:
            self._set_timeout(connection, 0 if kept else self.held.timeout_ms)
        return Trip(self, connection, kept)

    def adjusted(self, connection: sqlite3.Connection, sql: str) -> None:
        """A statement of the target ran, which may have set what the gate sets."""
        setting = _SETTING.search(sql)
        if setting is None or self.stranger is not None:
            return
        if setting[1].lower() == "synchronous":
            self._hurry(connection)
            return
        with self.quiet():
            row = sqlite3.Cursor(connection).execute("PRAGMA busy_timeout").fetchone()
        wanted_ms, self._timeout_now_ms = self._timeout_now_ms, int(row[0])
        self.held.timeout_ms = int(row[0])
        self._set_timeout(connection, min(wanted_ms, self.held.timeout_ms))

    def sets_itself(self, connection: sqlite3.Connection, sql: str) -> bool:
        """Whether a statement is about this connection alone. It is no step then: frameworks send
        such while they connect, under a lock of theirs that the others would wait for."""
        wanted = _JOURNAL.match(sql)
        if wanted is None or self.held.parked_inside:
            return _OWN.match(sql) is not None
        try:
            with self.quiet():
                [mode] = sqlite3.Cursor(connection).execute("PRAGMA journal_mode").fetchone()
        except sqlite3.OperationalError:  # somebody has the file for himself
            return False
        return str(mode).lower() == wanted[1].lower()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Statements of the gate's own are neither steps nor shown to the target."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def release(self) -> bool:
        connection = self.held.connection
        if connection is None or not (self.held.in_transaction or self.held.reading):
            return False
        with self.quiet():
            for cursor in list(self.cursors):
                sqlite3.Cursor.close(cursor)
            sqlite3.Connection.rollback(connection)
        return True

    def _asked(self) -> tuple[Gatekeeper, int] | None:
        """Who decides now, if anybody does."""
        kept = keeper()
        if kept is not None and self.stranger is not None:
            self.redirect.note_stranger(self.stranger)
            return None
        return kept

    def _set_timeout(self, connection: sqlite3.Connection, timeout_ms: int) -> None:
        if timeout_ms != self._timeout_now_ms:
            with self.quiet():
                sqlite3.Cursor(connection).execute(f"PRAGMA busy_timeout={timeout_ms}").fetchall()
            self._timeout_now_ms = timeout_ms

    def _hurry(self, connection: sqlite3.Connection) -> None:
        """The copy need not survive a power cut. (In memory there is nothing to gain.)"""
        redirect = self.redirect
        if (
            redirect.in_place
            or connection.in_transaction
            or redirect.working.startswith("/dev/shm/")  # noqa: S108
        ):
            return
        try:
            with self.quiet():
                sqlite3.Cursor(connection).execute("PRAGMA synchronous=OFF")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY":  # it is a matter of speed only
                raise

    def _traced(self, sql: str) -> None:
        """SQLite begins to run a statement, or a trigger's part of one."""
        if self._quiet:
            return
        if self.script is not None:
            if not _of_trigger(self.script.sql, sql):
                self._stop(self.script, sql)
        elif self.inside:
            self.fired = True
        elif not _of_trigger(self._outside, sql):
            self._pass_outside(sql)
        if self.theirs is not None:
            self.theirs(sql)

    def _pass_outside(self, sql: str) -> None:
        """A statement that came to SQLite past the gate's classes; its end is not seen."""
        connection = self.held.connection
        if connection is not None:
            trip = Trip(self, connection, self._asked())
            self._stop(trip, sql)
            trip.leave()
            self._outside = sql

    def _stop(self, trip: Trip, sql: str) -> None:
        """Stand at the gate in SQLite. What is raised here gets lost in it: it is kept, and the
        statement interrupted."""
        self.held.parked_inside = True
        try:
            trip.enter(sql, None)
            self.fired = True
        except BaseException as error:
            trip.raised = error
            trip.connection.interrupt()
        finally:
            self.held.parked_inside = False


def _slept_after_busy() -> bool:
    """Whether the operation was refused and has slept since, which counts once."""
    notes = scratch()
    both = bool(notes.get("refused") and notes.get("slept"))
    if both:
        notes["refused"] = False
    return both


def _of_trigger(running: str | None, sql: str) -> bool:
    """Whether SQLite shows the same text again for what a trigger does. (A statement that changes
    something and is followed by the very same one is taken for that too, and is one step.)"""
    return running == sql and wish_of(sql) == Wish.WRITE


class Trip:
    """One call of the driver and its statements, one after another through the gate.

    ``watched`` while an operation runs; ``sql`` is the statement that runs now.
    """

    def __init__(
        self, gate: Gate, connection: sqlite3.Connection, kept: tuple[Gatekeeper, int] | None
    ) -> None:
        self.gate = gate
        self.connection = connection
        self.sql: str | None = None
        self.raised: BaseException | None = None
        self._kept = kept
        self._passed: Pass | None = None
        self._last: Pass | None = None

    @property
    def watched(self) -> bool:
        return self._kept is not None

    @property
    def wants_rows(self) -> bool:
        return self._kept is not None and self._kept[0].wants_rows

    def run(self, sql: str, parameters: Any, call: Callable[[], int | None]) -> None:
        """One statement."""
        self.enter(sql, parameters)
        self.run_all(call)

    def run_script(self, call: Callable[[], object]) -> None:
        """Statements that only SQLite tells apart."""
        self.gate.script = self
        try:
            self.run_all(lambda: (call(), None)[1])
        except sqlite3.OperationalError:
            if self.raised is not None:
                raise self.raised from None
            raise
        finally:
            self.gate.script = None

    def run_all(self, call: Callable[[], Any]) -> None:
        """A call that enters its statements itself, or one that was entered."""
        self.gate.inside += 1
        try:
            rowcount = call()
        except BaseException as error:
            self.leave(error=error)
            raise
        finally:
            self.gate.inside -= 1
        self.leave(rowcount=rowcount if isinstance(rowcount, int) and rowcount >= 0 else None)

    def enter(self, sql: str, parameters: Any) -> None:
        """Wait until the statement may run; the one before it ended."""
        self.leave()
        self._last = None
        if self._kept is not None and not self.gate.sets_itself(self.connection, sql):
            if first_word(sql) == "attach":
                self.gate.redirect.note_stranger(f"what {sql!r} attaches")
            keeper, operation = self._kept
            held = self.gate.held
            held.gives_way = not held.in_transaction and _slept_after_busy()
            try:
                self._passed = keeper.enter(
                    operation, self.gate.link, sql, parameters, calling_line()
                )
            finally:
                held.gives_way = False
        self.gate.held.before(sql)
        self.gate.fired = False
        self.sql = sql

    def leave(self, *, rowcount: int | None = None, error: BaseException | None = None) -> None:
        """The statement ended, if there was one."""
        sql, passed, self.sql, self._passed = self.sql, self._passed, None, None
        if sql is None:
            return
        name = getattr(error, "sqlite_errorname", None)
        refused = error is not None and (not self.gate.fired or str(name).startswith(_REFUSED))
        if not refused:
            self.gate.held.after(sql)
        if passed is not None and self._kept is not None:
            self._last = passed
            if str(name).startswith(_BUSY):
                scratch().update(refused=True, slept=False)
            self.gate.link.in_transaction = self.gate.held.in_transaction
            self._kept[0].leave(passed, rowcount=rowcount, error=error, sqlstate=name)

    def keep_rows(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """What the latest statement read."""
        if self._kept is not None and self._last is not None:
            self._kept[0].keep_rows(self._last, columns, list(rows))
