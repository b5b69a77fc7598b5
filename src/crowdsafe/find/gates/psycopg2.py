# ruff: noqa: SLF001, C901, S608  (a gate looks into its driver)
"""The gate of psycopg2: connections and cursors of subclasses made on the fly.

psycopg2 is C, so its methods cannot be replaced: ``psycopg2.connect`` gives an object of a
subclass of what the target asked for, which stays what it was for ``isinstance``, for registered
types and for ``psycopg2.extras``. BEGIN goes with the first statement and is no step of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from crowdsafe.find.gates.control import Link, keeper
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.psycopg2_spare import (
    as_new,
    check_open,
    end,
    is_unused,
    opened_at,
    spared,
)
from crowdsafe.find.gates.roundtrip import (
    ROWS_MAX,
    forced_isolation,
    session_of,
    trip_for,
    with_isolation,
)
from crowdsafe.find.gates.spare import Spares

if TYPE_CHECKING:
    from crowdsafe.find.gates.redirect import Redirect

__all__ = ["install"]

_READY, _BEGUN = 1, 2
_LEVELS = {
    1: "READ COMMITTED",
    2: "REPEATABLE READ",
    3: "SERIALIZABLE",
    4: "READ UNCOMMITTED",
}
_redirect: Redirect | None = None
_spares: Spares | None = None


def install(redirect: Redirect) -> Callable[[], None]:
    """Patch psycopg2; returns what undoes it."""
    import psycopg2
    from psycopg2.extensions import connection, make_dsn, parse_dsn

    global _redirect, _spares  # noqa: PLW0603
    _redirect = redirect
    spares = _spares = Spares(is_unused, end)
    original = psycopg2._connect

    def connect(dsn: str, connection_factory: Any = None, **kwargs: Any) -> Any:
        where = make_dsn(**redirect.postgres(parse_dsn(dsn)))
        if connection_factory is None and not kwargs:
            return _plain(original, where, spares)
        factory = connection_factory or connection
        if isinstance(factory, type):
            return original(where, connection_factory=_connection_of(factory), **kwargs)
        return _gated(original(where, connection_factory=factory, **kwargs), _connection_of)

    patches = Patches()
    patches.set(psycopg2, "_connect", connect)

    def undo() -> None:
        global _spares  # noqa: PLW0603
        patches.undo()
        _spares = None
        spares.clear()

    return undo


def _plain(original: Any, where: str, spares: Spares) -> Any:
    """A connection of psycopg2's own class, which may have had another use before."""
    from psycopg2.extensions import connection

    spare = spares.take(where) if keeper() is not None else None
    if spare is not None:
        return as_new(spare)
    return opened_at(where, original(where, connection_factory=_connection_of(connection)))


class _Gated:
    """What marks a connection or a cursor that has a gate."""


def _gated(thing: Any, subclass: Callable[[Any], Any]) -> Any:
    """What a factory of the target's made, with its class changed to the one with a gate.

    Left alone where C does not allow that: an object of psycopg2's own class itself.
    """
    if not isinstance(thing, _Gated):
        try:
            thing.__class__ = subclass(type(thing))
        except TypeError:
            return thing
    return thing


def _ask(connection: Any, sql: Any, parameters: Any, run: Callable[[], Any], cursor: Any) -> Any:
    """One round trip: wait at the gate, run it, and tell how it ended."""
    check_open(connection)
    if keeper() is None or connection.closed or connection.async_:
        return run()
    idle = connection.get_transaction_status() == 0
    level = None if connection.autocommit else _LEVELS.get(connection.isolation_level)
    trip = trip_for(
        _link(connection),
        _text(connection, sql),
        parameters,
        idle=idle,
        isolation=level and level.lower(),
        begin=f"BEGIN ISOLATION LEVEL {level}" if level and idle else None,
    )
    if trip is None:
        return run()
    trip.enter()
    try:
        answer = run()
    except BaseException as error:
        trip.link.in_transaction = connection.get_transaction_status() in {2, 3}
        trip.failed(error)
        raise
    trip.link.in_transaction = connection.get_transaction_status() in {2, 3}
    if cursor is None:
        trip.ended()
    else:
        trip.ended(cursor.rowcount, lambda: _rows(cursor))
    return answer


def _rows(cursor: Any) -> tuple[list[str], list[tuple[Any, ...]]] | None:
    """The first rows of a result that is here already, read and then scrolled back to."""
    from psycopg2.extensions import cursor as plain

    if cursor.name is not None or not cursor.description:
        return None
    columns = [column[0] for column in cursor.description]
    if cursor.rowcount <= 0:
        return columns, []
    made_by, cursor.row_factory = cursor.row_factory, None
    try:
        rows = plain.fetchmany(cursor, ROWS_MAX)
        plain.scroll(cursor, 0, "absolute")
    finally:
        cursor.row_factory = made_by
    return columns, rows


def _link(connection: Any) -> Link:
    link: Link | None = vars(connection).get("_crowdsafe_link")
    if link is None:
        assert _redirect is not None
        info = connection.info
        session = session_of(_redirect, info.host, info.port, info.dbname, info.options)
        link = Link("psycopg2", info.backend_pid, state=session)
        connection._crowdsafe_link = link
    return link


def _text(connection: Any, sql: Any) -> str:
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    return str(sql.as_string(connection) if hasattr(sql, "as_string") else sql)


def _named(made: Any, base: Any) -> Any:
    made.__name__, made.__qualname__, made.__module__ = (
        base.__name__,
        base.__qualname__,
        base.__module__,
    )
    return made


