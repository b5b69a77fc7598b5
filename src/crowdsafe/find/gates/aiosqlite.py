"""The gate of aiosqlite: its threads run a call as the operation that asked for it.

The connections themselves are sqlite3's, with that module's gate: it is the connection's own
thread that waits there, and the event loop goes on.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import aiosqlite

from crowdsafe.find.gates.control import current_operation
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.sources import asked_by, calling_line

__all__ = ["install"]


def install(redirect: Redirect) -> Callable[[], None]:  # noqa: ARG001
    """Carry the operation, and the line that asked, into aiosqlite's threads."""
    original: Callable[..., Any] = aiosqlite.Connection._execute  # noqa: SLF001

    @functools.wraps(original)
    async def execute(self: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if current_operation() is None:
            return await original(self, fn, *args, **kwargs)
        context = contextvars.copy_context()
        context.run(asked_by.set, calling_line())
        return await original(self, context.run, fn, *args, **kwargs)

    patches = Patches()
    patches.set(aiosqlite.Connection, "_execute", execute)
    return patches.undo
