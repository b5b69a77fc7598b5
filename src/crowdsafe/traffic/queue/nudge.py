"""Tell the workers of this process that there is something to do."""

from __future__ import annotations

import weakref
from typing import Protocol

__all__ = ["Nudged", "listeners", "nudge_workers"]


class Nudged(Protocol):
    """A worker, as far as nudging goes."""

    @property
    def queue_name(self) -> str: ...

    def nudge(self, *, cancelled: bool = False) -> None:
        """Must be quick and may be called from any thread."""


listeners: weakref.WeakSet[Nudged] = weakref.WeakSet()
"""The workers that run in this process."""


def nudge_workers(queue_name: str, *, cancelled: bool = False) -> None:
    """Let them look for jobs now, or for those that are to be cancelled."""
    for listener in list(listeners):
        if listener.queue_name == queue_name:
            listener.nudge(cancelled=cancelled)
