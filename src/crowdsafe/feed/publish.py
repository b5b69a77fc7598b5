"""Put an event into the log, inside the transaction whose news it is."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from sqlalchemy import Table, insert
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput
from crowdsafe.feed.tables import KEY_CHARS_MAX, NAME_CHARS_MAX, FeedEvent
from crowdsafe.store.session import after_commit
from crowdsafe.store.types import utcnow
from crowdsafe.writes.bulk import insert_rows

__all__ = [
    "DATA_BYTES_MAX",
    "Nudged",
    "listeners",
    "nudge_all",
    "publish",
    "publish_all",
    "topic_name",
]

DATA_BYTES_MAX = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*", re.ASCII)
_RESERVED_TYPES = frozenset({"error", "message", "open", "resync"})
_INSERT = insert(FeedEvent.__table__).inline()  # type: ignore[arg-type]


class Nudged(Protocol):
    """Something in this process that wants to know at once that there may be new events."""

    def nudge(self) -> None:
        """Must be quick and may be called from any thread."""


listeners: weakref.WeakSet[Nudged] = weakref.WeakSet()
"""The hubs that run in this process."""


def publish(
    session: Session,
    topic: str,
    type: str,
    data: Mapping[str, Any],
    key: str | int | None = None,
) -> None:
    """Publish an event to everyone who follows ``topic``, if and when the session commits.

    ``type`` names what happened ("order.changed"), ``key`` the thing it happened to, and ``data``
    is at most 64 KiB of JSON. Say what changed, not everything about it: whoever may follow the
    topic sees it.

    Holds: the event is committed with the write, or neither is; a crash at any point loses none.
    Of two writes that change the same row before they publish, the first to commit has the lower
    id: so publish after the change. (What the session holds unsaved is flushed first.)
    Does not hold: an id at once, since ids come after the commit; the events of one transaction
    side by side, since another's may come between; a short log where no ``FeedHub`` runs: call
    ``prune_events`` (on PostgreSQL ``number_events`` first) now and then in that case.
    Shown by: tests/feed/test_commit_order.py and tests/feed/test_kill.py.

    Raises InvalidInput for a name, key or data that cannot be published.
    """
    row = _row(topic, type, data, key)
    # Flushing first takes the locks of the rows that were changed before seq is drawn, so that
    # for writers of one row the order of seq is the order of their commits.
    session.flush()
    session.execute(_INSERT, row)
    after_commit(session, nudge_all)


def publish_all(
    session: Session,
    topic: str,
    type: str,
    news: Sequence[tuple[Mapping[str, Any], str | int | None]],
) -> None:
    """Publish an event for each (data, key) in ``news``, in this order, by one statement.

    As ``publish``, with the same guarantee: for writes that do the work of many callers together.
    """
    if not news:
        return
    rows = [_row(topic, type, data, key) for data, key in news]
    session.flush()
    insert_rows(session.connection(), cast(Table, FeedEvent.__table__), rows)
    after_commit(session, nudge_all)


def nudge_all() -> None:
    """Tell every hub in this process to look at the log now."""
    for listener in list(listeners):
        listener.nudge()


def topic_name(topic: str) -> str:
    """The topic itself; raises InvalidInput when it is not a name of at most 100 characters."""
    return _name("topic", topic)


def _row(topic: str, type: str, data: Mapping[str, Any], key: str | int | None) -> dict[str, Any]:
    return {
        "topic": topic_name(topic),
        "type": _type_name(type),
        "key": _key(key),
        "data": _encoded(data),
        "at": utcnow(),
    }


def _type_name(name: str) -> str:
    if name in _RESERVED_TYPES:
        raise InvalidInput(f"the event type {name!r} is reserved; choose another", field="type")
    return _name("type", name)


def _name(field: str, name: object) -> str:
    if isinstance(name, str) and len(name) <= NAME_CHARS_MAX and _NAME.fullmatch(name):
        return name
    raise InvalidInput(
        f"{field} {name!r} is not a name: use 1 to {NAME_CHARS_MAX} of "
        "letters, digits and _ . : / -",
        field=field,
    )


def _key(key: str | int | None) -> str | None:
    if key is None:
        return None
    text = str(key)
    if len(text) > KEY_CHARS_MAX or not text.isprintable():
        raise InvalidInput(f"key must be at most {KEY_CHARS_MAX} printable characters", field="key")
    return text


def _encoded(data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"data is not plain JSON: {error}", field="data") from error
    if size > DATA_BYTES_MAX:
        raise InvalidInput(
            f"data has {size} bytes; an event holds at most {DATA_BYTES_MAX}: publish what changed "
            "and let readers fetch the rest",
            field="data",
            limit_bytes=DATA_BYTES_MAX,
        )
    return text
