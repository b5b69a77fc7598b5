"""Read, modify, write, without losing what someone else wrote in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from crowdsafe.writes.edit import touch
from crowdsafe.writes.rows import lock_row

__all__ = ["mutate"]

M = TypeVar("M")


def mutate(
    session: Session, model: type[M], id: Any, fn: Callable[[M], object], *, by: str | None = None
) -> M:
    """Give the row as it is now to ``fn``, which changes it in place; return the saved row.

    Counts ``version`` up and sets ``updated_by`` and ``updated_at`` where the model has them and
    ``fn`` changed something. What ``fn`` raises undoes it.

    Holds: calls for one row take effect one after the other, each seeing the result of the one
    before, at any isolation level, on SQLite and PostgreSQL. Does not hold: writes to the row that
    neither lock it nor go through a part. Proved by ``tests/writes/test_mutate.py``.

    Raises NotFound.
    """
    row = lock_row(session, model, id)
    fn(row)
    if session.is_modified(row):
        touch(row, by)
        session.flush()
    return row
