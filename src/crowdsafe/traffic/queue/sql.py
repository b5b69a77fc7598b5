"""Statements whose text stays the same for any number of rows or values, on both databases.

PostgreSQL takes lists as arrays and rows as one JSON document, SQLite takes both as JSON text: a
statement is then compiled and prepared once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    String,
    Text,
    bindparam,
    cast,
    column,
    func,
    null,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from crowdsafe.errors import InvalidInput
from crowdsafe.store.types import utcnow
from crowdsafe.traffic.queue.tables import queues

__all__ = [
    "DIALECTS",
    "among",
    "as_json",
    "clock",
    "encoded",
    "given_rows",
    "hold_writer",
    "is_pg",
    "listed",
    "moment",
    "not_among",
    "open_queue",
    "rows_value",
]

DIALECTS = ("sqlite", "postgresql")
_CLOCK = select(func.clock_timestamp())
_NO_CLOCK: Any = null()
_OPEN = {
    dialect: make(queues)
    .values(name=bindparam("the_queue"), virtual_time=0.0)
    .on_conflict_do_nothing()
    for dialect, make in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}


def is_pg(connection: Connection) -> bool:
    """Whether this is PostgreSQL, which has other writers at the same time."""
    return connection.dialect.name == "postgresql"


def moment(connection: Connection, now: datetime | None) -> datetime:
    """``now``, or what the database's clock says; on SQLite all processes share the machine's."""
    if now is not None:
        return now
    if is_pg(connection):
        clock: datetime = connection.execute(_CLOCK).scalar_one()
        return clock
    return utcnow()


def clock(dialect: str) -> Any:
    """The database's clock, to be read along with something else; nothing on SQLite."""
    return func.clock_timestamp() if dialect == "postgresql" else _NO_CLOCK


def hold_writer(connection: Connection, queue: str) -> None:
    """On SQLite, be the one writer from here on, also where the transaction is not a store's."""
    if not is_pg(connection):
        connection.execute(_OPEN["sqlite"], {"the_queue": queue})


def open_queue(connection: Connection, queue: str) -> None:
    """Make the queue's row where there is none."""
    connection.execute(_OPEN[connection.dialect.name], {"the_queue": queue})


def among(dialect: str, value: Any, name: str, type_: TypeEngine[Any] | None = None) -> Any:
    """``value`` is in the list that is bound as ``name`` (see ``listed``)."""
    if dialect == "postgresql":
        return value == func.any(bindparam(name, type_=ARRAY(type_ or String())))
    return value.in_(_each(name))


def not_among(dialect: str, value: Any, name: str) -> Any:
    """``value`` is not in the list that is bound as ``name``."""
    if dialect == "postgresql":
        return value != func.all(bindparam(name, type_=ARRAY(String())))
    return value.not_in(_each(name))


def _each(name: str) -> Any:
    each = func.json_each(bindparam(name, type_=Text)).table_valued("value")
    return select(each.c.value)


def listed(connection: Connection, values: Iterable[Any]) -> Any:
    """The value to bind for ``among`` and ``not_among``."""
    return list(values) if is_pg(connection) else json.dumps(list(values))


def given_rows(dialect: str, types: Mapping[str, TypeEngine[Any]]) -> Any:
    """A table of the rows that are bound as ``rows`` (see ``rows_value``)."""
    if dialect == "postgresql":
        document = cast(bindparam("rows", type_=Text), JSONB)
        columns = [column(name, type_) for name, type_ in types.items()]
        return (
            func.jsonb_to_recordset(document)
            .table_valued(*columns)
            .render_derived("given", with_types=True)
        )
    each = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    picked = [
        func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name)
        for name, type_ in types.items()
    ]
    return select(*picked).subquery("given")


def rows_value(rows: Sequence[Mapping[str, Any]]) -> str:
    """The value to bind for ``given_rows``; JSON columns hold JSON text (see ``as_json``)."""
    return json.dumps(rows)


def as_json(dialect: str, value: ColumnElement[Any]) -> ColumnElement[Any]:
    """JSON text as the value of a JSON column."""
    return cast(value, JSONB) if dialect == "postgresql" else value


def encoded(value: Any, field: str, bytes_max: int) -> str:
    """``value`` as JSON text that both databases take. Raises InvalidInput."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{field} is not plain JSON: {error}", field=field) from error
    if size > bytes_max:
        raise InvalidInput(
            f"{field} has {size} bytes of JSON; at most {bytes_max} are taken",
            field=field,
            limit_bytes=bytes_max,
        )
    if "\\u0000" in text:
        raise InvalidInput(
            f"{field} holds a NUL character, which no JSON column takes", field=field
        )
    return text
