"""Two people edit one record: what only one changed is merged, what both changed is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError, Conflict, InvalidInput
from crowdsafe.store.types import utcnow
from crowdsafe.writes.merge import merge, same
from crowdsafe.writes.rows import lock_row

__all__ = ["Edited", "edit"]

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Edited(Generic[M]):
    """A saved edit: the row, its version, the fields that were written, and whether someone else
    had saved since the version that the editor started from."""

    row: M
    version: int
    applied: tuple[str, ...]
    merged: bool


def edit(
    session: Session,
    model: type[M],
    id: Any,
    *,
    base: Mapping[str, Any],
    changes: Mapping[str, Any],
    by: str | None = None,
    version: int | None = None,
) -> Edited[M]:
    """Save ``changes`` that were made from the values in ``base``.

    A field that nobody else changed is written; one that already has the new value is fine; one
    that someone else changed to another value is a Conflict, and then nothing is written.
    ``base`` holds at least the fields of ``changes``; a change that equals its base is none.
    ``version`` is the one that the editor started from, if known.

    Holds: of edits made at once, fields changed by one only all survive, and a field that two
    changed differently is saved by one while the other gets a Conflict, at any isolation level, on
    SQLite and PostgreSQL. Does not hold: rules that span fields; check those in the same write.
    Which fields a client may send, and of which type, is not known here either: any field of the
    model but its key and these three can be edited. Proved by ``tests/writes/test_edit.py``.

    Raises Conflict(fields={name: (base, yours, theirs)}, version, by, at), NotFound, InvalidInput.
    The model needs a whole-number ``version`` column (ConfigError); ``updated_by`` and
    ``updated_at`` are set where it has them.
    """
    _check_fields(model, base, changes)
    row: Any = lock_row(session, model, id)
    seen = row.version
    if version is not None and version > seen:
        raise InvalidInput(
            f"version {version} does not exist yet; it is now {seen}", field="version"
        )
    theirs = {name: getattr(row, name) for name in changes}
    result = merge({name: base[name] for name in changes}, changes, theirs)
    if result.conflicts:
        raise Conflict(
            fields=result.conflicts,
            version=seen,
            by=getattr(row, "updated_by", None),
            at=getattr(row, "updated_at", None),
            based_on=version,
        )
    applied = tuple(name for name in changes if not same(result.merged[name], theirs[name]))
    if applied:
        for name in applied:
            setattr(row, name, result.merged[name])
        touch(row, by)
        session.flush()
    return Edited(row, row.version, applied, merged=version is not None and version < seen)


def touch(row: Any, by: str | None) -> None:
    """Count a locked row's ``version`` up and note who changed it and when, where it has those."""
    if hasattr(row, "version") and inspect(row).mapper.version_id_col is None:
        row.version += 1
    if hasattr(row, "updated_by"):
        row.updated_by = by
    if hasattr(row, "updated_at"):
        row.updated_at = utcnow()


def _check_fields(model: type[Any], base: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    mapper = inspect(model)
    if "version" not in mapper.column_attrs:
        raise ConfigError(f"{model.__name__} needs a whole-number `version` column to be edited")
    reserved = {"version", "updated_by", "updated_at"} | {
        mapper.get_property_by_column(column).key for column in mapper.primary_key
    }
    for name in changes:
        if name not in mapper.column_attrs or name in reserved:
            raise InvalidInput(f"{name!r} is not a field that can be edited", field=name)
        if name not in base:
            raise InvalidInput(
                f"base lacks {name!r}: send the value that the editor started from", field=name
            )
