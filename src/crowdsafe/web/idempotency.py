"""Idempotency-Key: the first request runs, every repeat gets the very same answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.store.options import options_of
from crowdsafe.web.problem import InvalidIdempotencyKey
from crowdsafe.writes.once import once

__all__ = [
    "Answer",
    "checked_key",
    "fingerprint",
    "json_text",
    "once_answer",
    "scope_of",
    "write_options",
]

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it is stored: the body as text, so that a repeat is equal byte for byte."""

    status: int
    body: str
    headers: dict[str, str]
    replayed: bool = False


def checked_key(header: str | None) -> str | None:
    """The key, or None without a header. Raises InvalidIdempotencyKey.

    Limits: 1 to 255 visible ASCII characters.
    """
    if header is None:
        return None
    if not _KEY.fullmatch(header):
        raise InvalidIdempotencyKey
    return header


def fingerprint(method: str, path: str, query: str, body: bytes) -> dict[str, str]:
    """What tells one request from another: where it went, and what its body says.

    JSON bodies that differ only in spaces or in the order of their members are the same.
    """
    try:
        said = json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        said = body
    digest = hashlib.sha256(said).hexdigest()
    return {"method": method, "path": path, "query": query, "body": digest}


def scope_of(whose: str, method: str, path: str) -> str:
    """Whose key it is and for what: at most 200 characters, a long path by its digest."""
    if len(path) > 100:
        path = "sha256:" + hashlib.sha256(path.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{whose} {method} {path}"


def json_text(value: Any) -> str:
    """JSON of plain data, dataclasses, pydantic models, dates and decimals; never NaN."""
    return json.dumps(
        value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def once_answer(
    session: Session,
    fn: Callable[[], Any],
    *,
    key: str,
    scope: str,
    request: Mapping[str, str],
    answer: Callable[[Any], Answer],
) -> Answer:
    """Run ``fn`` and store its answer in this transaction, or give the stored answer back.

    Holds: under one key in one scope the effects happen once, and every later call gets the
    first one's answer, in any process and after any crash. Does not hold: a refusal is not
    stored (it changed nothing), so a repeat of a refused request is judged anew. Proved by
    ``tests/web/test_idempotency.py``.
    """

    def run() -> dict[str, Any]:
        made = answer(fn())
        return {"status": made.status, "body": made.body, "headers": made.headers}

    done = once(session, key, run, request=dict(request), scope=scope)
    stored = done.answer
    return Answer(stored["status"], stored["body"], dict(stored["headers"]), done.replayed)


def write_options(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The isolation and the lane that ``fn`` declares, for a function that wraps it."""
    options = options_of(fn)
    lane: Hashable | None = None if options.lane is None else options.lane(*args, **kwargs)
    return {"isolation": options.isolation, "lane": lane}


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(
        f"{type(value).__name__} is not JSON-able: give plain data, a dataclass or a pydantic model"
    )
