"""Attributes of other people's modules that are replaced for a while."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Patches"]


class Patches:
    """Replaces attributes, and puts all of them back with :meth:`undo`, the last one first."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, bool]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        own = name in vars(owner)
        held = vars(owner)[name] if own else None  # as it is: a classmethod stays one
        self._done.append((owner, name, held, own))
        setattr(owner, name, value)

    def set_everywhere(self, original: Any, value: Any) -> None:
        """Replace a function in all loaded modules that imported it by name, whatever they call
        it, but not in the finder's own."""
        for module in list(sys.modules.values()):
            name = getattr(module, "__name__", "")
            if not isinstance(name, str) or name.startswith("crowdsafe.find"):
                continue
            found = [key for key, held in _globals(module).items() if held is original]
            for key in found:
                self.set(module, key, value)

    def undo(self) -> None:
        while self._done:
            owner, name, value, own = self._done.pop()
            if own:
                setattr(owner, name, value)
            else:
                delattr(owner, name)


def _globals(module: Any) -> dict[str, Any]:
    try:
        return dict(vars(module))
    except TypeError:
        return {}
