"""Which line of the target asked for a statement."""

from __future__ import annotations

import contextvars
import functools
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from crowdsafe.find.model import Source

__all__ = ["asked_by", "calling_line", "set_roots"]

_LIBRARIES = frozenset({"site-packages", "dist-packages"})
_FRAMES_MAX = 1000
_OURS = str(Path(__file__).resolve().parent.parent)
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})

_roots: tuple[str, ...] = ()
_is_target: dict[CodeType, bool] = {}

asked_by: contextvars.ContextVar[Source | None] = contextvars.ContextVar(
    "crowdsafe_find_asked_by", default=None
)
"""The line that handed work to a thread which has no frame of the target on its stack."""


def set_roots(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Name folders whose code is the target's although it lies among installed packages."""
    global _roots  # noqa: PLW0603
    _roots = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    _is_target.clear()


def calling_line() -> Source | None:
    """The innermost line of the target's own code on the caller's stack, or None.

    Not its own: the standard library, installed packages (unless :func:`set_roots` names them)
    and the finder. Greenlets are followed both ways (SQLAlchemy's asyncio runs its core in one).
    Takes some microseconds.
    """
    for frame in _frames(sys._getframe(1)):  # noqa: SLF001
        code = frame.f_code
        known = _is_target.get(code)
        if known is None:
            known = _is_target[code] = _belongs_to_target(code.co_filename)
        if known:
            return _source(code, frame.f_lineno)
    return asked_by.get()


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


def _belongs_to_target(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = os.path.realpath(filename)
    if path.startswith(_roots):
        return True
    parts = Path(path).parts
    return not (
        _LIBRARIES.intersection(parts)
        or path.startswith(_OURS + os.sep)
        or any(path.startswith(folder + os.sep) for folder in _STANDARD)
    )


@functools.lru_cache(maxsize=10_000)
def _source(code: CodeType, line: int) -> Source:
    path = os.path.realpath(code.co_filename)
    below = os.path.relpath(path)
    shown = path if below.startswith(os.pardir) else below
    return Source(shown, line, code.co_qualname, linecache.getline(code.co_filename, line).strip())
