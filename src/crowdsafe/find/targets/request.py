"""What a user writes for one operation over HTTP: a request or a few, in one line of text.

``METHOD PATH [Header:value ...] [BODY]``, several requests joined by `` && ``. The body is JSON
when it starts with ``{``, ``[`` or ``"``, the content of a file as ``@file``, else a form
(``a=1&b=2``; ``photo=@file`` makes it multipart). ``{{body.items.0.id}}``, ``{{headers.etag}}``,
``{{cookies.name}}`` and ``{{form.name}}`` (a field of the page) stand for values of the previous
answer, ``{{1.body.id}}`` for those of the first. A ``?`` before the method lets the operation go
on although the answer is 400 or above.
"""

from __future__ import annotations

import io
import json as json_codec
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from urllib.parse import urlencode

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets.template import PLACEHOLDER, check

__all__ = ["BodyKind", "Request", "Requests", "parse", "request"]

_REQUESTS_MAX = 100
_METHOD = re.compile(r"\??[A-Za-z]+(?=\s|$)")
_URL = re.compile(r"(?:\{\{[^{}]*\}\}|\S)+")
_HEADER = re.compile(r"""['"]?([A-Za-z][A-Za-z0-9_-]*):(?!//)""")
_NEXT = re.compile(r"\s+&&\s+")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_WHOLE_PLACEHOLDER = re.compile(r'"(\{\{\s*[\w.-]+\s*\}\})"')


