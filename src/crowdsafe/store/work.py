"""One write on its way through the store: its call, its outcome, and who waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from crowdsafe.errors import CrowdsafeError, DeadlineExceeded, OutcomeUnknown
from crowdsafe.store.options import Call, Combiner
from crowdsafe.store.settings import Isolation

__all__ = ["AsyncWork", "SyncWork", "Work", "deliver", "fail", "in_hook", "unexpired"]

log = logging.getLogger("crowdsafe.store")

_hooks = threading.local()


class Work:
    """A write that waits or runs. ``deadline`` is a ``time.monotonic()`` moment, ``context`` a copy
    of the caller's context variables: whichever thread or task runs the write, it sees those.

    Either a lane claims it, to run it, or its caller does, to give it up: ``claim`` is true for
    exactly one of them.
    """

    __slots__ = (
        "_unclaimed",
        "call",
        "combiner",
        "context",
        "deadline",
        "error",
        "fn",
        "hooks",
        "isolation",
        "lane",
        "losses",
        "lost",
        "value",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        call: Call,
        isolation: Isolation,
        combiner: Combiner | None,
        lane: Hashable | None,
        deadline: float,
    ) -> None:
        self.fn = fn
        self.call = call
        self.isolation = isolation
        self.combiner = combiner
        self.lane = lane
        self.deadline = deadline
        self.value: Any = None
        self.error: BaseException | None = None
        self.hooks: list[Callable[[], None]] = []
        self.losses = 0
        self.lost = False
        self.context = contextvars.copy_context()
        self._unclaimed = [True]

    def claim(self) -> bool:
        """Take this work; true only the first time, from whichever thread (list.pop is atomic)."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def reset(self) -> None:
        """Forget what an attempt has left."""
        self.value = self.error = None
        self.hooks = []
        self.lost = False

    def run_hooks(self) -> None:
        """Run what the write left for after its commit."""
        hooks, self.hooks = self.hooks, []
        for hook in hooks:
            _hooks.running = True
            try:
                hook()
            except BaseException:  # the thread that runs it belongs to the store
                log.exception("a callback given to after_commit failed; the write is committed")
            finally:
                _hooks.running = False

    def settle(self) -> None:
        """Wake the caller."""
        raise NotImplementedError


class SyncWork(Work):
    """A write whose caller is a thread."""

    __slots__ = ("_done",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        """Whether the write is over."""
        return self._done.is_set()

    def settle(self) -> None:
        self._done.set()

    def result(self, grace_s: float) -> Any:
        """Wait until the write is over; at the deadline give it up, or, where it runs already,
        wait ``grace_s`` longer. Raises what the write raised, DeadlineExceeded, OutcomeUnknown."""
        if not self._done.wait(max(0.0, self.deadline - time.monotonic())):
            if self.claim():
                raise DeadlineExceeded(retry_after_s=1)
            if not self._done.wait(grace_s):
                raise OutcomeUnknown
        if self.error is not None:
            raise self.error
        return self.value


class AsyncWork(Work):
    """A write whose caller is a task of ``loop``."""

    __slots__ = ("_grace_s", "_timer", "future", "loop")

    def __init__(self, *args: Any, grace_s: float) -> None:
        super().__init__(*args)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._grace_s = grace_s
        wait_s = max(0.0, self.deadline - time.monotonic())
        self._timer = self.loop.call_later(wait_s, self._expire)

    def settle(self) -> None:
        self._timer.cancel()
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)

    def abandon(self) -> None:
        """Let nobody wait any more; a write that has not begun is dropped."""
        self._timer.cancel()
        self.claim()

    def _expire(self) -> None:
        if self.future.done():
            return
        if self.claim():
            self.future.set_exception(DeadlineExceeded(retry_after_s=1))
            return
        self._timer = self.loop.call_later(self._grace_s, self._give_up)

    def _give_up(self) -> None:
        if not self.future.done():
            self.future.set_exception(OutcomeUnknown())


def deliver(works: Iterable[Work]) -> None:
    """Run the hooks of finished works, then wake their callers: one wake-up for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[AsyncWork]] = {}
    for work in works:
        work.run_hooks()
        if isinstance(work, AsyncWork):
            by_loop.setdefault(work.loop, []).append(work)
        else:
            work.settle()
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, group)
        except RuntimeError:
            log.warning("%d finished writes had no caller left: their loop is closed", len(group))


def _settle_all(group: list[AsyncWork]) -> None:
    for work in group:
        work.settle()


def in_hook() -> bool:
    """Whether this thread is running a callback given to ``after_commit``."""
    return getattr(_hooks, "running", False)


def fail(works: Iterable[Work], error: BaseException) -> None:
    """Give every work the error as its outcome, each an exception object of its own."""
    for work in works:
        work.reset()
        work.error = copy.copy(error) if isinstance(error, CrowdsafeError) else error
        work.error.__cause__ = error.__cause__


def unexpired(works: Sequence[Work]) -> list[Work]:
    """Those works whose deadline has not passed; the others get DeadlineExceeded."""
    now = time.monotonic()
    late = [work for work in works if work.deadline <= now]
    fail(late, DeadlineExceeded(retry_after_s=1))
    return [work for work in works if work.deadline > now]
