"""One stream: what it missed, read from the log, and then what comes, out of a bounded queue."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from crowdsafe.feed.frames import event_frame, heartbeat_frame, position_frame, resync_frame
from crowdsafe.feed.log import Event, head, oldest, read_events

if TYPE_CHECKING:
    from crowdsafe.feed.hub import FeedHub

__all__ = ["Subscription", "parse_last_event_id"]

_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_SEND_BYTES_MAX = 64 * 1024
_UNREADABLE = -1


def parse_last_event_id(text: str | int | None) -> int | None:
    """The id that a client has seen last; None for none, and -1 for what is no id at all."""
    if text is None or text == "":
        return None
    return int(text) if _ID.fullmatch(str(text)) else _UNREADABLE


class Subscription:
    """A stream of bytes for one client, made by ``FeedHub.subscribe``.

    Iterate over ``frames()`` once and ``close()`` it in the end. It belongs to the event loop of
    its hub. When it attaches, it notes how far the hub has come (``boundary``): what lies between
    the client's last id and the boundary is replayed from the log; what comes after it waits in
    the queue meanwhile. So nothing is missed and nothing comes twice at the seam.
    """

    def __init__(
        self, hub: FeedHub, topics: frozenset[str], last_event_id: str | int | None
    ) -> None:
        self.topics = topics
        self.dropped = False
        self.ends_at = time.monotonic() + hub.limits.stream_s_max * random.uniform(0.9, 1)
        """When the hub ends it; at random, so that a crowd does not come back at once."""
        self.after = 0
        """The queue takes events with a higher id than this."""
        self._hub = hub
        self._limits = hub.limits
        self._last = parse_last_event_id(last_event_id)
        self._boundary: int | None = None
        self._queue: deque[tuple[bytes, int]] = deque()
        self._events = 0
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._quiet = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will be queued."""
        return self._ended

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the client."""
        return self._bytes

    def close(self) -> None:
        """Leave the hub; ``frames()`` ends. May be called again."""
        self._queue.clear()
        self._events = self._bytes = 0
        self.end()
        self._hub.leave(self)

    def end(self) -> None:
        """Queue nothing more; ``frames()`` ends after what is queued."""
        self._ended = True
        self._wake()

    def attach(self, boundary: int) -> None:
        """Called by the hub: from now on it queues all events with an id above ``boundary``."""
        self._boundary = boundary
        self.after = boundary if self._last is None else max(boundary, self._last)

    def put(self, frames: bytes, events: int, last_id: int) -> None:
        """Called by the hub with whole frames, the last one with ``last_id``."""
        if self._ended:
            return
        self._queue.append((frames, events))
        self._events += events
        self._bytes += len(frames)
        self._quiet = False
        limits = self._limits
        if self._events > limits.pending_events_max or self._bytes > limits.pending_bytes_max:
            self._queue.clear()
            self._queue.append((resync_frame("slow", last_id), 0))
            self._events = self._bytes = 0
            self.dropped = True
            self._ended = True
            self._hub.leave(self)
        self._wake()

    def resync(self, reason: str, last_id: int) -> None:
        """Called by the hub: the client has to reload, then goes on from ``last_id``."""
        self._queue.clear()
        self._events = self._bytes = 0
        self.after = last_id
        self.put(resync_frame(reason, last_id), 0, last_id)

    def beat(self, feed_id: int) -> None:
        """Called by the hub now and then: a heartbeat when nothing came since the last call."""
        if self._quiet and not self._queue:
            self.put(heartbeat_frame(max(feed_id, self.after)), 0, feed_id)
        self._quiet = True

    async def frames(self) -> AsyncGenerator[bytes]:
        """Bytes to send, each chunk made of whole frames; ends when the stream is over.

        Raises what reading the log raises; the client then comes back with its last id.
        """
        try:
            if self._boundary is None and not await self._hub.attached(self):
                return
            async for chunk in self._replay():
                yield chunk
            while True:
                if self._queue:
                    yield self._taken()
                elif self._ended:
                    return
                else:
                    await self._wait()
        finally:
            self.close()

    async def _replay(self) -> AsyncGenerator[bytes]:
        boundary = self._boundary
        assert boundary is not None
        last, limits = self._last, self._limits
        if last is None:
            yield position_frame(boundary)
            return
        if last == _UNREADABLE:
            reason: str | None = "unknown-id"
        elif last > boundary:
            known = await self._hub.replaying(head)
            reason = "unknown-id" if last > known else None
        elif boundary - last > limits.replay_events_max:
            reason = "too-far-behind"
        else:
            reason = None
        while reason is None and last < boundary and not self._ended:
            page = await self._hub.replaying(
                _page, last, boundary, self.topics, min(limits.batch_max, 200)
            )
            if page is None:
                reason = "expired"
            else:
                if page.events:
                    yield b"".join([event_frame(event) for event in page.events])
                last = page.through
        if reason is not None:
            # The reload shows all that the hub has seen by now, so go on from there.
            self.resync(reason, self._hub.cursor)
        elif last == boundary:
            yield position_frame(boundary)

    def _taken(self) -> bytes:
        chunks = []
        size = 0
        while self._queue and size < _SEND_BYTES_MAX:
            chunk, events = self._queue.popleft()
            chunks.append(chunk)
            size += len(chunk)
            self._events -= events
            self._bytes -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class _Page:
    events: list[Event]
    through: int


def _page(
    session: Session, after: int, boundary: int, topics: frozenset[str], limit: int
) -> _Page | None:
    """The next events up to the boundary, or None when some of them are no longer kept."""
    events = read_events(session, after, through=boundary, topics=topics, limit=limit)
    # Looked at after the events: had they been pruned in between, this would show it.
    kept_from = oldest(session)
    if kept_from is None or kept_from > after + 1:
        return None
    return _Page(events, events[-1].id if len(events) == limit else boundary)
