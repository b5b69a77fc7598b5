"""Whose value it is: a scope is named with every call, so that two users never share by mistake."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any, NamedTuple
from uuid import UUID

from crowdsafe.errors import InvalidInput

__all__ = ["KEY_LENGTH_MAX", "PUBLIC", "Scope", "address_of", "check_address", "for_user"]

KEY_LENGTH_MAX = 1000
ID_LENGTH_MAX = 200


class Scope(NamedTuple):
    """Who may see a value: ``PUBLIC`` or ``for_user(id)``. Not to be made by hand."""

    kind: str
    id: str


PUBLIC = Scope("public", "")
"""Everyone may see the value."""


def for_user(id: str | int | UUID) -> Scope:
    """The scope of one user; ``for_user(7)`` and ``for_user("7")`` are the same user.

    Raises TypeError for None and other things that name nobody, ValueError for text that is empty
    or has more than 200 characters: someone who is not logged in has no scope of their own.
    """
    if isinstance(id, bool) or not isinstance(id, str | int | UUID):
        raise TypeError(f"a user's id is text, a whole number or a UUID, not {id!r}")
    text = str(id)
    if not 1 <= len(text) <= ID_LENGTH_MAX:
        raise ValueError(f"a user's id has 1 to {ID_LENGTH_MAX} characters")
    return Scope("user", text)


def check_address(scope: Any, key: Any) -> None:
    """Raise TypeError unless this is a scope, InvalidInput unless the key has 1 to 1000
    characters."""
    if type(scope) is not Scope:
        raise TypeError(f"scope is PUBLIC or for_user(id), not {scope!r}")
    if not isinstance(key, str):
        raise InvalidInput(f"a cache key is text, not {key!r}; write str(...)", field="key")
    if not 1 <= len(key) <= KEY_LENGTH_MAX:
        raise InvalidInput(
            f"a cache key has 1 to {KEY_LENGTH_MAX} characters and this has {len(key)}; hash what "
            "is longer",
            field="key",
        )


def address_of(scope: Scope, key: str) -> str:
    """64 characters for a scope and a key: other scopes and keys have others, whatever their text.

    SHA-256 over the JSON array of the parts, which no separator inside a part can imitate.
    """
    try:
        return _hashed(scope, key)
    except TypeError:
        check_address(scope, key)
        raise


@functools.lru_cache(maxsize=4096, typed=True)
def _hashed(scope: Scope, key: str) -> str:
    check_address(scope, key)
    return hashlib.sha256(json.dumps([*scope, key]).encode()).hexdigest()
