"""What Django's caches hold in the memory of this process, put back between runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["keep_caches"]


def keep_caches() -> Callable[[], None]:
    """Remember what the caches in memory hold now; returns what puts it back.

    A session that is read from there would otherwise hold what the run before had put in it.
    """
    held = {
        part: {name: store.copy() for name, store in stores.items()}
        for part, stores in _stores().items()
    }

    def put_back() -> None:
        for part, stores in _stores().items():
            for name, store in stores.items():
                store.clear()
                store.update(held.get(part, {}).get(name, {}))

    return put_back


def _stores() -> dict[str, dict[str, Any]]:
    """The entries and their ends, by the name of the cache; none where Django has no such cache."""
    module = vars(sys.modules.get("django.core.cache.backends.locmem", object))
    return {part: module.get(part, {}) for part in ("_caches", "_expire_info")}
