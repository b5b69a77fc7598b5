"""Whether this process works or waits: a busy operation must not be taken for a stuck one.

Linux tells what each thread does (/proc/self/task). Elsewhere only time is a sign.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from _thread import allocate_lock
from pathlib import Path

__all__ = ["patience_factor", "process_is_busy", "waits_for_a_lock"]

_TASKS = Path("/proc/self/task")
_FUTEX = {"x86_64": "202", "aarch64": "98"}.get(platform.machine(), "")
_IDLE = {"x86_64": {"232", "281"}, "aarch64": {"22", "441"}}.get(platform.machine(), set[str]())
"""epoll_wait and its like: an event loop with nothing to do."""
_SAMPLE_S = 0.004
_BUSY = 0.25
_clock = time.monotonic


def patience_factor() -> float:
    """By how much longer things take than on an idle machine: the load for each processor."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except OSError:
        return 1.0


def process_is_busy() -> bool:
    """Whether another thread of this process computes, or is about to, as seen in 4 ms.

    Where the kernel tells, a thread that is ready to run counts, however busy the machine is with
    others; elsewhere only the time spent on the processor does.
    """
    began, used = _clock(), time.process_time()
    if _any_other_thread_ready():
        return True
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(timeout=_SAMPLE_S)
    return (time.process_time() - used) > _BUSY * (_clock() - began) or _any_other_thread_ready()


def waits_for_a_lock(loops: frozenset[int]) -> bool:
    """Whether all other threads wait for each other, and none for the world outside; ``loops``
    are the (native) threads whose idling tells nothing. False where that cannot be seen."""
    if not _FUTEX:
        return False
    for task in _others():
        call = _read(task / "syscall").split(" ", 1)[0]
        if call != _FUTEX and not (call in _IDLE and int(task.name) in loops):
            return False
    return True


def _any_other_thread_ready() -> bool:
    return any(
        _read(task / "stat").rpartition(")")[2].split()[:1] in (["R"], ["D"]) for task in _others()
    )


def _others() -> list[Path]:
    own = str(threading.get_native_id())
    try:
        return [task for task in _TASKS.iterdir() if task.name != own]
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended, or is none of our business
        return ""
