"""Whether tasks of an event loop wait for each other: in a lock or a queue of asyncio's own.

Seen from another thread, in what each task awaits. A future that is done already has woken its
task, so there is no moment at which one that was woken looks as if it still waited.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any

__all__ = ["wait_inside"]

_DEPTH_MAX = 500
_LOCKS = ("asyncio/locks.py", "asyncio/queues.py")
_TASKS = "asyncio/tasks.py"
_ANYIO = "anyio/_backends/_asyncio.py"
_EVENT = "Event.wait"
"""Drivers wait for a socket in one of asyncio's, so only those that AnyIO makes for its streams
between tasks are known to be inside."""


def wait_inside(own: Iterable[asyncio.Task[Any]], others: Iterable[asyncio.Task[Any]]) -> bool:
    """Whether all of a group's tasks wait, at least one in a lock or a queue and the rest for such
    tasks, and none of the ``others`` is on its way to let it go on."""
    own = [task for task in own if not task.done()]
    return (
        any(_waits_in_lock(task) for task in own)
        and all(_rests(task) for task in own)
        and all(task.done() or _rests(task) for task in others)
    )


def _waits_in_lock(task: asyncio.Task[Any]) -> bool:
    chain = _chain(task)
    return bool(chain) and _is_of(chain[-1], _LOCKS) and chain[-1].co_qualname != _EVENT


def _rests(task: asyncio.Task[Any]) -> bool:
    """Whether a task waits for something that only another task gives."""
    awaited, chain = _awaited(task), _chain(task)
    if awaited is None:
        return False
    if isinstance(awaited, asyncio.Task) or type(awaited).__name__ == "_GatheringFuture":
        return True
    if not chain or not _is_of(chain[-1], (*_LOCKS, _TASKS)):
        return False
    if chain[-1].co_qualname != _EVENT:
        return True
    return chain[-2:-1] != [] and chain[-2].co_qualname == _EVENT and _is_of(chain[-2], _ANYIO)


def _is_of(code: CodeType, files: str | tuple[str, ...]) -> bool:
    return code.co_filename.replace("\\", "/").endswith(files)


def _awaited(task: asyncio.Task[Any]) -> Any:
    """The future that a task waits for; None when it runs, or is about to."""
    future = getattr(task, "_fut_waiter", None)
    return None if future is None or future.done() else future


def _chain(task: asyncio.Task[Any]) -> list[CodeType]:
    """The code in which a waiting task is, the innermost last, as far as it can be seen."""
    awaited: Any = task.get_coro() if _awaited(task) is not None else None
    chain: list[CodeType] = []
    while len(chain) < _DEPTH_MAX:
        if type(awaited).__name__ == "coroutine_wrapper":  # what ``coroutine.__await__()`` gives
            awaited = next(filter(inspect.iscoroutine, gc.get_referents(awaited)), None)
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        if code is None:
            break
        chain.append(code)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return chain
