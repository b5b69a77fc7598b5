"""Requests and replies as they go to an app and come back, and the errors on the way."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BODY_BYTES_MAX",
    "Fault",
    "RawReply",
    "RawRequest",
    "broken_off",
    "fault_of",
    "sqlstate_of",
    "told_by",
    "witness",
]

BODY_BYTES_MAX = 1 << 20
"""How much of a reply's body is kept and compared."""

_LINKS_MAX = 10
_ERRORS_KEPT_MAX = 20
_MESSAGE_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class RawRequest:
    """``path`` is decoded, ``raw_path`` and ``query`` are as they are sent."""

    method: str
    scheme: str
    host: str
    path: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """The exception that a request or a function ended with."""

    error: str
    message: str
    sqlstate: str | None = None


@dataclass(slots=True)
class RawReply:
    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    fault: Fault | None = None


def broken_off(reply: RawReply, error: BaseException) -> RawReply:
    """The reply of an app that an exception came out of: 500, with the fault."""
    reply.status = max(reply.status, 500)
    reply.fault = fault_of(error)
    return reply


def told_by(reply: RawReply, seen: list[BaseException], silent: str | None) -> RawReply:
    """The reply of an app that returned, with the fault that it hid behind a 500, if it was seen.
    ``silent`` says in words that the app gave no reply at all."""
    hidden = telling(seen)
    if silent is not None:
        reply.fault = fault_of(hidden or RuntimeError(silent))
    elif reply.status >= 500 and hidden is not None:
        reply.fault = fault_of(hidden)
    return reply


def fault_of(error: BaseException) -> Fault:
    message = str(error)[:_MESSAGE_CHARS_MAX]
    return Fault(type(error).__name__, message, sqlstate_of(error))


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE, or SQLite's name of the error, of the database error behind an exception.

    Looks along ``__cause__``, ``__context__``, SQLAlchemy's ``orig`` and the members of a group,
    at most 10 links.
    """
    ahead: list[BaseException] = [error]
    seen: set[int] = set()
    while ahead and len(seen) < _LINKS_MAX:
        current = ahead.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        for name in ("sqlstate", "pgcode", "sqlite_errorname"):
            value = getattr(current, name, None)
            if isinstance(value, str) and value:
                return value
        ahead += _behind(current)
    return None


def _behind(error: BaseException) -> list[BaseException]:
    links = [getattr(error, "orig", None), error.__cause__, error.__context__]
    if isinstance(error, BaseExceptionGroup):
        links += error.exceptions
    return [link for link in links if isinstance(link, BaseException)]


_seen: ContextVar[list[BaseException] | None] = ContextVar("crowdsafe_find_errors", default=None)
_installing = threading.Lock()
_connected: set[str] = set()


@contextmanager
def witness() -> Iterator[list[BaseException]]:
    """Collect the exceptions that the app's own handlers turn into replies.

    Seen are those that Django and Flask announce by their signals, and those that are logged with
    their traceback. An app that answers 500 and tells nobody is not seen through.
    """
    _listen()
    seen: list[BaseException] = []
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def telling(seen: list[BaseException]) -> BaseException | None:
    """Of the exceptions seen, the last one from the database, or else the last one."""
    for error in reversed(seen):
        if sqlstate_of(error):
            return error
    return seen[-1] if seen else None


def _note(error: BaseException | None) -> None:
    seen = _seen.get()
    if seen is not None and error is not None and len(seen) < _ERRORS_KEPT_MAX:
        seen.append(error)


def _listen() -> None:
    """Connect to what there is, once; a framework that is imported later is connected later."""
    with _installing:
        if "logging" not in _connected:
            _connected.add("logging")
            _watch_log()
        for module, signal in (
            ("django.core.signals", "got_request_exception"),
            ("flask.signals", "got_request_exception"),
        ):
            if module in sys.modules and module not in _connected:
                _connected.add(module)
                getattr(sys.modules[module], signal).connect(_on_signal, weak=False)


def _on_signal(*_: Any, exception: BaseException | None = None, **__: Any) -> None:
    _note(exception or sys.exception())


def _watch_log() -> None:
    make = logging.getLogRecordFactory()

    def noting(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.exc_info:
            _note(record.exc_info[1])
        return record

    logging.setLogRecordFactory(noting)
