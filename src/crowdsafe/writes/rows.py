"""What the parts share: resolving a column or a model, locking a row, inserting unless there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Table, inspect, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapper, Session

from crowdsafe.errors import ConfigError, NotFound
from crowdsafe.store.session import StoreSession

__all__ = ["key_column", "lock_row", "resolve_table", "table_of", "upsert"]

M = TypeVar("M")


def table_of(model: type[Any]) -> Table:
    """The table of a mapped class. Raises ConfigError when it is not one plain table."""
    mapper: Mapper[Any] = inspect(model)
    if not isinstance(mapper.local_table, Table):
        raise ConfigError(f"{model.__name__} is not mapped to one plain table")
    return mapper.local_table


def resolve_table(declared: Any | Callable[[], Any]) -> Table:
    """The table behind a declaration: a Table, a mapped class, or a function that gives one."""
    if isinstance(declared, Table):
        return declared
    return table_of(declared) if isinstance(declared, type) else resolve_table(declared())


def key_column(table: Table) -> Any:
    """The one primary key column. Raises ConfigError when the key has several."""
    columns = list(table.primary_key)
    if len(columns) != 1:
        raise ConfigError(f"{table.name} needs a primary key of one column, it has {len(columns)}")
    return columns[0]


def lock_row(session: Session, model: type[M], id: Any) -> M:
    """The row as it is now, locked until the transaction ends. Raises NotFound.

    On PostgreSQL by SELECT ... FOR UPDATE. On SQLite the store's transaction holds the one write
    lock already; a session of the caller's own takes it by touching the row first.
    """
    session.flush()
    if session.get_bind().dialect.name == "sqlite" and not isinstance(session, StoreSession):
        table = table_of(model)
        key = key_column(table)
        session.connection().execute(update(table).where(key == id).values({key: key}))
    # OF this table alone: PostgreSQL cannot lock what an eagerly joined relationship leaves out.
    row = session.get(model, id, with_for_update={"of": model}, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no {model.__name__} {id!r}", id=id)
    return row


def upsert(session: Session, table: Table) -> Any:
    """This database's INSERT that knows ON CONFLICT."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
