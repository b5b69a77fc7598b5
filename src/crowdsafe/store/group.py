"""One transaction for one write or for many: a savepoint each, one commit for all.

Holds: each write of a group sees those before it and no half of any other; a write that fails is
undone alone; no caller is answered before the commit. Does not hold: a database error that the
write function catches and hides. The same synchronous code runs on SQLite's writer thread, in a
caller's thread, and inside asyncio through SQLAlchemy's greenlet bridge.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import groupby
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Protocol

from sqlalchemy import Connection

from crowdsafe.errors import OutcomeUnknown, TransactionMisuse
from crowdsafe.store.retry import Failure, classify, told
from crowdsafe.store.session import StoreSession, new_session, take_hooks
from crowdsafe.store.settings import Isolation
from crowdsafe.store.work import Work, in_hook

__all__ = ["Control", "refuse_nesting", "run_group", "run_read"]

log = logging.getLogger("crowdsafe.store")

_GROUP_S_MAX = 0.2
_inside: ContextVar[bool] = ContextVar("crowdsafe_inside_store_function", default=False)


class Control(Protocol):
    """How a database's transactions are driven by hand on a driver's connection."""

    def begin(self, raw: Any, isolation: Isolation, escalated: bool, limit_s: float | None) -> None:
        """Begin; no wait and no statement in it may last longer than ``limit_s``."""

    def begin_read(self, raw: Any) -> None: ...
    def savepoint(self, raw: Any) -> None: ...
    def renew_savepoint(self, raw: Any) -> None: ...
    def rollback_to(self, raw: Any) -> None: ...
    def commit(self, raw: Any) -> None: ...
    def rollback(self, raw: Any) -> None: ...

    def wants_savepoints(self) -> bool:
        """Whether a group should have them from its start, or only when a write has failed."""

    def spoilt(self) -> None:
        """Told when a group without savepoints had to begin again."""

    def is_open(self, raw: Any) -> bool:
        """Whether a transaction is open, failed or not."""

    def can_commit(self, raw: Any) -> bool:
        """Whether a transaction is open and has not failed."""


def refuse_nesting() -> None:
    """Raise TransactionMisuse when called from inside a function that a store is running, or from
    a callback given to ``after_commit``."""
    if _inside.get() or in_hook():
        raise TransactionMisuse(
            "store.write or store.read was called inside a store function or an after_commit "
            "callback; call the function directly and pass it the session"
        )


def run_group(
    connection: Connection,
    works: Sequence[Work],
    control: Control,
    *,
    isolation: Isolation,
    escalated: bool = False,
    limit_s: float | None = None,
) -> list[Work]:
    """Run claimed works in one transaction and commit it.

    Afterwards each work has its value or its error, but for those returned, which must run again:
    they lost a race of their own (``lost``), or the group had run for 0.2 s. Raises when the whole
    transaction was lost; then no work has an outcome and nothing is stored. OutcomeUnknown when
    the connection broke during the commit, or a write ended the transaction under the others.
    """
    with _Transaction(connection, control) as raw:
        begin = partial(control.begin, raw, isolation, escalated, limit_s)
        begin()
        restart = partial(_restart, raw, control, begin)
        return _Group(connection, raw, control, restart).run(works)


def run_read(
    connection: Connection, fn: Callable[..., Any], args: Any, kwargs: Any, control: Control
) -> Any:
    """Run ``fn`` on a read-only snapshot, which ends with it."""
    with _Transaction(connection, control) as raw:
        control.begin_read(raw)
        session = new_session(connection)
        value = _call(fn, session, args, kwargs)
        session.flush()  # the database refuses what the function has added or changed
        session.expunge_all()
        return value


class _Transaction:
    """Gives the driver's connection; on leaving, nothing is open on it any more."""

    def __init__(self, connection: Connection, control: Control) -> None:
        self._connection = connection
        self._control = control

    def __enter__(self) -> Any:
        self._outer = self._connection.begin()
        self._raw = self._connection.connection.dbapi_connection
        self._token = _inside.set(True)
        return self._raw

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _inside.reset(self._token)
        try:
            if self._control.is_open(self._raw):
                self._control.rollback(self._raw)
            self._outer.close()
        except Exception:
            self._connection.invalidate()
            if error is None:
                raise


def _restart(raw: Any, control: Control, begin: Callable[[], None]) -> None:
    control.rollback(raw)
    begin()


class _Savepoint(enum.Enum):
    NONE = "not set"
    FRESH = "set, and nothing was written since"
    USED = "set, and a write ran since"


class _Spoilt(Exception):
    """A write failed in a transaction that has no savepoints to undo it alone."""


