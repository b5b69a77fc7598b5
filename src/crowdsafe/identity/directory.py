"""Users as seen by requests: re-read from the database every few seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from crowdsafe.identity.users import User

__all__ = ["Directory"]


class Directory:
    """Active users by id, each read again once it is ``fresh_s`` seconds old.

    Holds: a user who was switched off, or whose roles changed, is seen as such after at most
    ``fresh_s`` seconds in every process; at most ``users_max`` users are kept; callers that miss
    at once share one read, and a caller that goes away does not cancel it for the others. Does
    not hold: the change is not instant. Proved by ``tests/identity/test_directory.py``.
    """

    def __init__(
        self,
        read: Callable[[int], Awaitable[User | None]],
        *,
        fresh_s: float = 3.0,
        users_max: int = 10_000,
    ) -> None:
        self._read = read
        self._fresh_s = fresh_s
        self._users_max = users_max
        self._known: OrderedDict[int, tuple[float, User | None]] = OrderedDict()
        self._reads: dict[int, asyncio.Task[User | None]] = {}

    async def user(self, user_id: int) -> User | None:
        """The active user, or None. Raises what the read raises."""
        known = self._known.get(user_id)
        if known is not None and time.monotonic() - known[0] < self._fresh_s:
            return known[1]
        task = self._reads.get(user_id)
        if task is None:
            task = asyncio.create_task(self._reread(user_id))
            self._reads[user_id] = task
            task.add_done_callback(lambda done: self._finished(user_id, done))
        return await asyncio.shield(task)

    def forget(self, user_id: int) -> None:
        """Read this user anew next time."""
        self._known.pop(user_id, None)

    async def _reread(self, user_id: int) -> User | None:
        began = time.monotonic()
        user = await self._read(user_id)
        self._known[user_id] = (began, user)
        self._known.move_to_end(user_id)
        while len(self._known) > self._users_max:
            self._known.popitem(last=False)
        return user

    def _finished(self, user_id: int, task: asyncio.Task[User | None]) -> None:
        self._reads.pop(user_id, None)
        if not task.cancelled():
            task.exception()  # seen here, so that it is not reported as lost when all callers left
