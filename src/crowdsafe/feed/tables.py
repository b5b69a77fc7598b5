"""The event log and, on PostgreSQL, the highest id that it has given out."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import BigId, UtcDateTime

__all__ = ["KEY_CHARS_MAX", "NAME_CHARS_MAX", "FeedEvent", "FeedHead"]

NAME_CHARS_MAX = 100
KEY_CHARS_MAX = 200


class FeedEvent(CrowdsafeBase):
    """One published event.

    ``seq`` is the order of insertion. ``id`` is the order of commits, which readers follow: on
    PostgreSQL it is NULL until a sequencer numbers the committed row (see ``number.py``); on
    SQLite, with its one writer at a time, ``seq`` already is that order and ``id`` stays NULL.
    ``data`` is JSON text: it is encoded once, when it is published.
    """

    __tablename__ = "crowdsafe_events"

    seq: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    id: Mapped[int | None] = mapped_column(BigId)
    topic: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))
    type: Mapped[str] = mapped_column(String(NAME_CHARS_MAX))
    key: Mapped[str | None] = mapped_column(String(KEY_CHARS_MAX))
    data: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("crowdsafe_events_id", "id", unique=True).ddl_if(dialect="postgresql"),
        Index("crowdsafe_events_unnumbered", "seq", postgresql_where=text("id IS NULL")).ddl_if(
            dialect="postgresql"
        ),
        # AUTOINCREMENT: an id is never used again, whatever is pruned.
        {"sqlite_autoincrement": True},
    )


class FeedHead(CrowdsafeBase):
    """One row: the last id given out on PostgreSQL. It survives pruning, so no id comes twice."""

    __tablename__ = "crowdsafe_feed_head"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    last_id: Mapped[int] = mapped_column(BigId)
