"""Carries an operation into the threads that it starts, and keeps it from sleeping."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from crowdsafe.find.gates.control import current_operation, operate, scratch
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.sources import asked_by, calling_line, handed_over

__all__ = ["install"]

SLEEPS_MAX = 1000
_POOLED = frozenset({"concurrent.futures.thread", "aiosqlite.core"})


def install(redirect: Redirect) -> Callable[[], None]:  # noqa: ARG001
    """Patch threads, executors and sleeps; returns what undoes it.

    A thread or a call in an executor belongs to the operation that started it. (``to_thread``,
    AnyIO and asgiref copy the context by themselves; what a loop hands over is told the line that
    asked for it.) A sleep of an operation returns at once, 1000 times; after that it sleeps, so
    that a loop that waits for something does not spin.
    """
    patches = Patches()
    _carry_into_threads(patches)
    _carry_into_executors(patches)
    _tell_loops_executors(patches)
    _skip_sleeps(patches)
    return patches.undo


def _carry_into_threads(patches: Patches) -> None:
    original = threading.Thread.start

    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        target = getattr(self, "_target", None)
        if current_operation() is not None and getattr(target, "__module__", "") not in _POOLED:
            self.run = _carried(self.run)  # type: ignore[method-assign]
        original(self)

    patches.set(threading.Thread, "start", start)


def _carry_into_executors(patches: Patches) -> None:
    executor = concurrent.futures.ThreadPoolExecutor
    original: Callable[..., Any] = executor.submit

    @functools.wraps(original)
    def submit(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        carried = fn if current_operation() is None else _carried(fn)
        return original(self, carried, *args, **kwargs)

    patches.set(executor, "submit", submit)


def _tell_loops_executors(patches: Patches) -> None:
    original: Callable[..., Any] = asyncio.BaseEventLoop.run_in_executor

    @functools.wraps(original)
    def run_in_executor(self: Any, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        told = func if current_operation() is None else handed_over(func)
        return original(self, executor, told, *args)

    patches.set(asyncio.BaseEventLoop, "run_in_executor", run_in_executor)


def _carried(call: Callable[..., Any]) -> Callable[..., Any]:
    """That call as the present operation, in whatever thread it runs."""
    operation, source = current_operation(), calling_line()

    def carried(*args: Any, **kwargs: Any) -> Any:
        if current_operation() == operation:
            return call(*args, **kwargs)
        before, token = current_operation(), asked_by.set(source)
        operate(operation)
        try:
            return call(*args, **kwargs)
        finally:
            operate(before)
            asked_by.reset(token)

    return carried


def _skip_sleeps(patches: Patches) -> None:
    really, really_async = time.sleep, asyncio.sleep

    @functools.wraps(really)
    def sleep(seconds: float, /) -> None:
        really(0 if seconds >= 0 and _may_skip() else seconds)

    @functools.wraps(really_async)
    async def sleep_async(delay: float, result: Any = None) -> Any:
        return await really_async(0 if _may_skip() else delay, result)

    patches.set_everywhere(really, sleep)
    patches.set_everywhere(really_async, sleep_async)


def _may_skip() -> bool:
    if current_operation() is None:
        return False
    notes = scratch()
    notes["slept"] = True
    notes["sleeps"] = notes.get("sleeps", 0) + 1
    return bool(notes["sleeps"] <= SLEEPS_MAX)