@lru_cache(maxsize=64)
def _connection_of(base: Any) -> Any:
    """The subclass of a connection class that has a gate."""
    from psycopg2.extensions import connection
    from psycopg2.extensions import cursor as plain

    if issubclass(base, _Gated):
        return base
    gated_plain: Any = _cursor_of(cast("Any", plain))

    class Gated(_Gated, base):  # type: ignore[misc]
        crowdsafe_gone = False

        @property
        def closed(self) -> int:
            return 1 if self.crowdsafe_gone else int(super().closed)

        def commit(self) -> Any:
            return self._crowdsafe_end("COMMIT", super().commit)

        def rollback(self) -> Any:
            return self._crowdsafe_end("ROLLBACK", super().rollback)

        def _crowdsafe_end(self, sql: str, run: Callable[[], Any]) -> Any:
            check_open(self)
            if self.closed or self.status != _BEGUN:
                return run()
            return _ask(self, sql, None, run, None)

        def close(self) -> Any:
            self._crowdsafe_leave()
            if self.crowdsafe_gone or (keeper() is not None and spared(self, _spares)):
                return None
            return super().close()

        def reset(self) -> Any:
            self._crowdsafe_leave()
            return super().reset()

        def set_isolation_level(self, level: Any) -> Any:
            self._crowdsafe_leave()
            return super().set_isolation_level(level)

        def _crowdsafe_leave(self) -> None:
            """psycopg2 rolls an open transaction back without a call of ``rollback``, or leaves
            it to the server, which does it at a time of its own."""
            if keeper() is None or self.closed or self.async_:
                return
            if self.status == _BEGUN:
                self.rollback()
            elif self.get_transaction_status() in {2, 3}:
                self.cursor().execute("ROLLBACK")

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            check_open(self)
            if base.cursor is not connection.cursor:
                return _gated(self._crowdsafe_cursor(*args, **kwargs), _cursor_of)
            asked = args[1] if len(args) > 1 else kwargs.pop("cursor_factory", None)
            factory = asked or self.cursor_factory or plain
            if isinstance(factory, type):
                factory = _cursor_of(factory)
            name = args[0] if args else kwargs.pop("name", None)
            return _gated(super().cursor(name, factory, *args[2:], **kwargs), _cursor_of)

        def _crowdsafe_cursor(self, *args: Any, **kwargs: Any) -> Any:
            """From a ``cursor`` of the target's own: asked for our class where it makes a plain
            one, whose class cannot be changed."""
            made = super().cursor(*args, **kwargs)
            if type(made) is not plain:
                return made
            return super().cursor(*args, **{**kwargs, "cursor_factory": gated_plain})

    return _named(Gated, base)


@lru_cache(maxsize=64)
def _cursor_of(base: Any) -> Any:
    """The subclass of a cursor class that has a gate."""
    if issubclass(base, _Gated):
        return base

    class Gated(_Gated, base):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> Any:
            _force_level(self.connection)
            text = with_isolation(query) if isinstance(query, str) else query
            self._crowdsafe_asked = text, vars
            return self._crowdsafe_ask(text, vars, partial(super().execute, text, vars))

        def executemany(self, query: Any, vars_list: Any) -> Any:
            _force_level(self.connection)
            many = list(vars_list)
            return self._crowdsafe_ask(
                query, many[:ROWS_MAX], partial(super().executemany, query, many)
            )

        def callproc(self, procname: Any, parameters: Any = None) -> Any:
            given = () if parameters is None else parameters
            marks = ", ".join(["%s"] * len(given))
            return self._crowdsafe_ask(
                f"SELECT * FROM {procname}({marks})",
                given,
                partial(super().callproc, procname, *([] if parameters is None else [given])),
            )

        def copy_expert(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
            return self._crowdsafe_ask(
                sql, None, partial(super().copy_expert, sql, *args, **kwargs)
            )

        def copy_from(self, file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
            run = partial(super().copy_from, file, table, *args, **kwargs)
            return self._crowdsafe_ask(f'COPY "{table}" FROM STDIN', None, run)

        def copy_to(self, file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
            run = partial(super().copy_to, file, table, *args, **kwargs)
            return self._crowdsafe_ask(f'COPY "{table}" TO STDOUT', None, run)

        def fetchone(self) -> Any:
            return self._crowdsafe_fetch(super().fetchone)

        def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
            return self._crowdsafe_fetch(partial(super().fetchmany, *args, **kwargs))

        def fetchall(self) -> Any:
            return self._crowdsafe_fetch(super().fetchall)

        def __next__(self) -> Any:
            if self.name is None or 0 <= self.rownumber < self.rowcount:
                return super().__next__()
            return self._crowdsafe_fetch(super().__next__)

        def _crowdsafe_ask(self, sql: Any, parameters: Any, run: Callable[[], Any]) -> Any:
            return _ask(self.connection, sql, parameters, run, self)

        def _crowdsafe_fetch(self, run: Callable[[], Any]) -> Any:
            """Fetching from a server-side cursor reads, and locks, what it was declared for."""
            if self.name is None:
                return run()
            sql, parameters = getattr(self, "_crowdsafe_asked", ("FETCH", None))
            return self._crowdsafe_ask(sql, parameters, run)

    return _named(Gated, base)


def _force_level(connection: Any) -> None:
    """Have the transaction that is about to begin run at the forced isolation level, if any,
    and go back to the target's own when none is forced any more."""
    if connection.closed or connection.autocommit or connection.status != _READY:
        return
    level, held = forced_isolation(), vars(connection)
    if level is not None:
        held.setdefault("_crowdsafe_level", connection.isolation_level)
        connection.isolation_level = level
    elif "_crowdsafe_level" in held:
        connection.isolation_level = held.pop("_crowdsafe_level")
