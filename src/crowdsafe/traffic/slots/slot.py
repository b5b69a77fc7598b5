"""What a holder has, and the errors and limits that all kinds of slots share."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from crowdsafe.errors import ConfigError, LeaseLost, NoSlot
from crowdsafe.traffic.arguments import check_number

__all__ = ["Slot", "check_lease", "check_limit", "check_wait", "no_slot"]

LIMIT_MAX = 1000
LEASE_S_MIN, LEASE_S_MAX = 0.1, 3600.0
WAIT_S_MAX = 300.0
RETRY_AFTER_S = 1.0


class Slot:
    """A slot that is held. ``lost`` is an event, set when its lease has ended too early: then
    someone else may hold the slot, and the holder should stop."""

    __slots__ = ("_sure_until", "id", "key", "lost")

    def __init__(self, key: str, id: str, sure_until: float = math.inf) -> None:
        self.key = key
        self.id = id
        self.lost = asyncio.Event()
        self._sure_until = sure_until

    @property
    def sure_until(self) -> float:
        """The ``time.monotonic()`` moment up to which nobody else can be given this slot."""
        return self._sure_until

    def renewed(self, sure_until: float) -> None:
        """Told by the one who renews the lease."""
        self._sure_until = sure_until

    def check(self) -> None:
        """Raise LeaseLost when someone else may hold the slot by now."""
        if self.lost.is_set() or time.monotonic() >= self._sure_until:
            self.lost.set()
            raise LeaseLost(
                f"the lease of a slot of {self.key!r} ended before its holder did; stop, and take "
                "a slot anew"
            )


def no_slot(limit: int) -> NoSlot:
    """The error for a key whose slots are all held."""
    return NoSlot(
        f"{limit} of at most {limit} run already; try again when one has ended",
        limit=limit,
        retry_after_s=RETRY_AFTER_S,
    )


def check_limit(limit: Any) -> int:
    """How many may hold a slot of one key: 1 to 1000. Raises ConfigError."""
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise ConfigError(f"the limit of slots is a whole number from 1 to {LIMIT_MAX}: {limit!r}")
    return limit


def check_lease(lease_s: float) -> float:
    """A lease of 0.1 seconds to an hour. Raises ConfigError."""
    return check_number("lease_s", lease_s, LEASE_S_MIN, LEASE_S_MAX)


def check_wait(wait_s: float) -> float:
    """A wait of 0 to 300 seconds. Raises ConfigError."""
    return check_number("wait_s", wait_s, 0, WAIT_S_MAX)
