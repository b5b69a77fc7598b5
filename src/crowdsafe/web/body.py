"""What a request body may not hold: values that look valid and break what comes after.

Python's JSON reader accepts NaN and Infinity (not JSON: RFC 8259), reads 1e999 as infinity, and
lets half a surrogate pair through, which is no UTF-8; PostgreSQL cannot store U+0000. A cheap
search finds the bodies that could hold one of these; only they are read strictly.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from crowdsafe.errors import InvalidInput
from crowdsafe.web.problem import UnreadableBody

__all__ = ["check_json"]

_SUSPECT = re.compile(
    rb"NaN|Infinity|[0-9][eE]\+?[0-9]{3}|\\u0000|\\u[dD][89a-fA-F]|[0-9]{309}|\x00"
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check_json(body: bytes) -> None:
    """Raise InvalidInput when a JSON body holds NaN, an infinite number, U+0000 or half a pair.

    Raises UnreadableBody when such a body is no JSON at all. A body without a suspicious part
    is not read here.
    """
    if _SUSPECT.search(body) is None:
        return
    try:
        _refuse_text(json.loads(body, parse_constant=_refuse_constant, parse_float=_finite))
    except (ValueError, RecursionError):
        raise UnreadableBody from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInput(f"{name} is not a number in JSON; send a finite number.", field="body")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInput("A number is too large; send a finite number.", field="body")
    return value


def _refuse_text(value: Any) -> None:
    if isinstance(value, str):
        found = _UNSTORABLE.search(value)
        if found is not None:
            raise InvalidInput(
                f"A text holds the character U+{ord(found[0]):04X}; leave it out.", field="body"
            )
    elif isinstance(value, list):
        for item in value:
            _refuse_text(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_text(name)
            _refuse_text(item)
