"""Rows that are locked, read, and written back many at a time: the state of shared limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    LargeBinary,
    String,
    bindparam,
    cast,
    column,
    delete,
    extract,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from crowdsafe.store.session import StoreSession
from crowdsafe.store.stores import AsyncStore, Store
from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.traffic.keys import KEY_CHARS_MAX, NAME_CHARS_MAX

__all__ = [
    "Locked",
    "RateRow",
    "SlotRow",
    "drop_idle",
    "lock_rows",
    "look_at_row",
    "save_rows",
    "write_async",
]

T = TypeVar("T")
_FORGET_MAX = 1000
_NOW_US = cast(extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)


class RateRow(CrowdsafeBase):
    """The times of a key's last accepted requests, packed; of no use after ``ends_us``."""

    __tablename__ = "crowdsafe_rates"

    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_CHARS_MAX), primary_key=True)
    state: Mapped[bytes] = mapped_column(LargeBinary)
    ends_us: Mapped[int] = mapped_column(BigInteger)


class SlotRow(CrowdsafeBase):
    """Who holds the slots of a key and until when, packed; of no use after ``ends_us``."""

    __tablename__ = "crowdsafe_slots"

    name: Mapped[str] = mapped_column(String(NAME_CHARS_MAX), primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_CHARS_MAX), primary_key=True)
    state: Mapped[bytes] = mapped_column(LargeBinary)
    ends_us: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True, slots=True)
class Locked:
    """A row that this transaction holds: its state (empty when new), and the time in microseconds
    since 1970, read after the lock was won: the database's, or on SQLite this machine's."""

    state: bytes
    now_us: int


def lock_rows(session: Session, table: Any, name: str, keys: Iterable[str]) -> dict[str, Locked]:
    """Lock the rows of ``keys``, making those that are missing, in an order that all share."""
    connection = session.connection()
    values = {"the_name": name, "all_keys": sorted(set(keys))}
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_lock_postgres(table), values)
        return {row.key: Locked(bytes(row.state), row.now_us) for row in rows}
    if not isinstance(session, StoreSession):
        connection.execute(_touch_sqlite(table))
    states = {row.key: row.state for row in connection.execute(_read_sqlite(table), values)}
    now_us = time.time_ns() // 1000
    return {key: Locked(states.get(key, b""), now_us) for key in values["all_keys"]}


def look_at_row(session: Session, table: Any, name: str, key: str) -> Locked:
    """The row of ``key`` as ``lock_rows`` gives it, but neither locked nor made."""
    connection = session.connection()
    is_pg = connection.dialect.name == "postgresql"
    now_us = _NOW_US if is_pg else literal(time.time_ns() // 1000, BigInteger)
    found = connection.execute(
        select(table.c.state, now_us).where(table.c.name == name, table.c.key == key)
    ).one_or_none()
    return Locked(b"", 0) if found is None else Locked(bytes(found[0]), found[1])


def save_rows(
    session: Session, table: Any, name: str, rows: Mapping[str, tuple[bytes, int]]
) -> None:
    """Store the state and ``ends_us`` of rows that this transaction has locked."""
    if not rows:
        return
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        states, ends = zip(*rows.values(), strict=True)
        connection.execute(
            _save_postgres(table),
            {
                "the_name": name,
                "all_keys": list(rows),
                "all_states": list(states),
                "all_ends": list(ends),
            },
        )
        return
    connection.execute(
        _save_sqlite(table),
        [
            {"name": name, "key": key, "state": state, "ends_us": ends_us}
            for key, (state, ends_us) in rows.items()
        ],
    )


def drop_idle(session: Session, table: Any, name: str, now_us: int) -> int:
    """Delete up to 1000 rows of ``name`` that are of no use any more; how many there were."""
    idle = select(table.c.key).where(table.c.name == name, table.c.ends_us < now_us)
    if session.connection().dialect.name == "postgresql":
        idle = idle.with_for_update(skip_locked=True)
    keys = list(session.connection().execute(idle.limit(_FORGET_MAX)).scalars())
    if keys:
        session.connection().execute(
            delete(table).where(
                table.c.name == name, table.c.key.in_(keys), table.c.ends_us < now_us
            )
        )
    return len(keys)


async def write_async(
    store: AsyncStore | Store, fn: Callable[..., T], *args: Any, **kwargs: Any
) -> T:
    """``store.write`` for whichever store there is, a plain one in a thread."""
    if isinstance(store, AsyncStore):
        return await store.write(fn, *args, **kwargs)
    return await asyncio.to_thread(store.write, fn, *args, **kwargs)


@lru_cache(maxsize=8)
def _lock_postgres(table: Any) -> Any:
    """One statement that takes all locks in the order of its keys, so that two never deadlock."""
    keys = func.unnest(bindparam("all_keys", type_=ARRAY(String))).table_valued(
        column("key", String)
    )
    rows = keys.render_derived("k")
    fresh = select(
        bindparam("the_name", type_=String),
        rows.c.key,
        literal(b"", LargeBinary),
        literal(0, BigInteger),
    )
    statement = postgresql.insert(table).from_select(["name", "key", "state", "ends_us"], fresh)
    return statement.on_conflict_do_update(
        index_elements=["name", "key"], set_={"ends_us": table.c.ends_us}
    ).returning(table.c.key, table.c.state, _NOW_US.label("now_us"))


@lru_cache(maxsize=8)
def _save_postgres(table: Any) -> Any:
    rows = (
        func.unnest(
            bindparam("all_keys", type_=ARRAY(String)),
            bindparam("all_states", type_=ARRAY(LargeBinary)),
            bindparam("all_ends", type_=ARRAY(BigInteger)),
        )
        .table_valued(
            column("key", String), column("state", LargeBinary), column("ends_us", BigInteger)
        )
        .render_derived("r")
    )
    return (
        update(table)
        .where(table.c.name == bindparam("the_name"), table.c.key == rows.c.key)
        .values(state=rows.c.state, ends_us=rows.c.ends_us)
    )


@lru_cache(maxsize=8)
def _touch_sqlite(table: Any) -> Any:
    """Changes nothing, and takes SQLite's one write lock."""
    return update(table).where(table.c.name == "", table.c.key == "").values(ends_us=0)


@lru_cache(maxsize=8)
def _read_sqlite(table: Any) -> Any:
    return select(table.c.key, table.c.state).where(
        table.c.name == bindparam("the_name"),
        table.c.key.in_(bindparam("all_keys", expanding=True)),
    )


@lru_cache(maxsize=8)
def _save_sqlite(table: Any) -> Any:
    statement = sqlite.insert(table)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["name", "key"], set_={"state": new.state, "ends_us": new.ends_us}
    )
