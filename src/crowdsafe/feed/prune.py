"""Forget events that are old, a bounded number at a time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from crowdsafe.feed.log import feed_id, head
from crowdsafe.feed.tables import FeedEvent
from crowdsafe.store.options import write

__all__ = ["PRUNE_MAX", "prune_events"]

PRUNE_MAX = 1000


@write(isolation="read committed")
def prune_events(session: Session, keep_events: int, older_than: datetime) -> int:
    """Delete at most 1000 of the oldest events; returns how many.

    Goes: what is not among the last ``keep_events``, and what was published before ``older_than``
    with nothing younger in front of it. Stays: what has no id yet.
    """
    column = feed_id(session)
    enough = head(session) - keep_events
    rows = session.execute(
        select(column, FeedEvent.at).where(column.is_not(None)).order_by(column).limit(PRUNE_MAX)
    )
    through = None
    for event_id, at in rows:
        if event_id > enough and at >= older_than:
            break
        through = event_id
    if through is None:
        return 0
    gone = session.execute(
        delete(FeedEvent).where(column <= through).execution_options(synchronize_session=False)
    )
    return int(gone.rowcount)  # type: ignore[attr-defined]
