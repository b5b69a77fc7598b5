"""A replay token: all that is needed to show a found race again, in one word of text."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Schedule

__all__ = ["Token", "decode", "encode"]

_PREFIX = "cs1."
_BYTES_MAX = 1 << 20
_LIST_MAX = 1000


@dataclass(frozen=True, slots=True)
class Token:
    """What was run. ``operations`` are requests as text, or ``call module:function``, or the names
    of the scenario's operations when ``target`` is one (``scenario`` is true then).
    ``database`` has no password in it.

    A token holds what its requests hold: passwords in ``login``, ``headers`` and bodies can be read
    by whoever has it.
    """

    target: str
    database: str
    operations: tuple[str, ...]
    schedule: Schedule
    setup: str | None = None
    login: str | None = None
    headers: tuple[str, ...] = ()
    scenario: bool = False
    isolation: str | None = None


def encode(token: Token) -> str:
    """The token as text of letters, digits, ``-``, ``_`` and one dot."""
    values = asdict(token) | {"database": _without_password(token.database)}
    text = json.dumps({key: value for key, value in values.items() if value}, ensure_ascii=False)
    packed = base64.urlsafe_b64encode(zlib.compress(text.encode(), 9))
    return _PREFIX + packed.decode().rstrip("=")


def decode(text: str) -> Token:
    """The other way round. Raises ConfigError that says what is wrong with the text."""
    text = "".join(text.split())
    if not text.startswith(_PREFIX):
        raise ConfigError(
            f"this is not a token of this version: it begins with {text[:8]!r}, not {_PREFIX!r}"
        )
    packed = text.removeprefix(_PREFIX)
    try:
        data = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        values = json.loads(_unpacked(data))
        return _token(values)
    except (binascii.Error, zlib.error, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the token is cut or changed: copy all of it ({error})") from None


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, _BYTES_MAX)
    if not unpacker.eof:
        raise ValueError("it ends early, or is too large")
    return text


def _token(values: Mapping[str, Any]) -> Token:
    known = {field.name for field in fields(Token)}
    if not isinstance(values, dict) or set(values) - known:
        raise ValueError("it holds what is not known here")
    schedule = tuple(
        (int(operation), int(count)) for operation, count in values.get("schedule", ())
    )
    return Token(
        target=_text(values.get("target", "")),
        database=_text(values.get("database", "")),
        operations=_texts(values["operations"]),
        schedule=schedule[:_LIST_MAX],
        setup=_text(values["setup"]) if "setup" in values else None,
        login=_text(values["login"]) if "login" in values else None,
        headers=_texts(values.get("headers", ())),
        scenario=values.get("scenario") is True,
        isolation=_text(values["isolation"]) if "isolation" in values else None,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values[:_LIST_MAX])


def _without_password(url: str) -> str:
    """The address without the password in it, which is given again by ``--database``."""
    parts = urlsplit(url)
    words = parts.query.split("&")
    query = "&".join(word for word in words if not word.lower().startswith("password="))
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}{at}{host}"
    if (netloc, query) == (parts.netloc, parts.query):
        return url
    return urlunsplit(parts._replace(netloc=netloc, query=query))
