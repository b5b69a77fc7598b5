"""Chance that is none: numbers that a request itself decides, the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Choice"]

T = TypeVar("T")


class Choice:
    """Draws numbers out of a seed by name; the order of the draws does not matter."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def number(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        return low + int.from_bytes(digest[:8]) % (high - low + 1)

    def one(self, name: str, among: Sequence[T]) -> T:
        """One of a sequence that is not empty."""
        return among[self.number(name, 0, len(among) - 1)]
