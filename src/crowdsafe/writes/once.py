"""Idempotency keys: the first call runs, repeats get its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, bindparam, delete, select, tuple_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput, KeyReused
from crowdsafe.store.retry import LostRace
from crowdsafe.store.types import utcnow
from crowdsafe.writes.rows import upsert
from crowdsafe.writes.tables import OnceRecord

__all__ = ["Once", "forget_once", "once"]

KEY_LENGTH_MAX = 255
SCOPE_LENGTH_MAX = 200
ANSWER_BYTES_MAX = 1_000_000
_TRIES = 5

_table: Any = OnceRecord.__table__
_find = select(_table.c.fingerprint, _table.c.answer).where(
    _table.c.scope == bindparam("the_scope"), _table.c.key == bindparam("the_key")
)
_store = (
    update(_table)
    .where(_table.c.scope == bindparam("the_scope"), _table.c.key == bindparam("the_key"))
    .values(answer=bindparam("the_answer", type_=_table.c.answer.type))
)

_unreserve = delete(_table).where(
    _table.c.scope == bindparam("the_scope"), _table.c.key == bindparam("the_key")
)


@dataclass(frozen=True, slots=True)
class Once:
    """An answer, as JSON gives it back, and whether it was given before."""

    answer: Any
    replayed: bool


def once(session: Session, key: str, fn: Callable[[], Any], *, request: Any, scope: str) -> Once:
    """Run ``fn`` and store its answer under ``key``, or give back the answer that is stored.

    ``scope`` says whose key it is (such as ``f"user:{id}"``): no other scope sees the answer.
    ``request`` is what was asked, JSON-able: the same key with another request is refused. The
    answer is JSON-able too, at most 1 MB. Key 1 to 255 characters, scope 1 to 200.

    Holds: record, answer and effects commit in one transaction, so for one scope and key the
    effects happen once, however many calls there are at once, from whichever process; a call that
    is killed or raises leaves nothing, and the next one runs. Does not hold: effects outside the
    session; repeats after the record was forgotten (``forget_once``).
    Proved by ``tests/writes/test_once.py``.

    Raises KeyReused, InvalidInput, and what ``fn`` raises, which is not stored.
    """
    _check_name("key", key, KEY_LENGTH_MAX)
    _check_name("scope", scope, SCOPE_LENGTH_MAX)
    fingerprint = _fingerprint(request)
    session.flush()
    where = {"the_scope": scope, "the_key": key}
    for _ in range(_TRIES):
        if _reserve(session, scope, key, fingerprint):
            return Once(_run(session, fn, where), replayed=False)
        found = session.connection().execute(_find, where).one_or_none()
        if found is not None:
            return _replay(found, fingerprint)
    raise LostRace(f"the record of {key!r} came and went {_TRIES} times meanwhile")


def _run(session: Session, fn: Callable[[], Any], where: Mapping[str, str]) -> Any:
    """Run ``fn`` and store its answer; undo both, and the reservation, when that fails."""
    try:
        with session.begin_nested():
            text = _json(fn())
            if len(text) > ANSWER_BYTES_MAX:
                raise InvalidInput(f"an answer has at most {ANSWER_BYTES_MAX} bytes")
            answer = json.loads(text)
            session.flush()
            session.connection().execute(_store, {**where, "the_answer": {"answer": answer}})
    except Exception:
        # For a caller that catches this and commits. Where the database refuses, the transaction
        # is lost, and the reservation with it.
        with suppress(DBAPIError):
            session.connection().execute(_unreserve, where)
        raise
    return answer


def forget_once(session: Session, *, before: datetime, limit: int = 1000) -> int:
    """Delete up to ``limit`` records from before ``before``; returns how many there were."""
    old = select(_table.c.scope, _table.c.key).where(_table.c.at < before).limit(limit)
    result = session.connection().execute(
        delete(_table).where(tuple_(_table.c.scope, _table.c.key).in_(old))
    )
    return cast("CursorResult[Any]", result).rowcount


def _reserve(session: Session, scope: str, key: str, fingerprint: str) -> bool:
    statement = (
        upsert(session, _table)
        .values(scope=scope, key=key, fingerprint=fingerprint, at=utcnow())
        .on_conflict_do_nothing(index_elements=["scope", "key"])
        .returning(_table.c.key)
    )
    return session.connection().execute(statement).scalar_one_or_none() is not None


def _replay(found: Any, fingerprint: str) -> Once:
    if found.fingerprint != fingerprint:
        raise KeyReused
    if found.answer is None:
        raise InvalidInput("once was called inside itself with the same key", field="key")
    return Once(found.answer["answer"], replayed=True)


def _check_name(field: str, value: Any, length_max: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= length_max or "\x00" in value:
        raise InvalidInput(
            f"the {field} of once is text of 1 to {length_max} characters", field=field
        )


def _fingerprint(request: Any) -> str:
    return hashlib.sha256(_json(request).encode()).hexdigest()


def _json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"once needs a request and an answer that JSON can hold: {error}"
        ) from error
