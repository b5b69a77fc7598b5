# ruff: noqa: SLF001  (a gate looks into its driver)
"""Uses a psycopg2 connection again that an operation closed (see ``spare``).

psycopg2 does not let go of the server's side of a connection, so it is the object itself that is
used again, and only when nobody but the finder refers to it any more. Until then it says that it
is closed.
"""

from __future__ import annotations

import selectors
import sys
from typing import Any

from crowdsafe.find.gates.spare import Spares

__all__ = ["as_new", "check_open", "end", "is_unused", "opened_at", "spared"]

_OWN_REFERENCES = 3


def opened_at(where: str, connection: Any) -> Any:
    """Note what a connection was opened with: it may be used again for the same."""
    connection._crowdsafe_opened = (where, connection.encoding)
    return connection


def check_open(connection: Any) -> None:
    """Raise what psycopg2 raises when a closed connection is used."""
    if getattr(connection, "crowdsafe_gone", False):
        from psycopg2 import InterfaceError

        raise InterfaceError("connection already closed")


def spared(connection: Any, spares: Spares | None) -> bool:
    """Make the server's side as new and keep the connection, which is closed for its user."""
    from psycopg2 import Error
    from psycopg2.extensions import cursor

    opened = vars(connection).get("_crowdsafe_opened")
    if spares is None or opened is None or connection.closed or opened[1] != connection.encoding:
        return False
    if connection.get_transaction_status() != 0:
        return False
    try:
        connection.autocommit = True
        with cursor(connection) as plain:
            plain.execute("DISCARD ALL")
    except Error:
        return False
    connection.crowdsafe_gone = True
    spares.keep(opened[0], connection)
    return True


def is_unused(connection: Any) -> bool:
    """Whether nobody else refers to it, and the server has not said goodbye."""
    if sys.getrefcount(connection) > _OWN_REFERENCES:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)


def as_new(connection: Any) -> Any:
    """Forget all that its last user set."""
    opened = connection._crowdsafe_opened
    vars(connection).clear()
    connection._crowdsafe_opened = opened
    connection.autocommit = False
    connection.isolation_level = None
    connection.readonly = None
    connection.deferrable = None
    connection.cursor_factory = None
    for things in (connection.notices, connection.notifies):
        del things[:]
    for types in (connection.string_types, connection.binary_types):
        types.clear()
    return connection


def end(connection: Any) -> None:
    """Close it for good."""
    from psycopg2.extensions import connection as base

    base.close(connection)
