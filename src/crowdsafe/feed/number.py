"""Give committed events their ids, in the order in which they were committed (PostgreSQL).

A sequence is drawn before the commit: a reader that follows ``seq`` and has seen 43 never looks
for a 42 whose transaction was slower. Waiting until no older transaction runs (the xmin horizon)
would cure that, and let one forgotten transaction halt the feed. So ids are given afterwards: one
sequencer at a time, whichever process it is in, numbers the rows that it can see.

Why this is right: the sequencer first locks the head row, and only the statement after that, with
a snapshot of its own (READ COMMITTED), looks for rows. So it sees all that the sequencer before it
has numbered, and what it numbers becomes visible in one commit, above everything before it. A
process that dies between a commit and the numbering leaves rows that the next sequencer finds.
The numbering commits durably like any write: with synchronous_commit off, ids that readers have
seen could be given to other events after a crash of the server.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from crowdsafe.feed.log import HEAD, is_sqlite
from crowdsafe.feed.tables import FeedHead
from crowdsafe.store.options import write

__all__ = ["NUMBER_MAX", "number_events"]

NUMBER_MAX = 1000

_NUMBER = text(
    """
    WITH picked AS (
        SELECT seq, row_number() OVER (ORDER BY seq) AS place
        FROM (SELECT seq FROM crowdsafe_events WHERE id IS NULL ORDER BY seq LIMIT :limit) AS few
    ), numbered AS (
        UPDATE crowdsafe_events AS event SET id = :last + picked.place
        FROM picked WHERE event.seq = picked.seq
        RETURNING event.id
    )
    UPDATE crowdsafe_feed_head SET last_id = :last + (SELECT count(*) FROM numbered)
    WHERE name = :name
    RETURNING last_id
    """
)


_LOCK = text(
    """
    SELECT last_id, set_config('idle_in_transaction_session_timeout', '5s', true)
    FROM crowdsafe_feed_head WHERE name = :name FOR UPDATE SKIP LOCKED
    """
)


@write(isolation="read committed")
def number_events(session: Session, limit: int = NUMBER_MAX) -> int | None:
    """Number at most ``limit`` committed events: how many it numbered, or None when another
    sequencer is at work.

    Waits for no other sequencer, and one that stops within its transaction loses it after five
    seconds. Must run in a READ COMMITTED transaction of its own. On SQLite there is nothing to do.
    """
    if is_sqlite(session):
        return 0
    last = _locked_head(session)
    if last is None:
        return None
    now = session.execute(_NUMBER, {"limit": limit, "last": last, "name": HEAD}).scalar_one()
    return int(now) - last


def _locked_head(session: Session) -> int | None:
    last = session.execute(_LOCK, {"name": HEAD}).scalar()
    if last is None and session.get(FeedHead, HEAD) is None:
        row = {"name": HEAD, "last_id": 0}
        session.execute(insert(FeedHead).values(row).on_conflict_do_nothing())
        last = session.execute(_LOCK, {"name": HEAD}).scalar()
    return None if last is None else int(last)
