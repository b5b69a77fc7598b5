"""What a function returned, as plain data that can be compared, shown and sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

__all__ = ["plain"]

_DEPTH_MAX = 8
_ITEMS_MAX = 1000
_CHARS_MAX = 1 << 20
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def plain(value: Any, depth: int = 0) -> Any:
    """JSON-like data: dataclasses, models and mapped objects become dicts of their fields.

    Of a mapped object only what is loaded is taken: nothing is fetched from the database. At most
    1000 items of a collection and 8 levels are kept.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    simple = _scalar(value)
    if simple is not None:
        return simple[:_CHARS_MAX]
    return _shown(value) if depth >= _DEPTH_MAX else _structure(value, depth)


def _structure(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_ITEMS_MAX]
        return {str(plain(key, depth + 1)): plain(item, depth + 1) for key, item in pairs}
    if isinstance(value, AbstractSet):
        return sorted((plain(item, depth + 1) for item in list(value)[:_ITEMS_MAX]), key=repr)
    if isinstance(value, Sequence):
        return [plain(item, depth + 1) for item in value[:_ITEMS_MAX]]
    fields = _fields(value)
    if fields is None:
        return _shown(value)
    return {name: plain(item, depth + 1) for name, item in fields.items()}


def _scalar(value: Any) -> str | None:
    if isinstance(value, str) and not isinstance(value, Enum):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Decimal | UUID | timedelta | PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)[:_CHARS_MAX].hex()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return None


def _fields(value: Any) -> dict[str, Any] | None:
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        if hasattr(value, "_sa_instance_state"):  # a mapped one: only what is loaded
            names = [name for name in names if name in vars(value)]
        return {name: getattr(value, name) for name in names}
    if hasattr(kind, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name, None) for field in kind.__attrs_attrs__}
    mapped = hasattr(value, "_sa_instance_state") or hasattr(value, "_state")
    if mapped or hasattr(kind, "model_fields") or hasattr(kind, "__fields__"):
        held = vars(value)
        return {name: held[name] for name in sorted(held) if not name.startswith("_")}
    return None


def _shown(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))[:_CHARS_MAX]
