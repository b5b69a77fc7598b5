"""Which line of the target asked for a statement."""

from __future__ import annotations

import contextvars
import functools
import linecache
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

from crowdsafe.find.model import Source

__all__ = ["asked_by", "calling_line", "handed_over", "set_roots"]

_LIBRARIES = frozenset({"site-packages", "dist-packages"})
_PLUMBING = frozenset(
    {
        "_pytest", "aiosqlite", "alembic", "anyio", "asgiref", "asyncmy", "asyncpg", "databases",
        "django", "fastapi", "flask", "flask_admin", "flask_login", "flask_migrate",
        "flask_restful", "flask_restx", "flask_smorest", "flask_sqlalchemy", "graphene",
        "graphql", "greenlet", "gunicorn", "httpcore", "httpx", "jinja2", "litestar",
        "marshmallow", "nest_asyncio", "ninja", "peewee.py", "piccolo", "playhouse", "pluggy",
        "polyfactory", "pony", "psycopg", "psycopg2", "psycopg_pool", "pydantic", "pytest",
        "quart", "requests", "rest_framework", "sniffio", "sqlalchemy", "sqlalchemy_utils",
        "sqlmodel", "starlette", "strawberry", "tortoise", "uvicorn", "uvloop", "werkzeug",
        "whitenoise", "wrapt",
    }
)  # fmt: skip
_VIEWS = frozenset({"rest_framework", "flask_admin", "flask_restful", "ninja", "strawberry"})
"""Frameworks that bring views of their own, which may be all the code that an operation has."""
_DISPATCHERS = ("django/core/handlers/", "starlette/routing.py", "flask/app.py")
"""What calls a view: a package's line further out is that of a middleware around all views."""
_FRAMES_MAX = 1000
_OURS = str(Path(__file__).resolve().parent.parent)
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})


class _Kind(Enum):
    OWN = 1
    PACKAGE = 2
    PLUMBING = 3
    VIEWS = 4
    DISPATCHER = 5


_roots: tuple[str, ...] = ()
_kinds: dict[str, _Kind] = {}

asked_by: contextvars.ContextVar[Source | None] = contextvars.ContextVar(
    "crowdsafe_find_asked_by", default=None
)
"""The line that handed work to a thread which has no frame of the target on its stack."""
_handed = threading.local()


def handed_over(call: Callable[..., Any]) -> Callable[..., Any]:
    """That call with the present line as what asked for it, in whatever context and thread it
    runs: a variable of a context does not get past those who copy theirs before."""
    line = calling_line()

    def handed(*args: Any, **kwargs: Any) -> Any:
        before = getattr(_handed, "line", None)
        _handed.line = line or before
        try:
            return call(*args, **kwargs)
        finally:
            _handed.line = before

    return handed


def set_roots(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Name folders whose code is the target's although it lies among installed packages."""
    global _roots  # noqa: PLW0603
    _roots = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    _kinds.clear()


def calling_line() -> Source | None:
    """The innermost line of the target's own code on the caller's stack, or None.

    Not its own: the standard library, installed packages (unless :func:`set_roots` names them)
    and the finder. An app that is installed itself has no other code: then it is the innermost
    line of a package that is no well-known framework or driver, and no middleware, or else that
    of a framework's ready-made views. Greenlets are followed both ways (SQLAlchemy's asyncio runs
    its core in one). Takes some microseconds.
    """
    of_package: FrameType | None = None
    of_views: FrameType | None = None
    in_view = True
    for frame in _frames(sys._getframe(1)):  # noqa: SLF001
        filename = frame.f_code.co_filename
        kind = _kinds.get(filename)
        if kind is None:
            kind = _kinds[filename] = _kind(filename)
        if kind is _Kind.OWN:
            return _source(filename, frame.f_lineno, frame.f_code.co_qualname)
        if kind is _Kind.DISPATCHER:
            in_view = False
        elif kind is _Kind.PACKAGE and in_view:
            of_package = of_package or frame
        elif kind is _Kind.VIEWS and in_view:
            of_views = of_views or frame
    asked = asked_by.get() or getattr(_handed, "line", None)
    found = of_package or of_views
    if asked is None and found is not None:
        return _source(found.f_code.co_filename, found.f_lineno, found.f_code.co_qualname)
    return asked


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The stack from the innermost frame on, with those of the greenlets that it runs through."""
    greenlet = _current_greenlet()
    for _ in range(_FRAMES_MAX):
        if frame is None:
            greenlet = greenlet.parent if greenlet is not None else None
            if greenlet is None:
                return
            frame = greenlet.gr_frame
            continue
        if frame.f_code.co_name == "greenlet_spawn":
            child = getattr(frame.f_locals.get("context"), "gr_frame", None)
            while child is not None:
                yield child
                child = child.f_back
        yield frame
        frame = frame.f_back


def _current_greenlet() -> Any:
    module = sys.modules.get("greenlet")
    return module.getcurrent() if module is not None else None


def _kind(filename: str) -> _Kind:
    if filename.startswith("<"):
        return _Kind.PLUMBING
    path = os.path.realpath(filename)
    if path.startswith(_roots):
        return _Kind.OWN
    if path.startswith(_OURS + os.sep):  # wherever it is installed
        return _Kind.PLUMBING
    parts = Path(path).parts
    for place, part in enumerate(parts[:-1]):
        if part in _LIBRARIES:
            return _kind_of_package(parts[place + 1 :])
    return _Kind.PLUMBING if path.startswith(_STANDARD) else _Kind.OWN


def _kind_of_package(parts: tuple[str, ...]) -> _Kind:
    """The kind of an installed file, by its place below ``site-packages``."""
    if "/".join(parts).startswith(_DISPATCHERS):
        return _Kind.DISPATCHER
    if parts[0] in _VIEWS:
        return _Kind.VIEWS
    return _Kind.PLUMBING if parts[0] in _PLUMBING else _Kind.PACKAGE


@functools.lru_cache(maxsize=10_000)
def _source(filename: str, line: int, function: str) -> Source:
    path = os.path.realpath(filename)
    below = os.path.relpath(path)
    shown = path if below.startswith(os.pardir) else below
    return Source(shown, line, function, linecache.getline(filename, line).strip())