class BodyKind(Enum):
    NONE = "none"
    JSON = "json"
    FORM = "form"
    FILE = "file"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was written; ``lenient`` when a refusal does not end the operation."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    kind: BodyKind = BodyKind.NONE
    lenient: bool = False

    @property
    def label(self) -> str:
        return f"{self.method} {self.url}"

    @property
    def is_safe(self) -> bool:
        return self.method in {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one operation. ``login`` are requests that its user makes beforehand."""

    requests: tuple[Request, ...]
    text: str
    name: str
    login: str | None = None
    user: str | None = None

    def called(self, name: str) -> Requests:
        return replace(self, name=name)


def request(
    text: str,
    *more: str | Requests,
    json: Any = None,
    form: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    name: str | None = None,
    as_: str | None = None,
) -> Requests:
    """One operation: ``request("POST /orders", json={"product": 1}, name="order")``.

    ``json`` or ``form`` is the body of ``text``, which then has none of its own; ``more`` are
    requests that follow. ``as_`` names one of a scenario's ``logins``. Raises ConfigError.
    """
    first = parse(text)
    if json is not None or form is not None or headers:
        if len(first.requests) > 1:
            raise ConfigError("json=, form= and headers= belong to one request: pass text of one")
        first = _made(first, json, form, headers or {})
    parts = [first]
    for part in more:
        before = sum(len(each.requests) for each in parts)
        parts.append(parse(part, after=before) if isinstance(part, str) else part)
    whole = Requests(
        tuple(one for part in parts for one in part.requests),
        " && ".join(part.text for part in parts),
        name or first.name,
        user=as_,
    )
    return whole if name or len(parts) == 1 else whole.called(_name(whole.requests))


def _made(
    plain: Requests, json: Any, form: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> Requests:
    one = plain.requests[0]
    if one.body and (json is not None or form is not None):
        raise ConfigError(f"{one.label}: a body in the text and json= or form=: keep one of them")
    if json is not None:
        body = _WHOLE_PLACEHOLDER.sub(r"\1", json_codec.dumps(json, ensure_ascii=False))
        one = replace(one, body=body, kind=BodyKind.JSON)
    elif form is not None:
        one = replace(one, body=urlencode(form, doseq=True, safe="{}@/"), kind=BodyKind.FORM)
    one = replace(one, headers=(*one.headers, *headers.items()))
    return Requests((one,), _text(one), plain.name)


def _text(one: Request) -> str:
    """The request in one line again."""
    headers = [shlex.quote(f"{name}:{value}") for name, value in one.headers]
    mark = "?" if one.lenient else ""
    return " ".join(part for part in (mark + one.label, *headers, one.body) if part)


def parse(text: str, *, after: int = 0) -> Requests:
    """Read the line, which follows so many requests of its operation. Raises ConfigError that
    says at which character what is wrong."""
    reader = _Reader(text)
    requests = [reader.request()]
    while reader.joined():
        requests.append(reader.request())
        if len(requests) > _REQUESTS_MAX:
            raise ConfigError(f"an operation has at most {_REQUESTS_MAX} requests")
    for place, one in enumerate(requests, after):
        for part in (one.url, one.body, *(value for _, value in one.headers)):
            check(part, place, one.label)
    return Requests(tuple(requests), text.strip(), _name(tuple(requests)))


def _name(requests: tuple[Request, ...]) -> str:
    """``POST /stock/allocate``: the last request that changes something, as the others lead to
    it, and how many there are."""
    telling = next((one for one in reversed(requests) if not one.is_safe), requests[-1])
    others = len(requests) - 1
    return telling.label + (f" (+{others})" if others else "")


class _Reader:
    """Reads requests off a text, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._skip()

    def request(self) -> Request:
        method, lenient = self._method()
        url = self._url(method)
        headers: list[tuple[str, str]] = []
        while self.at < len(self.text) and (found := _HEADER.match(self.text, self.at)):
            value = self._word()[len(found[1]) + 1 :].strip()
            if value.lower() in {"bearer", "basic", "token"}:
                raise self._wrong(f"quote a header whose value has spaces: '{found[1]}:{value} …'")
            headers.append((found[1], value))
        named = {name.lower() for name, _ in headers}
        body, kind = self._body(typed="content-type" in named)
        if "upgrade" in named:
            raise self._wrong("web sockets are not supported: use plain requests")
        return Request(method, url, tuple(headers), body, kind, lenient)

    def joined(self) -> bool:
        """Whether another request follows; complains about anything else that does."""
        if self.at >= len(self.text):
            return False
        if self.text.startswith("&&", self.at):
            self.at += 2
            self._skip()
            return True
        raise self._wrong("unexpected text after the body (headers go before it)")

    def _method(self) -> tuple[str, bool]:
        found = _METHOD.match(self.text, self.at)
        method = found[0].lstrip("?").upper() if found else ""
        if method not in _METHODS:
            raise self._wrong("expected a method such as GET or POST, then a path")
        lenient = self.text[self.at] == "?"
        self.at += len(found[0]) if found else 0
        self._skip()
        return method, lenient

    def _url(self, method: str) -> str:
        found = _URL.match(self.text, self.at)
        url = found[0] if found else ""
        if url.startswith(("ws://", "wss://")):
            raise self._wrong("web sockets are not supported: use plain requests")
        if not url.startswith(("/", "http://", "https://", "{{")):
            raise self._wrong(f"{method}: path must begin with / (or be a whole http:// address)")
        self.at += len(url)
        self._skip()
        return url

    def _body(self, *, typed: bool) -> tuple[str, BodyKind]:
        rest = self.text[self.at :]
        if not rest or rest.startswith("&&"):
            return "", BodyKind.NONE
        if rest[0] == "'":
            body = self._word()
            kind = BodyKind.JSON if body[:1] in {"{", "[", '"'} else BodyKind.FORM
        elif rest[0] in '{["':
            body, kind = self._json(), BodyKind.JSON
        elif rest[0] == "@":
            body, kind = self._word()[1:], BodyKind.FILE
        else:
            end = _NEXT.search(rest)
            body, kind = rest[: end.start() if end else None].rstrip(), BodyKind.FORM
            if "=" not in body and not typed:
                raise self._wrong(
                    'the body is not JSON (starting with {, [ or "), not @file and not a form '
                    "(a=1&b=2); for any other, give a Content-Type: header"
                )
            self.at += len(body)
        self._skip()
        if typed and kind in {BodyKind.FORM, BodyKind.JSON}:
            kind = BodyKind.JSON if kind is BodyKind.JSON else BodyKind.RAW
        return body, kind

    def _json(self) -> str:
        start, end = self.at, _json_end(self.text, self.at)
        if end is None:
            raise self._wrong("the JSON body does not end: a bracket or a quote is missing")
        body = self.text[start:end]
        try:
            json_codec.loads(PLACEHOLDER.sub("0", body))
        except ValueError as error:
            place = getattr(error, "pos", 0)
            self.at = start + min(place, len(body))
            eaten = (
                ""
                if '"' in body
                else (": it has no quotes, as when the shell took them; put the request in '...'")
            )
            raise self._wrong(f"the body is not valid JSON ({error}){eaten}") from None
        self.at = end
        return body

    def _word(self) -> str:
        """The next word by the shell's rules for quotes."""
        stream = io.StringIO(self.text[self.at :])
        lexer = shlex.shlex(stream, posix=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        try:
            word = lexer.get_token() or ""
        except ValueError:
            raise self._wrong("a quote is missing") from None
        # The lexer has read one character past the word, unless the text ended with it.
        self.at += stream.tell()
        self._skip()
        return word

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"request {self.text!r}, at character {self.at + 1}: {why}")


def _json_end(text: str, start: int) -> int | None:
    """Where the JSON value that starts there ends, placeholders and all."""
    depth, at, quoted = 0, start, False
    while at < len(text):
        char = text[at]
        if quoted:
            at += char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
        at += 1
        if depth == 0 and not quoted:
            return at
    return None
