# ruff: noqa: SLF001, ARG001, ARG005  (a gate looks into its driver)
"""The gate of psycopg 3: every round trip goes through a connection's ``wait``.

What is about to be asked is told by the generator that ``wait`` is given, which has not begun:
its name says which step of psycopg it is, its arguments hold the SQL. So a statement is one step
however many messages it takes (BEGIN, preparing, describing), for subclasses of connections and
cursors too. Connecting goes through ``_connect_gen``.
"""

from __future__ import annotations

import os
import selectors
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crowdsafe.find.gates.control import Link, keeper
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.roundtrip import (
    ROWS_MAX,
    Trip,
    forced_isolation,
    session_of,
    trip_for,
    with_isolation,
)
from crowdsafe.find.gates.spare import Spares

if TYPE_CHECKING:
    from crowdsafe.find.gates.redirect import Redirect

__all__ = ["install"]

_LINK = "_crowdsafe_link"
_OPEN = "_crowdsafe_open_trip"
_SHARED = "_crowdsafe_shared_transaction"
_WHERE = "_crowdsafe_conninfo"
_ENVIRONMENT = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER")
"""What a redirect takes from the environment where the parameters leave it out."""
_declared: weakref.WeakKeyDictionary[Any, tuple[str, Any]] = weakref.WeakKeyDictionary()
"""What a server-side cursor was declared for: fetching from it reads, and locks, the same."""


def install(redirect: Redirect) -> Callable[[], None]:
    """Patch psycopg 3; returns what undoes it."""
    import psycopg
    from psycopg._connection_base import BaseConnection
    from psycopg._cursor_base import BaseCursor

    spares = Spares(_is_alive, lambda pgconn: pgconn.finish())
    patches = Patches()
    for owner, wait, close in (
        (psycopg.Connection, _wait, _close),
        (psycopg.AsyncConnection, _wait_async, _close_async),
    ):
        patches.set(owner, "wait", wait(owner.wait, redirect))
        patches.set(owner, "close", close(owner.close, spares))
    base: Any = BaseConnection
    patches.set(base, "_get_tx_start_command", _start_command(base._get_tx_start_command))
    patches.set(BaseCursor, "_convert_query", _convert(BaseCursor._convert_query))
    patches.set(base, "_connect_gen", _connect(base._connect_gen.__func__, redirect, spares))

    def undo() -> None:
        patches.undo()
        spares.clear()

    return undo


def _connect(original: Any, redirect: Redirect, spares: Spares) -> Any:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    @lru_cache(maxsize=64)
    def redirected(conninfo: str, _environment: tuple[str | None, ...]) -> str:
        return make_conninfo("", **redirect.postgres(conninfo_to_dict(conninfo)))

    def connect_gen(cls: Any, conninfo: str = "") -> Any:
        where = redirected(conninfo, tuple(os.environ.get(name) for name in _ENVIRONMENT))
        spare = spares.take(where) if keeper() is not None else None
        made = cls(spare) if spare is not None else (yield from original(cls, where))
        setattr(made, _WHERE, where)
        return made

    return classmethod(connect_gen)


def _convert(original: Any) -> Any:
    def convert(self: Any, query: Any, params: Any = None) -> Any:
        return original(self, with_isolation(query) if isinstance(query, str) else query, params)

    return convert


