"""State machines: at most one caller makes a move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select, update
from sqlalchemy.orm import Session

from crowdsafe.errors import AlreadyMoved, ConfigError, ForbiddenTransition, NotFound
from crowdsafe.store.retry import LostRace
from crowdsafe.store.types import utcnow
from crowdsafe.writes.rows import key_column, resolve_table, table_of

__all__ = ["Log", "Moved", "StateMachine", "transition"]

MACHINE = "crowdsafe.machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The table that gets one row for each move, and which column holds what.

    ``table`` may be a function, for a class that is declared later; ``note`` is left out when None.
    """

    table: Any | Callable[[], Any]
    row: str
    from_: str = "from_state"
    to: str = "to_state"
    by: str = "by"
    at: str = "at"
    note: str | None = None


@dataclass(frozen=True, slots=True)
class StateMachine:
    """The states of a column and which may follow which, declared once in the column's ``info``.

    Example: ``mapped_column(info={"crowdsafe.machine": StateMachine(edges={"draft": {"sent"}})})``.
    """

    edges: Mapping[str, Iterable[str]]
    log: Log | None = None

    def allowed(self, state: str) -> list[str]:
        """The states that may follow ``state``, sorted."""
        return sorted(self.edges.get(state, ()))


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was made; ``version`` and ``log_id`` are None where the model has none."""

    from_: str
    to: str
    version: int | None
    log_id: int | None
    at: datetime


def transition(
    session: Session,
    model: type[Any],
    id: Any,
    attribute: str,
    *,
    from_: str,
    to: str,
    by: str | None = None,
    note: str | None = None,
    entry: Mapping[str, Any] | None = None,
) -> Moved:
    """Move the row from one state to another, if it is still in the first.

    One conditional UPDATE, and one log row where the machine has a log, in the caller's
    transaction. Counts ``version`` up and sets ``updated_by`` and ``updated_at`` where the model
    has them. ``entry`` holds further columns of the log row.

    Holds: of any number of calls for one move, at any isolation level, on SQLite and PostgreSQL,
    one wins and one log row is written. Does not hold: the machine is not checked against
    writes that go round this function. Proved by ``tests/writes/test_transition.py``.

    Raises AlreadyMoved(current, by, at), ForbiddenTransition(current, allowed), NotFound,
    StaleVersion when it was moved away and back meanwhile (a store then runs the write again);
    ConfigError when the column declares no StateMachine.
    """
    table = table_of(model)
    column = table.c[attribute]
    machine = column.info.get(MACHINE)
    if not isinstance(machine, StateMachine):
        raise ConfigError(f"{model.__name__}.{attribute} declares no StateMachine in its info")
    if to not in machine.edges.get(from_, ()):
        raise ForbiddenTransition(
            f"{attribute} cannot go from {from_!r} to {to!r}",
            current=from_,
            allowed=machine.allowed(from_),
        )
    session.flush()
    at = utcnow()
    version = _move(session, table, id, column, from_, to, by, at)
    if version is None:
        raise _why_lost(session, table, id, column, from_, machine.log)
    _expire_loaded(session, model, id)
    return Moved(
        from_,
        to,
        version.number,
        _log(session, machine.log, id, from_, to, by, note, at, entry),
        at,
    )


@dataclass(frozen=True, slots=True)
class _Version:
    number: int | None


def _move(
    session: Session, table: Table, id: Any, column: Any, from_: str, to: str, by: Any, at: datetime
) -> _Version | None:
    values: dict[Any, Any] = {column: to}
    version = table.c.get("version")
    if version is not None:
        values[version] = version + 1
    if "updated_by" in table.c:
        values[table.c.updated_by] = by
    if "updated_at" in table.c:
        values[table.c.updated_at] = at
    statement = (
        update(table)
        .where(key_column(table) == id, column == from_)
        .values(values)
        .returning(key_column(table) if version is None else version)
    )
    found = session.connection().execute(statement).one_or_none()
    if found is None:
        return None
    return _Version(None if version is None else int(found[0]))


def _why_lost(
    session: Session, table: Table, id: Any, column: Any, from_: str, log: Log | None
) -> AlreadyMoved | LostRace | NotFound:
    row = (
        session.connection()
        .execute(table.select().where(key_column(table) == id))
        .mappings()
        .one_or_none()
    )
    if row is None:
        return NotFound(f"there is no {table.name} {id!r}", id=id)
    current = row[column]
    if current == from_:
        return LostRace(f"{table.name} {id!r} was moved away from {from_!r} and back meanwhile")
    by, at = row.get("updated_by"), row.get("updated_at")
    if log is not None:
        entries = resolve_table(log.table)
        last = (
            session.connection()
            .execute(
                select(entries.c[log.by], entries.c[log.at])
                .where(entries.c[log.row] == id, entries.c[log.to] == current)
                .order_by(key_column(entries).desc())
                .limit(1)
            )
            .one_or_none()
        )
        by, at = last or (by, at)
    mover = f", moved there by {by}" if by else ""
    return AlreadyMoved(
        f"it is already in {current!r}{mover}; reload and decide from there",
        current=current,
        by=by,
        at=at,
    )


def _log(
    session: Session,
    log: Log | None,
    id: Any,
    from_: str,
    to: str,
    by: str | None,
    note: str | None,
    at: datetime,
    entry: Mapping[str, Any] | None,
) -> int | None:
    if log is None:
        return None
    table = resolve_table(log.table)
    values = {log.row: id, log.from_: from_, log.to: to, log.by: by, log.at: at, **(entry or {})}
    if log.note is not None:
        values[log.note] = note
    statement = table.insert().returning(key_column(table))
    return int(session.connection().execute(statement, values).scalar_one())


def _expire_loaded(session: Session, model: type[Any], id: Any) -> None:
    loaded = session.identity_map.get(session.identity_key(model, id))
    if loaded is not None:
        session.expire(loaded)