class _Group:
    """The works of one transaction, run one after the other, or by their combiner."""

    def __init__(
        self, connection: Connection, raw: Any, control: Control, restart: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._raw = raw
        self._control = control
        self._restart = restart
        self._several = False
        self._savepoints = False
        self._savepoint = _Savepoint.NONE
        self._session = new_session(connection)

    def run(self, works: Sequence[Work]) -> list[Work]:
        parts = list(_parts(works))
        self._several = len(parts) > 1
        self._savepoints = self._several and self._control.wants_savepoints()
        try:
            again = self._run_parts(parts)
        except _Spoilt:
            log.debug("a transaction of %d writes begins again, with savepoints", len(works))
            self._control.spoilt()
            self._begin_again()
            again = self._run_parts(_alone(parts))
        if any(work.error is None and work not in again for work in works):
            self._commit()
        return again

    def _run_parts(self, parts: Sequence[list[Work]]) -> list[Work]:
        again: list[Work] = []
        started = time.monotonic()
        for part in parts:
            for work in part:
                work.reset()
            if part is not parts[0] and time.monotonic() - started > _GROUP_S_MAX:
                again.extend(part)
            elif len(part) == 1 or not self._combine(part):
                again.extend(work for work in part if not self._run_one(work))
        return again

    def _run_one(self, work: Work) -> bool:
        """Run one work; false when it lost a race that leaves the others unharmed."""
        self._start_part()
        try:
            work.value = work.context.run(
                _call, work.fn, self._session, work.call.args, work.call.kwargs
            )
            self._end_part()
        except BaseException as error:
            if not isinstance(error, Exception):
                work.error = error
            work.lost = self._undo_part(error) is Failure.CONFLICT
            if work.lost:
                work.losses += 1
            else:
                work.error = told(error)
            return not work.lost
        work.hooks = take_hooks(self._session)
        return True

    def _combine(self, works: list[Work]) -> bool:
        """Run works by their combiner; false when one spoilt it for all and each must run alone."""
        combiner = works[0].combiner
        assert combiner is not None
        self._start_part()
        try:
            results = combiner.run(self._session, [work.call for work in works])
            self._end_part()
        except BaseException as error:
            log.info("%d combined writes run one by one, since together: %r", len(works), error)
            self._several = True
            self._undo_part(error)
            return False
        for work, result in zip(works, results, strict=True):
            if isinstance(result, BaseException):
                work.error = result
            else:
                work.value = result
        works[-1].hooks = take_hooks(self._session)
        return True

    def _begin_again(self) -> None:
        self._restart()
        self._session = new_session(self._connection)
        self._savepoints = True
        self._savepoint = _Savepoint.NONE

    def _start_part(self) -> None:
        if not self._savepoints:
            return
        if self._savepoint is _Savepoint.NONE:
            self._control.savepoint(self._raw)
        elif self._savepoint is _Savepoint.USED:
            self._control.renew_savepoint(self._raw)
        self._savepoint = _Savepoint.USED

    def _end_part(self) -> None:
        self._session.flush()
        if not self._control.is_open(self._raw) and self._several:
            raise OutcomeUnknown from TransactionMisuse("a write ended the transaction of several")
        if not (self._control.can_commit(self._raw) and self._session.is_active):
            raise TransactionMisuse(
                "the write caught a database error, or ended the transaction itself; let the "
                "error out, or put the statement into `with session.begin_nested():`"
            )
        self._session.expunge_all()

    def _undo_part(self, error: BaseException) -> Failure:
        """Undo the part that raised ``error``; raises it when the whole transaction is lost."""
        failure = classify(error)
        by_database = failure is not Failure.FINAL and hasattr(error, "orig")
        alone = isinstance(error, Exception | SystemExit) and not by_database
        if not alone or not self._control.is_open(self._raw):
            raise error
        if self._savepoints:
            self._control.rollback_to(self._raw)
            self._savepoint = _Savepoint.FRESH
        elif self._several:
            raise _Spoilt from error
        self._session = new_session(self._connection)
        return failure

    def _commit(self) -> None:
        try:
            self._control.commit(self._raw)
        except Exception as error:
            if classify(error) is Failure.DISCONNECT:
                raise OutcomeUnknown from error
            raise


def _parts(works: Sequence[Work]) -> Iterator[list[Work]]:
    """Neighbours that one combiner does together, and single works, in order."""

    def part(work: Work) -> tuple[int, Hashable | None]:
        return (id(work.combiner), work.lane) if work.combiner else (id(work), None)

    for _, run in groupby(works, key=part):
        yield list(run)


def _alone(parts: Sequence[list[Work]]) -> list[list[Work]]:
    return [[work] for part in parts for work in part]


def _call(fn: Callable[..., Any], session: StoreSession, args: Any, kwargs: Any) -> Any:
    _inside.set(True)
    try:
        value = fn(session, *args, **kwargs)
    except StopIteration as error:  # which no future can hold (PEP 479)
        raise RuntimeError(f"{getattr(fn, '__qualname__', fn)!r} raised StopIteration") from error
    if isinstance(value, CoroutineType | GeneratorType | AsyncGeneratorType):
        if not isinstance(value, AsyncGeneratorType):
            value.close()
        raise TypeError(
            f"{getattr(fn, '__qualname__', fn)!r} is an async function or a generator; a store "
            "function is a plain one: write it with def and return, and do slow calls before or "
            "after the transaction"
        )
    return value