def _wait(original: Any, redirect: Redirect) -> Any:
    def wait(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            self._check_connection_ok()
        trip = _trip(self, gen, redirect)
        if trip is None:
            return original(self, gen, *args, **kwargs)
        answered = _answered(gen)
        if not trip.entered:
            trip.enter()
        try:
            answer = original(self, gen, *args, **kwargs)
            if self._pipeline:
                original(self, self._pipeline._fetch_gen(flush=True))
        except BaseException as error:
            _note_transaction(self, trip)
            trip.failed(error)
            raise
        _note_transaction(self, trip)
        answered(self, trip, answer)
        return answer

    return wait


def _wait_async(original: Any, redirect: Redirect) -> Any:
    async def wait(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        trip = _trip(self, gen, redirect)
        if trip is None:
            return await original(self, gen, *args, **kwargs)
        answered = _answered(gen)
        if not trip.entered:
            await trip.enter_async()
        try:
            answer = await original(self, gen, *args, **kwargs)
            if self._pipeline:
                await original(self, self._pipeline._fetch_gen(flush=True))
        except BaseException as error:
            _note_transaction(self, trip)
            trip.failed(error)
            raise
        _note_transaction(self, trip)
        answered(self, trip, answer)
        return answer

    return wait


def _note_transaction(connection: Any, trip: Trip) -> None:
    status = connection.pgconn.transaction_status
    trip.link.in_transaction = None if connection._pipeline else status in {2, 3}


def _close(original: Any, spares: Spares) -> Any:
    def close(self: Any) -> None:
        if _leaves_transaction(self):
            self.wait(self._exec_command(b"ROLLBACK"))
        if _can_be_spared(self):
            try:
                self.wait(self._exec_command(b"DISCARD ALL"))
            except self.Error:
                return original(self)  # type: ignore[no-any-return]
            return _spare(self, spares)
        return original(self)  # type: ignore[no-any-return]

    return close


def _close_async(original: Any, spares: Spares) -> Any:
    async def close(self: Any) -> None:
        if _leaves_transaction(self):
            await self.wait(self._exec_command(b"ROLLBACK"))
        if _can_be_spared(self):
            try:
                await self.wait(self._exec_command(b"DISCARD ALL"))
            except self.Error:
                return await original(self)  # type: ignore[no-any-return]
            return _spare(self, spares)
        return await original(self)  # type: ignore[no-any-return]

    return close


def _can_be_spared(connection: Any) -> bool:
    """Whether an operation closes a connection of its own, with nothing left open on it."""
    return (
        keeper() is not None
        and not connection.closed
        and not hasattr(connection, "_pool")
        and not connection._pipeline
        and not connection._tpc
        and hasattr(connection, _WHERE)
        and connection.pgconn.transaction_status == 0
    )


def _spare(connection: Any, spares: Spares) -> None:
    """Take the server's side away from a connection, which is closed then, and keep it."""
    pgconn, connection.pgconn = connection.pgconn, _finished()
    connection._closed = True
    spares.keep(getattr(connection, _WHERE), pgconn)


@lru_cache(maxsize=1)
def _finished() -> Any:
    """What libpq has for a connection that was closed."""
    from psycopg import pq

    pgconn = pq.PGconn.connect_start(b"host=127.0.0.1 port=1")
    pgconn.finish()
    return pgconn


def _is_alive(pgconn: Any) -> bool:
    """Whether the server has said nothing since: what it says to an idle connection is goodbye."""
    if pgconn.status != 0 or pgconn.transaction_status != 0:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        return not selector.select(0)


def _leaves_transaction(connection: Any) -> bool:
    """Whether an operation closes it with an open transaction.

    The server would notice the end of the connection at a time of its own and roll back then; the
    gate rolls back itself, as a step, so that a run stays the same each time.
    """
    if keeper() is None or connection.closed or connection._pipeline or _pooled(connection):
        return False
    return connection.pgconn.transaction_status in {2, 3}  # INTRANS, INERROR


def _pooled(connection: Any) -> bool:
    pool = getattr(connection, "_pool", None)
    return bool(pool and getattr(pool, "close_returns", False))


def _start_command(original: Any) -> Any:
    def start_command(self: Any) -> bytes:
        level = forced_isolation()
        if level is None:
            return bytes(original(self))
        held = self._isolation_level, self._begin_statement
        from psycopg import IsolationLevel

        try:
            self._isolation_level = IsolationLevel[level.replace(" ", "_")]
            self._begin_statement = b""
            return bytes(original(self))
        finally:
            self._isolation_level, self._begin_statement = held

    return start_command


def _answered(gen: Any) -> Callable[[Any, Trip, Any], None]:
    """What tells, when the generator has ended, what it gave; made before it begins."""
    name = gen.__name__
    if name not in _READS:
        return lambda connection, trip, answer: trip.ended()
    if name == "_stream_send_gen":
        return _keep_open
    cursor = gen.gi_frame.f_locals["self"]

    def tell(connection: Any, trip: Trip, answer: Any) -> None:
        count = len(answer) if name == "_fetch_gen" else cursor.rowcount
        trip.ended(count, lambda: _rows(cursor))

    return tell


def _keep_open(connection: Any, trip: Trip, answer: Any) -> None:
    """A stream has been asked for; it is answered, or waits for locks, with the first fetch."""
    setattr(connection, _OPEN, trip)


def _rows(cursor: Any) -> tuple[Sequence[str], list[tuple[Any, ...]]] | None:
    result, description = cursor.pgresult, cursor.description
    if result is None or not description or not cursor._tx:
        return None
    rows = cursor._tx.load_rows(0, min(result.ntuples, ROWS_MAX), tuple)
    return [column.name for column in description], rows


def _trip(connection: Any, gen: Any, redirect: Redirect) -> Trip | None:
    """The step that this generator is, or None: outside of an operation, or nothing is asked."""
    if keeper() is None:
        return None
    name = getattr(gen, "__name__", "")
    if name == "_stream_fetchone_gen":
        opened: Trip | None = vars(connection).pop(_OPEN, None)
        return opened
    tell = _TEXTS.get(name)
    if tell is None:
        return None
    frame = getattr(gen, "gi_frame", None)
    told = tell(connection, {} if frame is None else frame.f_locals)
    if told is None:
        return None
    query, parameters = told
    idle = connection.pgconn.transaction_status == 0 and not vars(connection).get(_SHARED)
    return trip_for(
        _link(connection, redirect),
        _text(connection, query),
        parameters,
        idle=idle,
        isolation=_isolation(connection),
        begin=_begin(connection) if idle and name not in _TRANSACTIONS else None,
    )


def _isolation(connection: Any) -> str | None:
    level = None if connection.autocommit else connection.isolation_level
    return None if level is None else str(level.name.replace("_", " ").lower())


def _begin(connection: Any) -> str | None:
    """What begins a transaction by itself, if it sets an isolation level."""
    if connection.autocommit or (connection.isolation_level is None and not forced_isolation()):
        return None
    return str(connection._get_tx_start_command().decode())


def _link(connection: Any, redirect: Redirect) -> Link:
    link: Link | None = getattr(connection, _LINK, None)
    if link is None:
        info = connection.info
        session = session_of(redirect, info.host, info.port, info.dbname, info.options)
        link = Link("psycopg", info.backend_pid, state=session)
        setattr(connection, _LINK, link)
    return link


def _text(connection: Any, query: Any) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(connection.info.encoding, "replace")
    if hasattr(query, "as_string"):
        return str(query.as_string(connection))
    return "".join(getattr(query, "strings", [str(query)]))


Told = tuple[Any, Any] | None


def _executes(connection: Any, names: dict[str, Any]) -> Told:
    _shares(connection)
    return names["query"], names["params"]


def _shares(connection: Any) -> None:
    """In autocommit, the statements of a pipeline share a transaction that its end commits."""
    if connection._pipeline and connection.autocommit:
        setattr(connection, _SHARED, connection.pgconn.transaction_status != 2)


def _executes_many(connection: Any, names: dict[str, Any]) -> Told:
    _shares(connection)
    many = names["params_seq"]
    return names["query"], list(many[:ROWS_MAX]) if isinstance(many, list | tuple) else None


def _copies(connection: Any, names: dict[str, Any]) -> Told:
    connection._crowdsafe_copy = names["statement"]
    return names["statement"], names["params"]


def _ends_copy(connection: Any, names: dict[str, Any]) -> Told:
    """Rows written to a COPY arrive with its end."""
    return getattr(connection, "_crowdsafe_copy", "COPY"), None


def _declares(connection: Any, names: dict[str, Any]) -> Told:
    told = names["query"], names["params"]
    _declared[names["self"]] = told
    return told


def _fetches(connection: Any, names: dict[str, Any]) -> Told:
    return _declared.get(names["self"])


def _commits(connection: Any, names: dict[str, Any]) -> Told:
    return None if connection.pgconn.transaction_status == 0 else ("COMMIT", None)


def _rolls_back(connection: Any, names: dict[str, Any]) -> Told:
    return None if connection.pgconn.transaction_status == 0 else ("ROLLBACK", None)


def _enters(connection: Any, names: dict[str, Any]) -> Told:
    """``connection.transaction()`` begins; a pipeline that begins asks nothing."""
    subject = names["self"]
    if not hasattr(subject, "force_rollback"):
        return None
    if connection.pgconn.transaction_status == 0:
        return connection._get_tx_start_command(), None
    name = subject.savepoint_name or f"_pg3_{connection._num_transactions + 1}"
    return f'SAVEPOINT "{name}"', None


def _exits(connection: Any, names: dict[str, Any]) -> Told:
    subject = names["self"]
    if not hasattr(subject, "force_rollback"):
        return _syncs(connection, names)
    undone = names["exc_val"] is not None or subject.force_rollback
    if subject._outer_transaction:
        return ("ROLLBACK" if undone else "COMMIT"), None
    verb = "ROLLBACK TO" if undone else "RELEASE"
    return f'{verb} "{subject.savepoint_name}"', None


def _syncs(connection: Any, names: dict[str, Any]) -> Told:
    return ("COMMIT", None) if vars(connection).pop(_SHARED, False) else None


def _commands(connection: Any, names: dict[str, Any]) -> Told:
    return names["command"], None


def _prepares(connection: Any, names: dict[str, Any]) -> Told:
    return "PREPARE TRANSACTION", None


def _finishes(connection: Any, names: dict[str, Any]) -> Told:
    return names["action"], None


_TEXTS: dict[str, Callable[[Any, dict[str, Any]], Told]] = {
    "_execute_gen": _executes,
    "_executemany_gen_pipeline": _executes_many,
    "_executemany_gen_no_pipeline": _executes_many,
    "_stream_send_gen": _executes,
    "_start_copy_gen": _copies,
    "copy_end": _ends_copy,
    "_declare_gen": _declares,
    "_fetch_gen": _fetches,
    "_commit_gen": _commits,
    "_rollback_gen": _rolls_back,
    "_enter_gen": _enters,
    "_exit_gen": _exits,
    "_sync_gen": _syncs,
    "_exec_command": _commands,
    "_tpc_prepare_gen": _prepares,
    "_tpc_finish_gen": _finishes,
}
_TRANSACTIONS = frozenset({"_enter_gen", "_exit_gen", "_commit_gen", "_rollback_gen"})
_READS = frozenset(
    {
        "_execute_gen",
        "_executemany_gen_pipeline",
        "_executemany_gen_no_pipeline",
        "_fetch_gen",
        "_stream_send_gen",
        "_stream_fetchone_gen",
    }
)
