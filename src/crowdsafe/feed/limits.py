"""Every limit of the feed in one object."""

from __future__ import annotations

from dataclasses import dataclass, fields

from crowdsafe.errors import ConfigError

__all__ = ["FeedLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLimits:
    """Limits of a FeedHub; names end in their unit. Raises ConfigError when one is not above zero.

    Example: ``FeedHub(astore, limits=FeedLimits(subscribers_max=500, keep_events=10_000))``.
    """

    subscribers_max: int = 2000
    """Streams that one process serves; one more is Overloaded (503)."""
    topics_max: int = 32
    """Topics that one stream may follow."""
    pending_events_max: int = 2000
    """Events that may wait for one slow stream before it is dropped."""
    pending_bytes_max: int = 1024 * 1024
    """Bytes that may wait for one slow stream before it is dropped."""
    batch_max: int = 200
    """Events read from the log at a time."""
    replay_events_max: int = 5000
    """How far back a stream may resume; from further back it is told to resync."""
    replays_max: int = 4
    """Streams that read the log for their resume at the same time; the others wait for a turn."""
    heartbeat_s: float = 15.0
    """A stream that was quiet for so long gets a comment."""
    stream_s_max: float = 3600.0
    """A stream older than this ends: the browser resumes at once, and whether it may is asked
    anew. So a lost role or login takes effect on open pages too."""
    gather_s: float = 0.005
    """Least time between two reads of the log, so that a burst is read together."""
    start_s_max: float = 10.0
    """How long a stream waits for the hub's first look at the database; then it ends."""
    backoff_s_max: float = 5.0
    """Longest wait between attempts while the database does not answer."""
    keep_events: int = 100_000
    """Events that are kept for streams that resume."""
    keep_s: float = 7 * 86_400.0
    """How long an event is kept."""
    prune_every_s: float = 60.0
    """How often old events are looked for."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ConfigError(
                    f"FeedLimits.{item.name} is {getattr(self, item.name)!r}; it must be above zero"
                )
