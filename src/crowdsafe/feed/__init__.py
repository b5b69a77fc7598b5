"""The change feed: events that commit with the write, with ids in the order of commits."""

from __future__ import annotations

from crowdsafe.feed.hub import FeedHub, FeedStats
from crowdsafe.feed.limits import FeedLimits
from crowdsafe.feed.log import Event, head, oldest, read_events
from crowdsafe.feed.number import number_events
from crowdsafe.feed.prune import prune_events
from crowdsafe.feed.publish import publish, publish_all
from crowdsafe.feed.subscription import Subscription

__all__ = [
    "Event",
    "FeedHub",
    "FeedLimits",
    "FeedStats",
    "Subscription",
    "head",
    "number_events",
    "oldest",
    "prune_events",
    "publish",
    "publish_all",
    "read_events",
]
