"""Whether this process works or waits: a busy operation must not be taken for a stuck one."""

from __future__ import annotations

import threading
import time
from _thread import allocate_lock
from pathlib import Path

__all__ = ["process_is_busy"]

_TASKS = Path("/proc/self/task")
_SAMPLE_S = 0.004
_BUSY = 0.25
_clock = time.monotonic


def process_is_busy() -> bool:
    """Whether another thread of this process computes, or is about to, as seen in 4 ms.

    Where the kernel tells (Linux), a thread that is ready to run counts, however busy the machine
    is with others; elsewhere only the time spent on the processor does.
    """
    began, used = _clock(), time.process_time()
    if _any_other_thread_ready():
        return True
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(timeout=_SAMPLE_S)
    return (time.process_time() - used) > _BUSY * (_clock() - began) or _any_other_thread_ready()


def _any_other_thread_ready() -> bool:
    own = str(threading.get_native_id())
    try:
        tasks = [task for task in _TASKS.iterdir() if task.name != own]
    except OSError:
        return False
    return any(_state(task) in {"R", "D"} for task in tasks)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it has just ended
        return ""
