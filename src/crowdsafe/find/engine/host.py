"""Where operations run: threads for sync ones, one event loop in a thread for async ones."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from typing import Any

from crowdsafe.find.engine.waiting import wait_inside
from crowdsafe.find.gates.control import current_operation, operate
from crowdsafe.find.model import Answer, Operation

__all__ = ["Host"]

_JOIN_S = 2.0
_Job = Callable[[], None]
_Returned = Callable[[Answer | BaseException], None]


class Host:
    """Starts operations, each in a context of its own. Threads are kept from run to run.

    All async operations share one event loop, since the pools of a target belong to one; with
    ``apart`` each has a loop of its own (for a target that blocks its loop in a sync driver).
    """

    def __init__(self) -> None:
        self.apart = False
        self._slots: list[_Slot] = []
        self._loop_thread: _LoopThread | None = None
        self._loops_apart: list[_LoopThread] = []

    @property
    def loop_thread_ids(self) -> frozenset[int]:
        """The threads in which a blocked call would stop other async operations."""
        return frozenset() if self._loop_thread is None else frozenset({self._loop_thread.ident})

    @property
    def loop_native_ids(self) -> frozenset[int]:
        """The same threads, and those of loops apart, as the kernel calls them."""
        loops = [*self._loops_apart, *([self._loop_thread] if self._loop_thread else [])]
        return frozenset(loop.native_id for loop in loops)

    def lingers(self, number: int) -> bool:
        """Whether tasks still run that an operation started."""
        loops = [*self._loops_apart, *([self._loop_thread] if self._loop_thread else [])]
        return any(loop.running[number] > 0 for loop in loops)

    def waits_inside(self, number: int) -> bool:
        """Whether all that an async operation does is to wait for another one, in a lock or a
        queue of the loop that they share, as far as its tasks tell."""
        return self._loop_thread is not None and self._loop_thread.waits_inside(number)

    def loop(self, place: int | None = None) -> _LoopThread:
        if self.apart and place is not None:
            while len(self._loops_apart) <= place:
                self._loops_apart.append(_LoopThread())
            return self._loops_apart[place]
        if self._loop_thread is None:
            self._loop_thread = _LoopThread()
        return self._loop_thread

    def prepare(self, operations: Sequence[Operation]) -> None:
        """Have a thread for each."""
        for place, operation in enumerate(operations):
            if operation.is_async:
                self.loop(place)
        while len(self._slots) < len(operations):
            self._slots.append(_Slot())

    def start(
        self, place: int, number: int, operation: Operation, limit: int | None, tell: _Returned
    ) -> Callable[[], None]:
        """Run an operation; ``tell`` is called with its answer, or with what it raised. Returns
        what cancels it (an async one; nothing can be done about a thread from outside)."""
        if operation.is_async:
            return self.loop(place).start(number, operation, limit, tell)
        self._slots[place].submit(lambda: _run_sync(number, operation, limit, tell))
        return _nothing

    def close(self) -> None:
        """End the threads; one that does not end within 2 s is left behind (it is a daemon)."""
        for slot in self._slots:
            slot.close()
        for loop in (*self._loops_apart, *([self._loop_thread] if self._loop_thread else ())):
            loop.close()


def _nothing() -> None:
    pass


def _run_sync(number: int, operation: Operation, limit: int | None, tell: _Returned) -> None:
    def run() -> Answer:
        operate(number)
        return operation.run(limit)

    answer: Answer | BaseException
    try:
        answer = contextvars.Context().run(run)
    except BaseException as error:
        answer = error
    tell(answer)


class _Slot:
    """A thread that runs one job after the other."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="crowdsafe-find", daemon=True)
        self._thread.start()

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(_JOIN_S)


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(self._make_task)
        self._tasks: set[asyncio.Task[None]] = set()
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = (
            weakref.WeakKeyDictionary()
        )
        self.running: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._work, name="crowdsafe-find-loop", daemon=True)
        self._thread.start()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any
    ) -> asyncio.Task[Any]:
        """Count the tasks that each operation started and that still run."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **named)
        number = current_operation()
        if number is not None:
            self._owners[task] = number
            self.running[number] += 1
            task.add_done_callback(lambda _: self.running.subtract({number: 1}))
        return task

    @property
    def ident(self) -> int:
        return self._thread.ident or 0

    @property
    def native_id(self) -> int:
        return self._thread.native_id or 0

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def waits_inside(self, number: int) -> bool:
        owners = {task: self._owners.get(task) for task in asyncio.all_tasks(self.loop)}
        own = [task for task, owner in owners.items() if owner == number]
        return wait_inside(own, [task for task, owner in owners.items() if owner is None])

    def start(
        self, number: int, operation: Operation, limit: int | None, tell: _Returned
    ) -> Callable[[], None]:
        made: list[asyncio.Task[None]] = []

        async def run() -> None:
            operate(number)
            answer: Answer | BaseException
            try:
                answer = await operation.run_async(limit)
            except BaseException as error:
                answer = error
            tell(answer)

        def begin() -> None:
            task = self.loop.create_task(run(), context=contextvars.Context())
            made.append(task)
            self._owners[task] = number
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        def cancel() -> None:
            self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in made])

        self.loop.call_soon_threadsafe(begin)
        return cancel

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float | None) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def close(self) -> None:
        """Cancel what still runs, then stop the loop."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=1.0) if others else None
            await self.loop.shutdown_asyncgens()

        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(end(), self.loop).result(_JOIN_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self.loop.close()
