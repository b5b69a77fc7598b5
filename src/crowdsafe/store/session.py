"""The session that a write function gets, and what it may leave for after the commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from crowdsafe.errors import TransactionMisuse

__all__ = ["StoreSession", "after_commit", "new_session", "take_hooks"]

_HOOKS = "crowdsafe.after_commit"


class StoreSession(Session):
    """A SQLAlchemy session whose transaction belongs to the store.

    ``begin_nested()`` works as usual; ``begin``, ``commit`` and ``rollback`` raise
    TransactionMisuse, since they would end the transaction under the other writes in it, and so do
    ``close`` (which is also the end of ``with session:``) and ``reset`` with changes unsaved, since
    these would be lost without a word.
    """

    def begin(self, nested: bool = False) -> Any:
        if nested:
            return super().begin(nested=True)
        return _refuse("begin")

    def commit(self) -> NoReturn:
        _refuse("commit")

    def rollback(self) -> NoReturn:
        _refuse("rollback")

    def close(self) -> None:
        if self._unsaved():
            _refuse("close")
        super().close()

    def reset(self) -> None:
        if self._unsaved():
            _refuse("reset")
        super().reset()

    def _unsaved(self) -> bool:
        return bool(self.new or self.dirty or self.deleted)


def _refuse(what: str) -> NoReturn:
    raise TransactionMisuse(
        f"session.{what}() was called inside a store function: the store begins and ends the "
        "transaction. Return to commit, raise to undo, or use session.begin_nested()."
    )


def new_session(connection: Connection) -> StoreSession:
    """A session on a connection whose transaction the caller drives by hand."""
    return StoreSession(
        bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only"
    )


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Call ``callback`` in this process, once, right after the write has been committed.

    For nudges only: it may run on the store's own thread, it is lost when the process dies, and
    what it raises is logged. A write that is undone drops its callbacks. On a session that no
    store drives it is never called.
    """
    session.info.setdefault(_HOOKS, []).append(callback)


def take_hooks(session: Session) -> list[Callable[[], None]]:
    """Take out the callbacks that the finished write has left, and all else in ``info``."""
    hooks: list[Callable[[], None]] = session.info.pop(_HOOKS, [])
    session.info.clear()
    return hooks
