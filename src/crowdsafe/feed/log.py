"""Read the event log. Each function takes a session, and works in any kind of transaction."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from crowdsafe.feed.tables import FeedEvent, FeedHead

__all__ = ["HEAD", "Event", "Look", "feed_id", "head", "look", "oldest", "read_events"]

HEAD = "events"
_READ_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the feed; ``body`` is its data as JSON text."""

    id: int
    topic: str
    type: str
    key: str | None
    body: str
    at: datetime

    @property
    def data(self) -> Any:
        """The published data."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the log found: ``head`` is the last id given out, pruned or not."""

    events: list[Event]
    head: int
    unnumbered: bool


def is_sqlite(session: Session) -> bool:
    """Whether the session's database is SQLite, where the order of insertion is that of commits."""
    return session.get_bind().dialect.name == "sqlite"


def feed_id(session: Session) -> ColumnElement[int]:
    """The column that holds the feed's id on the session's database."""
    column: Any = FeedEvent.seq if is_sqlite(session) else FeedEvent.id
    return column  # type: ignore[no-any-return]


def head(session: Session) -> int:
    """The last id that was given out; 0 when none was.

    Read it in the transaction that reads a page's data and give it to the page: whoever follows
    the feed from there (``last_event_id``) misses nothing that the data does not show.
    """
    if is_sqlite(session):
        found = session.execute(
            text("SELECT seq FROM sqlite_sequence WHERE name = :name"),
            {"name": FeedEvent.__tablename__},
        ).scalar()
    else:
        found = session.execute(select(FeedHead.last_id).where(FeedHead.name == HEAD)).scalar()
    return int(found or 0)


def oldest(session: Session) -> int | None:
    """The lowest id that is still kept, or None when none is."""
    found = session.execute(select(func.min(feed_id(session)))).scalar()
    return None if found is None else int(found)


def read_events(
    session: Session,
    after: int,
    *,
    through: int | None = None,
    topics: Collection[str] | None = None,
    limit: int = 200,
) -> list[Event]:
    """At most ``limit`` events with ``after`` < id <= ``through``, lowest id first.

    Holds: ids have no gaps and follow the order of commits, so a reader that has seen 43 will
    never be shown 42 for the first time. (Events older than what is kept are gone: see ``oldest``.)
    """
    column = feed_id(session)
    query = select(
        column, FeedEvent.topic, FeedEvent.type, FeedEvent.key, FeedEvent.data, FeedEvent.at
    ).where(column > after)
    if through is not None:
        query = query.where(column <= through)
    if topics is not None:
        query = query.where(FeedEvent.topic.in_(sorted(topics)))
    rows = session.execute(query.order_by(column).limit(min(limit, _READ_MAX)))
    return [Event(*row) for row in rows]


def look(session: Session, after: int, limit: int) -> Look:
    """What a follower at ``after`` needs to know, in as few statements as it takes."""
    last = head(session)
    unnumbered = not is_sqlite(session) and (
        session.execute(select(FeedEvent.seq).where(FeedEvent.id.is_(None)).limit(1)).first()
        is not None
    )
    return Look(read_events(session, after, limit=limit), last, unnumbered)
