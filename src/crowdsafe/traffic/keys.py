"""What may be the name of a part, and the key of what it limits."""

from __future__ import annotations

from typing import Any

from crowdsafe.errors import ConfigError, InvalidInput

__all__ = ["KEY_CHARS_MAX", "NAME_CHARS_MAX", "check_key", "check_name"]

KEY_CHARS_MAX = 200
NAME_CHARS_MAX = 80


def check_key(key: Any) -> str:
    """The key, if every backend can hold it: 1 to 200 characters. Raises InvalidInput."""
    problem = _problem(key, KEY_CHARS_MAX)
    if problem:
        raise InvalidInput(
            f"a key has 1 to {KEY_CHARS_MAX} characters and {problem}; hash what is longer",
            field="key",
        )
    return str(key)


def check_name(name: Any) -> str:
    """The name of a part: 1 to 80 characters. Raises ConfigError."""
    problem = _problem(name, NAME_CHARS_MAX)
    if problem:
        raise ConfigError(f"a name has 1 to {NAME_CHARS_MAX} characters and {problem}: {name!r}")
    return str(name)


def _problem(text: Any, chars_max: int) -> str | None:
    if not isinstance(text, str):
        return f"is text, not {type(text).__name__}"
    if not 1 <= len(text) <= chars_max:
        return f"this has {len(text)}"
    if "\x00" in text:
        return "no U+0000"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "no lone surrogates"
    return None
