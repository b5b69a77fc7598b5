"""Help for the tests of the feed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.feed import FeedHub, FeedLimits, Subscription, number_events, publish
from crowdsafe.store import AsyncStore, Settings

WAIT_S_MAX = 20.0


@dataclass
class Frame:
    """One block of an event stream."""

    id: int | None = None
    event: str | None = None
    data: Any = None
    other: list[str] = field(default_factory=list)


def parse(stream: bytes) -> list[Frame]:
    """The blocks of a stream that consists of whole blocks."""
    assert not stream or stream.endswith(b"\n\n"), stream[-80:]
    frames = []
    for block in stream.decode().split("\n\n")[:-1]:
        frame = Frame()
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                frame.id = int(value)
            elif name == "event":
                frame.event = value
            elif name == "data":
                assert frame.data is None
                frame.data = json.loads(value)
            else:
                frame.other.append(line)
        frames.append(frame)
    return frames


class Reader:
    """Reads one subscription and remembers everything that it was shown."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.frames: list[Frame] = []
        self._stream = subscription.frames()

    @property
    def events(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.event not in (None, "resync")]

    @property
    def resyncs(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.event == "resync"]

    @property
    def last_id(self) -> int | None:
        return next((frame.id for frame in reversed(self.frames) if frame.id is not None), None)

    async def until(self, done: Callable[[Reader], bool]) -> Reader:
        """Read until `done`; TimeoutError when that takes too long, AssertionError at an end."""
        async with asyncio.timeout(WAIT_S_MAX):
            while not done(self):
                assert await self.step(), "the stream ended"
        return self

    async def seen(self, count: int) -> Reader:
        return await self.until(lambda reader: len(reader.events) >= count)

    async def to_end(self) -> Reader:
        async with asyncio.timeout(WAIT_S_MAX):
            while await self.step():
                pass
        return self

    async def step(self) -> bool:
        chunk = await anext(self._stream, None)
        if chunk is None:
            return False
        self.frames.extend(parse(chunk))
        return True

    async def close(self) -> None:
        await self._stream.aclose()
        self.subscription.close()


@asynccontextmanager
async def astore_at(url: str) -> AsyncIterator[AsyncStore]:
    store = AsyncStore(url, Settings(pool_size=8))
    await store.create_all()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def hub_at(
    store: AsyncStore, *, poll_s: float = 0.05, **limits: Any
) -> AsyncIterator[FeedHub]:
    hub = FeedHub(store, poll_s=poll_s, limits=FeedLimits(**limits))
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def say(session: Session, n: int, topic: str = "news", key: str | None = None) -> None:
    publish(session, topic, "said", {"n": n}, key=key)


def say_many(session: Session, numbers: range, topic: str = "news") -> None:
    for n in numbers:
        say(session, n, topic)


async def numbered(store: AsyncStore) -> None:
    """Let every committed event have its id."""
    async with asyncio.timeout(WAIT_S_MAX):
        while await store.write(number_events) != 0:
            pass


async def eventually(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
