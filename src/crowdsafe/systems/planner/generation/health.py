"""How a service has done lately: what tells a stray failure from an outage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Health"]

OUTCOMES_MAX = 20
WINDOW_S = 5.0


class Health:
    """The last outcomes of one process's calls: at most 20, none older than five seconds.

    A breaker that counts failures alone opens on a busy service sooner than on a quiet one: 2% of
    failures at a hundred calls a second are two each second. So a failure is only held against
    the service when half of the last calls, or more, have failed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=OUTCOMES_MAX)

    def note(self, *, well: bool) -> None:
        """A call has ended, well or not."""
        self._outcomes.append((self._clock(), well))

    @property
    def ill(self) -> bool:
        """Whether half of the last calls, or more, have failed; False when there were none."""
        since = self._clock() - WINDOW_S
        lately = [well for at, well in self._outcomes if at >= since]
        return bool(lately) and 2 * sum(lately) <= len(lately)
