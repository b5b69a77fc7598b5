# ruff: noqa: SLF001, ARG005  (a gate looks into its driver)
"""The gate of asyncpg: the methods of its protocol that go to the server.

``Connection``, ``PreparedStatement``, ``Transaction``, cursors and pools all end there. Parsing
a statement (``prepare``) takes no lock on rows and passes freely; running it is the step. But a
transaction that keeps one snapshot takes it there, so then the first one is a step as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from crowdsafe.find.gates.control import Link, keeper
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.redirect import READ_ONLY
from crowdsafe.find.gates.roundtrip import (
    ROWS_MAX,
    Session,
    Trip,
    is_chatter,
    level_begun,
    session_of,
    trip_for,
    with_isolation,
)

if TYPE_CHECKING:
    from crowdsafe.find.gates.redirect import Redirect

__all__ = ["install"]

_FRESH = "_crowdsafe_fresh"
"""Of a protocol whose transaction will take its snapshot with what it asks next."""


def install(redirect: Redirect) -> Callable[[], None]:
    """Patch asyncpg; returns what undoes it."""
    import asyncpg
    from asyncpg import connect_utils
    from asyncpg.protocol.protocol import Protocol

    patches = Patches()
    for name, make in _METHODS.items():
        patches.set(Protocol, name, make(getattr(Protocol, name)))
    patches.set(
        connect_utils,
        "_parse_connect_arguments",
        _redirected(connect_utils._parse_connect_arguments, redirect),
    )
    patches.set(asyncpg.Connection, "__init__", _introduced(asyncpg.Connection.__init__, redirect))
    return patches.undo


def _redirected(original: Any, redirect: Redirect) -> Any:
    def parse(**kwargs: Any) -> Any:
        addresses, params, config = original(**kwargs)
        host, port = _host_and_port(addresses[0])
        where = redirect.postgres(
            {"host": host, "port": port, "dbname": params.database, "user": params.user}
        )
        if where["dbname"] != params.database:
            params = params._replace(database=where["dbname"])
        elif where.get("options") == READ_ONLY:
            settings = {"default_transaction_read_only": "on"} | (params.server_settings or {})
            params = params._replace(server_settings=settings)
        return addresses, params, config

    return parse


def _host_and_port(address: Any) -> tuple[str, int]:
    """asyncpg's address: (host, port), or the path of a socket that ends with the port."""
    if isinstance(address, str):
        folder, _, name = address.rpartition("/")
        port = name.rpartition(".")[2]
        return folder, int(port) if port.isdigit() else 5432
    return str(address[0]), int(address[1])


def _introduced(original: Any, redirect: Redirect) -> Any:
    def init(self: Any, protocol: Any, transport: Any, loop: Any, addr: Any, *rest: Any) -> None:
        original(self, protocol, transport, loop, addr, *rest)
        host, port = _host_and_port(addr)
        settings = str(self._params.server_settings or "")
        session = session_of(redirect, host, port, self._params.database, settings)
        protocol._crowdsafe_link = Link("asyncpg", protocol.get_server_pid(), state=session)

    return init


def _link(protocol: Any) -> Link:
    link: Link | None = getattr(protocol, "_crowdsafe_link", None)
    if link is None:
        link = Link("asyncpg", protocol.get_server_pid(), state=Session())
        protocol._crowdsafe_link = link
    return link


async def _ask(
    protocol: Any,
    sql: str,
    parameters: Any,
    run: Callable[[], Awaitable[Any]],
    told: Callable[[Trip, Any], None],
) -> Any:
    """One round trip: wait at the gate, run it, and tell how it ended."""
    trip = trip_for(_link(protocol), sql, parameters, idle=not protocol.is_in_transaction())
    if trip is None:
        return await run()
    setattr(protocol, _FRESH, False)
    await trip.enter_async()
    try:
        answer = await run()
    except BaseException as error:
        trip.link.in_transaction = protocol.is_in_transaction()
        trip.failed(error)
        raise
    trip.link.in_transaction = protocol.is_in_transaction()
    told(trip, answer)
    return answer


def _bind_execute(original: Any) -> Any:
    async def bind_execute(
        self: Any,
        state: Any,
        args: Any,
        portal_name: str,
        limit: int,
        return_extra: bool,
        timeout: Any,
    ) -> Any:
        if keeper() is None:
            return await original(self, state, args, portal_name, limit, return_extra, timeout)
        answer = await _ask(
            self,
            state.query,
            args,
            lambda: original(self, state, args, portal_name, limit, True, timeout),
            lambda trip, found: _tell(trip, state, *found[:2]),
        )
        return answer if return_extra else answer[0]

    return bind_execute


