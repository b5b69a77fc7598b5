"""Follow the log once per process, and hand each event to every stream that wants it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from crowdsafe.errors import InvalidInput, Overloaded
from crowdsafe.feed.frames import event_frame
from crowdsafe.feed.limits import FeedLimits
from crowdsafe.feed.log import Event, head, look
from crowdsafe.feed.number import NUMBER_MAX, number_events
from crowdsafe.feed.prune import PRUNE_MAX, prune_events
from crowdsafe.feed.publish import listeners, topic_name
from crowdsafe.feed.subscription import Subscription
from crowdsafe.store.types import utcnow

__all__ = ["FeedHub", "FeedStats"]

T = TypeVar("T")
_log = logging.getLogger("crowdsafe.feed")
_SLICE_BYTES_MAX = 128 * 1024
_PRUNES_MAX = 20
_STOP_S_MAX = 5.0
_BUSY_S = 0.01


class _Store(Protocol):
    """What a hub needs of an AsyncStore."""

    @property
    def dialect(self) -> str: ...

    async def read(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...

    async def write(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


@dataclass(frozen=True, slots=True)
class FeedStats:
    """What a hub has done so far. ``failing`` says why the log cannot be read now, or is None."""

    subscribers: int
    cursor: int
    events: int
    dropped: int
    failing: str | None


class _Channel:
    """The streams that follow the same topics: they share each batch of bytes."""

    __slots__ = ("members", "topics")

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.members: set[Subscription] = set()


class FeedHub:
    """Reads the feed in one task and fans it out to the streams of this process.

    Holds: each stream gets every event of its topics above its last id once, in the order of ids,
    whichever process wrote it; or it is told to resync. A slow stream is dropped and slows nobody.
    While the database is away the hub waits and then goes on where it was.
    Does not hold: delivery at once: an event of this process is read right after its commit, that
    of another within ``poll_s`` seconds.
    Shown by: tests/feed/test_hub.py, tests/feed/test_kill.py.

    Belongs to the event loop in which ``start()`` was awaited; only ``nudge()`` may be called from
    other threads.
    """

    def __init__(
        self, store: _Store, *, poll_s: float = 0.2, limits: FeedLimits | None = None
    ) -> None:
        self.limits = limits or FeedLimits()
        self._store = store
        self._poll_s = poll_s
        self._cursor: int | None = None
        self._channels: dict[frozenset[str], _Channel] = {}
        self._by_topic: dict[str, set[_Channel]] = {}
        self._subscribers: set[Subscription] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._primed = asyncio.Event()
        self._nudged = False
        self._open = False
        self._replays = asyncio.Semaphore(self.limits.replays_max)
        self._events = 0
        self._dropped = 0
        self._failing: str | None = None
        self._read_at = 0.0

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the log. Returns at once, even while the database is away."""
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        self._open = True
        for work in (self._follow, self._beat, self._prune):
            self._tasks.append(asyncio.create_task(work(), name=f"crowdsafe-feed{work.__name__}"))
        listeners.add(self)

    async def stop(self) -> None:
        """End all streams and tasks; takes at most five seconds."""
        listeners.discard(self)
        self.end_streams()
        tasks, self._tasks, self._loop = self._tasks, [], None
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=_STOP_S_MAX)
            for task in stuck:
                _log.error("%s did not stop within %.0f s", task.get_name(), _STOP_S_MAX)

    def end_streams(self) -> None:
        """End every stream and take no new ones: for a server that begins to shut down."""
        self._open = False
        for subscription in list(self._subscribers):
            subscription.end()

    def nudge(self) -> None:
        """Look at the log now. Cheap, and may be called from any thread."""
        loop = self._loop
        if loop is None or self._nudged:
            return
        self._nudged = True
        try:
            loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            if not loop.is_closed():
                raise

    @property
    def cursor(self) -> int:
        """Id of the last event that was handed out; 0 before the first look at the log."""
        return self._cursor or 0

    @property
    def stats(self) -> FeedStats:
        """Figures for a dashboard."""
        return FeedStats(
            len(self._subscribers), self.cursor, self._events, self._dropped, self._failing
        )

    # -- streams ------------------------------------------------------------------------------

    def subscribe(
        self, topics: Iterable[str], last_event_id: str | int | None = None
    ) -> Subscription:
        """A stream of the topics' events above ``last_event_id``, or from now on without one.

        Raises Overloaded when there are as many streams as the limits allow or the hub does not
        run, InvalidInput for topics that are none or too many.
        """
        if not self._open:
            raise Overloaded("the event feed is not running; try again shortly", retry_after_s=2)
        if len(self._subscribers) >= self.limits.subscribers_max:
            raise Overloaded(
                f"{self.limits.subscribers_max} event streams are open, as many as this server "
                "process takes; try again shortly, or start more workers",
                retry_after_s=5,
            )
        wanted = frozenset(topic_name(topic) for topic in topics)
        if not 0 < len(wanted) <= self.limits.topics_max:
            raise InvalidInput(
                f"an event stream follows 1 to {self.limits.topics_max} topics", field="topics"
            )
        subscription = Subscription(self, wanted, last_event_id)
        self._subscribers.add(subscription)
        if self._cursor is not None:
            self._attach(subscription, self._cursor)
        return subscription

    def _attach(self, subscription: Subscription, boundary: int) -> None:
        subscription.attach(boundary)
        topics = subscription.topics
        channel = self._channels.get(topics)
        if channel is None:
            channel = self._channels[topics] = _Channel(topics)
            for topic in topics:
                self._by_topic.setdefault(topic, set()).add(channel)
        channel.members.add(subscription)

    async def attached(self, subscription: Subscription) -> bool:
        """Wait until the hub knows where the log ends; False when it did not find out in time."""
        try:
            async with asyncio.timeout(self.limits.start_s_max):
                await self._primed.wait()
        except TimeoutError:
            return False
        if subscription.ended or self._cursor is None:
            return False
        self._attach(subscription, self._cursor)
        return True

    async def replaying(self, fn: Callable[..., T], *args: Any) -> T:
        """Read the log for one stream; only a few at a time, so that a crowd that comes back at
        once does not take every database connection."""
        async with self._replays:
            return await self._store.read(fn, *args)

    def leave(self, subscription: Subscription) -> None:
        """Forget a stream. May be called again."""
        if subscription not in self._subscribers:
            return
        self._subscribers.discard(subscription)
        self._dropped += subscription.dropped
        channel = self._channels.get(subscription.topics)
        if channel is None:
            return
        channel.members.discard(subscription)
        if not channel.members:
            del self._channels[channel.topics]
            for topic in channel.topics:
                self._by_topic[topic].discard(channel)
                if not self._by_topic[topic]:
                    del self._by_topic[topic]

    # -- following the log --------------------------------------------------------------------

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                more = await self._turn()
            except Exception as error:
                failures += 1
                self._failed(error, failures)
                wait_s = min(self.limits.backoff_s_max, 0.1 * 2.0**failures)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
                continue
            if failures:
                _log.warning("the event feed reads again after %d failed attempts", failures)
                failures, self._failing = 0, None
            if not more:
                await self._pause()

    def _failed(self, error: Exception, failures: int) -> None:
        self._failing = f"{type(error).__name__}: {error}"
        if failures == 1:
            _log.warning("the event feed cannot read its log, trying on", exc_info=error)
        elif failures % 20 == 0:
            _log.warning("the event feed has failed %d times: %s", failures, self._failing)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return
        early_s = self._read_at + self.limits.gather_s - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(early_s)

    async def _turn(self) -> bool:
        """Number what has been committed and hand out what is new; True when there may be more."""
        nudged = self._nudged
        self._wake.clear()
        self._nudged = False
        again = nudged and self._store.dialect != "sqlite" and await self._number()
        if self._cursor is None:
            await self._prime()
        assert self._cursor is not None
        found = await self._store.read(look, self._cursor, self.limits.batch_max)
        self._read_at = time.monotonic()
        if found.unnumbered and not again:
            await self._number()
            again = True
        if self._lost_track(found.events, found.head):
            return True
        await self._hand_out(found.events)
        return again or len(found.events) == self.limits.batch_max

    async def _number(self) -> bool:
        """Number what can be seen; True when there may be more of it."""
        numbered = await self._store.write(number_events)
        if numbered is None:
            await asyncio.sleep(_BUSY_S)
        return numbered is None or numbered == NUMBER_MAX

    async def _prime(self) -> None:
        self._cursor = await self._store.read(head)
        self._primed.set()

    def _lost_track(self, events: list[Event], last: int) -> bool:
        """Whether events are gone that were never seen here; then every stream has to resync."""
        here = self.cursor
        whole = events[0].id == here + 1 if events else last == here
        if whole:
            return False
        _log.warning("the event log goes on at %d, not at %d: streams resync", last, here + 1)
        self._cursor = last
        for subscription in list(self._subscribers):
            subscription.resync("expired", last)
        return True

    async def _hand_out(self, events: list[Event]) -> None:
        """In slices, and letting the streams send in between, so that a burst drops nobody."""
        start = 0
        while start < len(events):
            size = 0
            end = start
            while end < len(events) and size < _SLICE_BYTES_MAX:
                size += len(events[end].body)
                end += 1
            self._fan_out(events[start:end])
            start = end
            await asyncio.sleep(0)

    def _fan_out(self, events: list[Event]) -> None:
        batches: dict[_Channel, list[tuple[int, bytes]]] = {}
        for event in events:
            channels = self._by_topic.get(event.topic)
            if channels:
                frame = event_frame(event)
                for channel in channels:
                    batches.setdefault(channel, []).append((event.id, frame))
        self._cursor = events[-1].id
        self._events += len(events)
        for channel, batch in batches.items():
            shared = b"".join([frame for _, frame in batch])
            for member in list(channel.members):
                if member.after < batch[0][0]:
                    member.put(shared, len(batch), batch[-1][0])
                    continue
                own = [frame for event_id, frame in batch if event_id > member.after]
                if own:
                    member.put(b"".join(own), len(own), batch[-1][0])

    # -- upkeep -------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.limits.heartbeat_s / 2)
            now = time.monotonic()
            for subscription in list(self._subscribers):
                if subscription.ends_at < now:
                    subscription.end()
                else:
                    subscription.beat(self.cursor)

    async def _prune(self) -> None:
        limits = self.limits
        while True:
            await asyncio.sleep(limits.prune_every_s * random.uniform(0.5, 1))
            try:
                for _ in range(_PRUNES_MAX):
                    older_than = utcnow() - timedelta(seconds=limits.keep_s)
                    gone = await self._store.write(prune_events, limits.keep_events, older_than)
                    if gone < PRUNE_MAX:
                        break
            except Exception as error:
                _log.warning("old events could not be pruned, trying again later", exc_info=error)
