"""What a cache has done so far, in this process."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheStats", "Counts"]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Figures for a dashboard, of this process.

    ``hits`` were fresh, ``stale`` served while a new value is made, ``misses`` waited for one.
    ``executions`` counts the times that ``make`` was begun here, ``failures`` those that raised.
    ``items`` and ``size_bytes`` are what is held in this process's memory, ``flights`` what runs.
    ``lost`` counts values that were not stored, since a newer one or ``forget`` came first.
    ``outages`` counts questions that the backend did not answer.
    """

    hits: int
    stale: int
    misses: int
    executions: int
    failures: int
    lost: int
    outages: int
    evicted: int
    items: int
    size_bytes: int
    flights: int


class Counts:
    """The running counters behind ``CacheStats``."""

    __slots__ = (
        "evicted",
        "executions",
        "failures",
        "hits",
        "lost",
        "misses",
        "outages",
        "stale",
    )

    def __init__(self) -> None:
        self.hits = self.stale = self.misses = self.executions = 0
        self.failures = self.lost = self.outages = self.evicted = 0

    def stats(self, *, items: int = 0, size_bytes: int = 0, flights: int = 0) -> CacheStats:
        """The figures as they are now."""
        own = {name: getattr(self, name) for name in self.__slots__}
        return CacheStats(**own, items=items, size_bytes=size_bytes, flights=flights)
