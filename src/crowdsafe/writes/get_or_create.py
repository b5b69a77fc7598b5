"""One row for one natural key, whoever comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import Table, UniqueConstraint, select
from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError, InvalidInput
from crowdsafe.store.retry import LostRace
from crowdsafe.writes.rows import key_column, table_of, upsert

__all__ = ["get_or_create"]

M = TypeVar("M")
_TRIES = 5


def get_or_create(
    session: Session, model: type[M], defaults: Mapping[str, Any] | None = None, **unique: Any
) -> tuple[M, bool]:
    """The row whose ``unique`` fields have these values, made with ``defaults`` if it is not there.

    Inserts first, and reads only when the insert found the row there; ``SELECT ... FOR UPDATE``
    cannot lock a row that does not exist. Returns the row and whether this call made it.

    Holds: calls at once leave one row, one of them reports that it made it, and none fails, on
    SQLite and PostgreSQL. Does not hold: without a unique constraint over exactly these fields,
    which is refused. Proved by ``tests/writes/test_get_or_create.py``.

    Raises ConfigError when no such constraint is declared; InvalidInput for a None, of which a
    unique constraint allows many; SQLAlchemy's IntegrityError when ``defaults`` break another
    constraint.
    """
    table = table_of(model)
    _check_unique(table, set(unique))
    for name, value in unique.items():
        if value is None:
            raise InvalidInput(f"{name} is None, and a unique constraint allows many", field=name)
    session.flush()
    statement = (
        upsert(session, table)
        .values({**(defaults or {}), **unique})
        .on_conflict_do_nothing(index_elements=sorted(unique))
        .returning(key_column(table))
    )
    wanted = select(model).filter_by(**unique)
    for _ in range(_TRIES):
        made = session.connection().execute(statement).scalar_one_or_none()
        row = session.execute(wanted).scalar_one_or_none()
        if row is not None:
            return row, made is not None
    raise LostRace(f"{table.name} {unique!r} was made and deleted {_TRIES} times meanwhile")


def _check_unique(table: Table, names: set[str]) -> None:
    if not names:
        raise InvalidInput("get_or_create needs the fields that name the row")
    declared: list[Any] = [table.primary_key]
    declared += [item for item in table.constraints if isinstance(item, UniqueConstraint)]
    declared += [item for item in table.indexes if item.unique]
    constraints = [{column.name for column in item.columns} for item in declared]
    if names not in constraints:
        raise ConfigError(
            f"{table.name} has no unique constraint over exactly {sorted(names)}; declare one, "
            "since without it two callers can make two rows"
        )
