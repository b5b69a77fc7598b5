"""Connections that a pool kept from before: to the database itself, or to a copy that is gone."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from crowdsafe.find.gates.redirect import Redirect

__all__ = ["let_go"]


def let_go(redirect: Redirect, wait: Callable[[Coroutine[Any, Any, Any]], Any] | None) -> None:
    """Empty SQLAlchemy's pools of connections to the database that ``redirect`` is about.

    A test suite keeps its engine for many tests: what its pool opened before the drivers were
    patched would write to the database itself, unseen, and what it opened for one copy is of no
    use for the next. Engines for other databases, such as one in memory, keep what they have.
    ``wait`` runs what an async engine has to wait for, on the loop of its connections; without
    it they are dropped unclosed, as their loop has ended. Connections that are in use at this
    moment, and pools of other libraries, are left alone.
    """
    if (engines := sys.modules.get("sqlalchemy.engine.base")) is None:
        return
    for engine in [each for each in gc.get_objects() if type(each) is engines.Engine]:
        if not _is_about(engine.url, redirect):
            continue
        if not engine.dialect.is_async:
            engine.dispose()
        elif wait is None:
            engine.dispose(close=False)
        else:
            wait(_disposed(engine))


def _is_about(url: Any, redirect: Redirect) -> bool:
    backend = url.get_backend_name()
    if backend == "sqlite":
        name = url.database or ":memory:"
        return redirect.sqlite_names(name, uri=name.startswith("file:"))
    named: dict[str, Any] = url.translate_connect_args(username="user")
    return bool(backend == "postgresql") and redirect.postgres_names_original(
        {**url.query, **named}
    )


async def _disposed(engine: Any) -> None:
    from sqlalchemy.util.concurrency import greenlet_spawn

    await greenlet_spawn(engine.dispose)
