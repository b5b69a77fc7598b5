"""Texts that carry data, the time and a signature, as Django and itsdangerous make them: those of
a session, say. They differ in each run, and what they carry need not."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

__all__ = ["carried"]

_SIGNED = re.compile(r"(\.?)([A-Za-z0-9_-]++)([:.])[A-Za-z0-9_-]{5,7}\3[A-Za-z0-9_-]{27,86}")
_BYTES_MAX = 200_000


def carried(text: str) -> dict[str, Any] | list[Any] | None:
    """The map or list that a signed text carries; None for any other text."""
    found = _SIGNED.fullmatch(text) if len(text) <= _BYTES_MAX else None
    if found is None:
        return None
    packed, payload = found[1], found[2]
    try:
        data = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        if packed:
            data = zlib.decompressobj().decompress(data, _BYTES_MAX)
        value = json.loads(data)
    except (ValueError, RecursionError, zlib.error):
        return None
    return value if isinstance(value, dict | list) else None
