"""What may be the name of a part, and the key of what it limits."""

from __future__ import annotations

from typing import Any

from crowdsafe.errors import ConfigError, InvalidInput

__all__ = [
    "KEY_CHARS_MAX",
    "NAME_CHARS_MAX",
    "check_key",
    "check_name",
    "check_text",
    "text_problem",
]

KEY_CHARS_MAX = 200
NAME_CHARS_MAX = 80


def check_key(key: Any) -> str:
    """The key, if every backend can hold it: 1 to 200 characters. Raises InvalidInput."""
    problem = text_problem(key, KEY_CHARS_MAX)
    if problem:
        raise InvalidInput(
            f"a key has 1 to {KEY_CHARS_MAX} characters and {problem}; hash what is longer",
            field="key",
        )
    return str(key)


def check_text(field: str, text: Any, chars_max: int) -> str:
    """Text that every backend can hold, of 1 to ``chars_max`` characters. Raises InvalidInput."""
    problem = text_problem(text, chars_max)
    if problem:
        raise InvalidInput(f"{field} has 1 to {chars_max} characters and {problem}", field=field)
    return str(text)


def check_name(name: Any, what: str = "a name") -> str:
    """The name of a part: 1 to 80 characters. Raises ConfigError."""
    problem = text_problem(name, NAME_CHARS_MAX)
    if problem:
        raise ConfigError(f"{what} has 1 to {NAME_CHARS_MAX} characters and {problem}: {name!a}")
    return str(name)


def text_problem(text: Any, chars_max: int) -> str | None:
    """What is wrong with text for a database or a server, or None."""
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
