"""Reads the stacks that a hanging process wrote: which line of the target it stands at."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

__all__ = ["where_it_hangs"]

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$')
_LIBRARIES = ("site-packages", "dist-packages")
_OWN = str(Path(__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")


def where_it_hangs(stacks: str) -> str | None:
    """``shop.py:12 in allocate``: the innermost line of the target, by faulthandler's stacks of
    all threads (innermost frame first); of a thread that the finder itself holds up only where
    there is no other. None when none of its code is on them."""
    held: str | None = None
    for stack in re.split(r"\n\s*\n", stacks):
        ours = False
        for found in filter(None, map(_FRAME.match, stack.splitlines())):
            ours = ours or found["file"].startswith(_OWN)
            if _is_library(found["file"]):
                continue
            place = f"{_shown(found['file'])}:{found['line']} in {found['function']}"
            if not ours:
                return place
            held = held or place
            break
    return held


def _is_library(file: str) -> bool:
    return file.startswith(("<", _OWN, _STDLIB)) or any(name in file for name in _LIBRARIES)


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
