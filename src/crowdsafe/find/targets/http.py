"""Operations of requests: the same conversation over ASGI and over WSGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from crowdsafe.find.model import Answer
from crowdsafe.find.targets.conversation import converse
from crowdsafe.find.targets.messages import RawReply, RawRequest
from crowdsafe.find.targets.request import Request, Requests
from crowdsafe.find.targets.visitor import Visitor

__all__ = ["AsyncRequestOperation", "RequestOperation", "drive", "drive_async"]


class _Base:
    """``visitor`` is the user as they are when the operation begins: it is logged in and prepared
    once, and each run starts from a copy of it."""

    is_async = False

    def __init__(self, spec: Requests, visitor: Visitor) -> None:
        self.spec = spec
        self.name = spec.name
        self.visitor = visitor

    def _requests(self, limit: int | None) -> tuple[Request, ...]:
        return self.spec.requests[:limit]


class RequestOperation(_Base):
    """Requests to a WSGI app; each run in the calling thread."""

    def __init__(
        self, spec: Requests, visitor: Visitor, send: Callable[[RawRequest], RawReply]
    ) -> None:
        super().__init__(spec, visitor)
        self._send = send

    def run(self, limit: int | None = None) -> Answer:
        return drive(self._requests(limit), self.visitor.copy(), self._send)

    async def run_async(self, limit: int | None = None) -> Answer:
        raise TypeError(f"{self.name} goes to a WSGI app: it is run in a thread")


class AsyncRequestOperation(_Base):
    """Requests to an ASGI app; each run on the calling loop."""

    is_async = True

    def __init__(
        self, spec: Requests, visitor: Visitor, send: Callable[[RawRequest], Awaitable[RawReply]]
    ) -> None:
        super().__init__(spec, visitor)
        self._send = send

    def run(self, limit: int | None = None) -> Answer:
        raise TypeError(f"{self.name} goes to an ASGI app: it is run on an event loop")

    async def run_async(self, limit: int | None = None) -> Answer:
        return await drive_async(self._requests(limit), self.visitor.copy(), self._send)


def drive(
    requests: tuple[Request, ...], visitor: Visitor, send: Callable[[RawRequest], RawReply]
) -> Answer:
    """Carry a conversation on; the visitor keeps what it learns."""
    conversation = converse(requests, visitor)
    try:
        request = next(conversation)
        while True:
            request = conversation.send(send(request))
    except StopIteration as end:
        return _ended(end)


async def drive_async(
    requests: tuple[Request, ...],
    visitor: Visitor,
    send: Callable[[RawRequest], Awaitable[RawReply]],
) -> Answer:
    conversation = converse(requests, visitor)
    try:
        request = next(conversation)
        while True:
            reply = await send(request)
            request = conversation.send(reply)
    except StopIteration as end:
        return _ended(end)


def _ended(end: StopIteration) -> Answer:
    answer = end.value
    assert isinstance(answer, Answer)
    return answer
