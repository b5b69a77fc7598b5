"""Values in memory, bounded in number and in bytes; what was used longest ago goes first."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Entries", "Entry", "rough_bytes"]

ENTRY_BYTES = 300
_LEAVES = (str, bytes, bytearray, int, float, bool, type(None))


class Entry:
    """One value; the times are of ``time.monotonic()``."""

    __slots__ = ("fresh_until", "size_bytes", "stale_until", "value")

    def __init__(self, value: Any, fresh_until: float, stale_until: float, size_bytes: int) -> None:
        self.value = value
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        self.size_bytes = size_bytes


class Entries:
    """A dictionary that never holds more than ``items_max`` values and ``bytes_max`` bytes.

    ``by_address`` is for reading and for ``move_to_end`` alone.
    """

    def __init__(self, items_max: int, bytes_max: int, evicted: Callable[[], None]) -> None:
        self.by_address: OrderedDict[Hashable, Entry] = OrderedDict()
        self.size_bytes = 0
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._evicted = evicted

    def put(self, address: Hashable, entry: Entry) -> None:
        """Store a value as the one used last, and drop as many as are too many."""
        self.drop(address)
        self.by_address[address] = entry
        self.size_bytes += entry.size_bytes
        while len(self.by_address) > self._items_max or self.size_bytes > self._bytes_max:
            _, old = self.by_address.popitem(last=False)
            self.size_bytes -= old.size_bytes
            self._evicted()

    def drop(self, address: Hashable) -> None:
        """Remove a value, if it is there."""
        old = self.by_address.pop(address, None)
        if old is not None:
            self.size_bytes -= old.size_bytes


def rough_bytes(value: Any) -> int:
    """About how many bytes a value takes, with all that it holds; each object is counted once.

    Follows containers and instance attributes; what an extension type holds besides is not seen.
    """
    seen: set[int] = set()
    todo = [value]
    size = ENTRY_BYTES
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        size += sys.getsizeof(item)
        if isinstance(item, _LEAVES):
            continue
        if isinstance(item, dict):
            todo.extend(item.keys())
            todo.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            todo.extend(item)
        else:
            todo.extend(getattr(item, "__dict__", {}).values())
            for kind in type(item).__mro__:
                names = kind.__dict__.get("__slots__", ())
                names = (names,) if isinstance(names, str) else names
                todo.extend(getattr(item, name) for name in names if hasattr(item, name))
    return size
