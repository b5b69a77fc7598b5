"""Read, modify, write, without losing what someone else wrote in between."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from crowdsafe.writes.edit import touch
from crowdsafe.writes.merge import same
from crowdsafe.writes.rows import lock_row

__all__ = ["mutate"]

M = TypeVar("M")


def mutate(
    session: Session, model: type[M], id: Any, fn: Callable[[M], object], *, by: str | None = None
) -> M:
    """Give the row as it is now to ``fn``, which changes it in place; return the saved row.

    A document (list, dict) that ``fn`` changes inside is saved too.
    Counts ``version`` up and sets ``updated_by`` and ``updated_at`` where the model has them and
    ``fn`` changed something. What ``fn`` raises undoes it.

    Holds: calls for one row take effect one after the other, each seeing the result of the one
    before, at any isolation level, on SQLite and PostgreSQL. Does not hold: writes to the row that
    neither lock it nor go through a part. Proved by ``tests/writes/test_mutate.py``.

    Raises NotFound.
    """
    row = lock_row(session, model, id)
    before = {name: deepcopy(value) for name, value in _fields(row).items()}
    fn(row)
    now = _fields(row)
    changed = [name for name, value in now.items() if not same(value, before.get(name))]
    for name in changed:
        if isinstance(now[name], list | dict):
            flag_modified(row, name)
    if changed or session.is_modified(row):
        touch(row, by)
        session.flush()
    return row


def _fields(row: Any) -> dict[str, Any]:
    """The loaded columns of a row: what a query of ``fn`` has flushed counts as changed too."""
    state = inspect(row)
    return {name: state.dict[name] for name in state.mapper.column_attrs.keys() & state.dict.keys()}
