"""Placeholders in requests: values that earlier answers of the same operation gave."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus

from crowdsafe.errors import ConfigError

__all__ = ["PLACEHOLDER", "Answered", "UnknownPlaceholder", "check", "fill_form", "fill_json"]
__all__ += ["fill_text", "fill_url"]

PLACEHOLDER = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")
_PARTS = ("body", "headers", "cookies", "form", "status")
_KEYS_SHOWN_MAX = 12


class UnknownPlaceholder(Exception):
    """A placeholder names something that the answer does not have."""


@dataclass(slots=True)
class Answered:
    """What later requests may take from one answer. ``form`` are the hidden and filled fields
    of its page."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)


def check(text: str, place: int, label: str) -> None:
    """Raise ConfigError when a placeholder of the request at ``place`` can never be filled."""
    for found in PLACEHOLDER.finditer(text):
        number, part, _ = _split(found[1])
        if part not in _PARTS:
            raise ConfigError(
                f"{label}: unknown placeholder {found[0]}: write {{{{body.…}}}}, "
                "{{headers.…}}, {{cookies.…}}, {{form.…}} or {{status}}"
            )
        if place == 0 or (number is not None and not 1 <= number <= place):
            raise ConfigError(f"{label}: {found[0]} has no earlier answer to take a value from")


def _split(path: str) -> tuple[int | None, str, list[str]]:
    first, *rest = path.split(".")
    if first.isdigit() and rest:
        return int(first), rest[0], rest[1:]
    return None, first, rest


def fill_text(text: str, answers: Sequence[Answered]) -> str:
    """The text with values as they are. All fillers raise UnknownPlaceholder."""
    return _fill(text, answers, _plain)


def fill_url(text: str, answers: Sequence[Answered]) -> str:
    """Values percent-encoded, but an address such as a Location as it is."""

    def encode(value: Any) -> str:
        shown = _plain(value)
        return shown if shown.startswith(("/", "http://", "https://")) else quote(shown, safe="")

    return _fill(text, answers, encode)


def fill_form(text: str, answers: Sequence[Answered]) -> str:
    return _fill(text, answers, lambda value: quote_plus(_plain(value)))


def fill_json(text: str, answers: Sequence[Answered]) -> str:
    """Values as JSON; inside of a string as a part of it."""
    filled, done = [], 0
    for found in PLACEHOLDER.finditer(text):
        filled.append(text[done : found.start()])
        value = _value(found, answers)
        quoted = _inside_string(text[: found.start()])
        filled.append(json.dumps(_plain(value))[1:-1] if quoted else json.dumps(value))
        done = found.end()
    return "".join(filled) + text[done:]


def _inside_string(before: str) -> bool:
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', before)) % 2 == 1


def _fill(text: str, answers: Sequence[Answered], encode: Callable[[Any], str]) -> str:
    return PLACEHOLDER.sub(lambda found: encode(_value(found, answers)), text)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(found: re.Match[str], answers: Sequence[Answered]) -> Any:
    number, part, path = _split(found[1])
    if number is None:
        number = len(answers)
    if not 1 <= number <= len(answers):
        raise UnknownPlaceholder(f"{found[0]}: there is no answer {number} yet")
    value: Any = getattr(answers[number - 1], part)
    if part != "body" and path:
        path = [".".join(path)]
    if part == "headers":
        path = [name.lower() for name in path]
    for key in path:
        value = _step(value, key, found[0])
    return value


def _step(value: Any, key: str, placeholder: str) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if (
        isinstance(value, list)
        and key.lstrip("-").isdigit()
        and -len(value) <= int(key) < len(value)
    ):
        return value[int(key)]
    raise UnknownPlaceholder(f"{placeholder}: there is no {key!r} in {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        more = ", …" if len(keys) > _KEYS_SHOWN_MAX else ""
        return f"the keys {', '.join(keys[:_KEYS_SHOWN_MAX])}{more}" if keys else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the value {str(value)[:80]!r}"
