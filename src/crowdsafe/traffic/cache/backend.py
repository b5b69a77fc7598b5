"""What a server must be able to do so that processes can share a cache on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["HANDOVER_MS", "Backend", "Claim", "Found"]

HANDOVER_MS = 2000
"""A value is kept at least this long, however short it lives, for those who wait for it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A stored value, and whether it is fresh or stale."""

    text: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to "may I make it?": one of a value, an error, a token, or who does it already.

    ``token`` is above 0 when the lease is the asker's now; each lease of an address has a higher
    one than those before. ``busy`` is the token of whoever holds the lease.
    """

    text: str | None = None
    error: str | None = None
    token: int = 0
    busy: int = 0


class Backend(Protocol):
    """One server. Every step is atomic there, and tells time by the server's clock."""

    async def look(self, addresses: Sequence[str]) -> dict[str, Found]:
        """The values that are stored and not past their stale time."""

    async def claim(self, address: str, lease_ms: int, waiting: int) -> Claim:
        """Take the lease if there is no fresh value and nobody holds it.

        For someone who already waits for the lease ``waiting``, what that one or a later one gave
        is the answer: its value even if that has ended, or its error.
        """

    async def renew(self, address: str, token: int, lease_ms: int) -> bool:
        """Hold the lease longer; false when ``token`` is no longer the newest."""

    async def publish(
        self, address: str, token: int, text: str, fresh_ms: int, stale_ms: int
    ) -> bool:
        """Store a value and free the lease; false, and nothing stored, as in ``renew``."""

    async def fail(self, address: str, token: int, error: str) -> None:
        """Free the lease and leave the error to those who wait for it."""

    async def release(self, address: str, token: int) -> None:
        """Free the lease, if it is still this one."""

    async def forget(self, address: str) -> None:
        """Drop the value, and whatever is being made for it now."""

    async def sweep(self) -> None:
        """Make room; called now and then."""