def _bind_execute_many(original: Any) -> Any:
    async def bind_execute_many(self: Any, state: Any, args: Any, *rest: Any, **named: Any) -> Any:
        if keeper() is None:
            return await original(self, state, args, *rest, **named)
        many = list(args)
        return await _ask(
            self,
            state.query,
            many[:ROWS_MAX],
            lambda: original(self, state, many, *rest, **named),
            lambda trip, found: trip.ended(),
        )

    return bind_execute_many


def _bind(original: Any) -> Any:
    async def bind(self: Any, state: Any, args: Any, *rest: Any, **named: Any) -> Any:
        if keeper() is None:
            return await original(self, state, args, *rest, **named)
        return await _ask(
            self,
            state.query,
            args,
            lambda: original(self, state, args, *rest, **named),
            lambda trip, found: trip.ended(),
        )

    return bind


def _execute(original: Any) -> Any:
    async def execute(self: Any, state: Any, portal_name: Any, *rest: Any, **named: Any) -> Any:
        if keeper() is None:
            return await original(self, state, portal_name, *rest, **named)
        return await _ask(
            self,
            state.query,
            None,
            lambda: original(self, state, portal_name, *rest, **named),
            lambda trip, found: trip.ended(),
        )

    return execute


def _prepare(original: Any) -> Any:
    async def prepare(self: Any, name: Any, text: str, *rest: Any, **named: Any) -> Any:
        """What a transaction with a snapshot prepares before all else is a step: the server takes
        the snapshot when it reads the text."""
        if keeper() is None or not getattr(self, _FRESH, False) or is_chatter(text):
            return await original(self, name, text, *rest, **named)
        return await _ask(
            self,
            f"PREPARE {text}",
            None,
            lambda: original(self, name, text, *rest, **named),
            lambda trip, found: trip.ended(),
        )

    return prepare


def _note_level(protocol: Any, text: str) -> None:
    """Remember whether the transaction that this begins will take a snapshot."""
    level = level_begun(text)
    if level is not None:
        known = level or _link(protocol).state.isolation or ""
        setattr(protocol, _FRESH, not known.lower().startswith("read "))


def _query(original: Any) -> Any:
    async def query(self: Any, text: str, timeout: Any) -> Any:
        text = with_isolation(text)
        if keeper() is not None:
            _note_level(self, text)
        if keeper() is None:
            return await original(self, text, timeout)
        return await _ask(
            self,
            text,
            None,
            lambda: original(self, text, timeout),
            lambda trip, status: trip.ended(_count(status)),
        )

    return query


def _copy(original: Any) -> Any:
    async def copy(self: Any, copy_stmt: str, *rest: Any, **named: Any) -> Any:
        if keeper() is None:
            return await original(self, copy_stmt, *rest, **named)
        return await _ask(
            self,
            copy_stmt,
            None,
            lambda: original(self, copy_stmt, *rest, **named),
            lambda trip, status: trip.ended(_count(status)),
        )

    return copy


def _close(original: Any) -> Any:
    async def close(self: Any, timeout: Any) -> Any:
        """Roll an open transaction back as a step: the server would do so at a time of its own."""
        if keeper() is not None and self.is_connected() and self.is_in_transaction():
            await self.query("ROLLBACK", timeout)
        return await original(self, timeout)

    return close


def _tell(trip: Trip, state: Any, records: Any, status: Any) -> None:
    def read() -> Any:
        columns = [attribute.name for attribute in state._get_attributes()]
        return (columns, [tuple(record) for record in records[:ROWS_MAX]]) if columns else None

    trip.ended(_count(status), read)


def _count(status: Any) -> int | None:
    """The number at the end of ``UPDATE 3``."""
    text = status.decode() if isinstance(status, bytes) else str(status or "")
    last = text.rpartition(" ")[2]
    return int(last) if last.isdigit() else None


_METHODS: dict[str, Callable[[Any], Any]] = {
    "bind_execute": _bind_execute,
    "bind_execute_many": _bind_execute_many,
    "bind": _bind,
    "execute": _execute,
    "query": _query,
    "prepare": _prepare,
    "copy_in": _copy,
    "copy_out": _copy,
    "close": _close,
}
