"""The requests of one operation, one after the other, whatever carries them to the app."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from crowdsafe.errors import ConfigError
from crowdsafe.find.gates.control import keeper
from crowdsafe.find.model import Answer, Reply
from crowdsafe.find.targets.messages import BODY_BYTES_MAX, RawReply, RawRequest
from crowdsafe.find.targets.page import Page, read_page
from crowdsafe.find.targets.request import BodyKind, Request
from crowdsafe.find.targets.template import (
    Answered,
    UnknownPlaceholder,
    fill_form,
    fill_json,
    fill_text,
    fill_url,
)
from crowdsafe.find.targets.visitor import Visitor

__all__ = ["Conversation", "converse", "demand_files"]

_HEADERS_KEPT = ("content-type", "etag", "location", "retry-after", "www-authenticate")
_FILE_BYTES_MAX = 64 << 20
_BOUNDARY = "crowdsafe-boundary-7MA4YWxkTrZu0gW"

Conversation = Generator[RawRequest, RawReply, Answer]


def converse(requests: tuple[Request, ...], visitor: Visitor) -> Conversation:
    """Yields each request, takes its reply, and returns the answers.

    Stops at the first reply of 400 or above whose request is not lenient, and at a placeholder
    that cannot be filled (a reply with the error ``UnknownPlaceholder`` and no status). The
    visitor keeps what it learns: give each run its own copy.
    """
    answer, past = Answer(), list[Answered]()
    for place, request in enumerate(requests):
        try:
            raw = _make(request, visitor, past)
        except (UnknownPlaceholder, OSError) as error:
            answer.replies.append(
                Reply(request.label, error=type(error).__name__, message=str(error))
            )
            answer.stopped_at = place
            break
        got = yield raw
        reply = _take(request, got, visitor, past)
        if keeping := keeper():
            gatekeeper, operation = keeping
            reply.statements = gatekeeper.sent(operation)
        answer.replies.append(reply)
        if got.status >= 400 and (not request.lenient or got.fault is not None):
            answer.stopped_at = place
            break
    return answer


def _take(request: Request, got: RawReply, visitor: Visitor, past: list[Answered]) -> Reply:
    visitor.take_cookies(got.headers)
    headers = dict(reversed(got.headers))
    body = _body(got.body, headers.get("content-type", ""))
    page = _page(body, headers.get("content-type", ""))
    visitor.take_page(page)
    cookies = {name: value.strip('"') for name, value in visitor.cookies.items()}
    past.append(Answered(got.status, body, headers, cookies, page.fields))
    fault = got.fault
    return Reply(
        request.label,
        got.status,
        body,
        {name: headers[name] for name in _HEADERS_KEPT if name in headers},
        fault.error if fault else None,
        fault.message if fault else None,
        fault.sqlstate if fault else None,
    )


def _body(content: bytes, kind: str) -> Any:
    """Parsed JSON, else text, else the size and digest of what is neither."""
    if not content:
        return None
    if "json" in kind:
        try:
            return json.loads(content)
        except ValueError:
            pass  # not JSON after all, or cut: compared as text
    try:
        return content.decode()
    except UnicodeDecodeError:
        if len(content) >= BODY_BYTES_MAX and kind.startswith("text/"):
            return content.decode(errors="replace")
        return f"<{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}>"


def _page(body: Any, kind: str) -> Page:
    return read_page(body) if isinstance(body, str) and "html" in kind else Page()


def _make(request: Request, visitor: Visitor, past: list[Answered]) -> RawRequest:
    url = urlsplit(fill_url(request.url, past))
    default_scheme, default_host = visitor.site
    scheme = url.scheme or default_scheme
    own = {name.lower(): fill_text(value, past) for name, value in request.headers}
    headers = {name.lower(): value for name, value in visitor.headers}
    host = own.get("host") or url.netloc or headers.get("host") or default_host
    headers |= {"accept": "*/*", "user-agent": "crowdsafe"} | headers | own | {"host": host}
    _add_credentials(headers, own, request, visitor, f"{scheme}://{host}")
    body, kind = _content(request, headers, visitor, past)
    if kind and "content-type" not in headers:
        headers["content-type"] = kind
    if body or not request.is_safe:
        headers["content-length"] = str(len(body))
    raw_path = quote(url.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return RawRequest(
        request.method,
        scheme,
        host,
        unquote(raw_path),
        raw_path.encode(),
        quote(url.query, safe="/%:@!$&'()*+,;=?~-._[]").encode(),
        tuple(headers.items()),
        body,
    )


def _add_credentials(
    headers: dict[str, str],
    own: Mapping[str, str],
    request: Request,
    visitor: Visitor,
    origin: str,
) -> None:
    if not request.is_safe:
        for name, value in visitor.forgery_headers(origin):
            headers.setdefault(name.lower(), value)
    if visitor.authorization and "authorization" not in own:
        headers["authorization"] = visitor.authorization
    if visitor.cookies:
        given = own.get("cookie") or dict(visitor.headers).get("cookie")
        line = visitor.cookie_line()
        headers["cookie"] = f"{given}; {line}" if given else line


def _content(
    request: Request, headers: Mapping[str, str], visitor: Visitor, past: list[Answered]
) -> tuple[bytes, str]:
    """The body, and the type that it has unless a header says so."""
    match request.kind:
        case BodyKind.JSON:
            return fill_json(request.body, past).encode(), "application/json"
        case BodyKind.FILE:
            return _file(request.body), _type_of(request.body)
        case BodyKind.RAW:
            body = fill_text(request.body, past)
            form = "urlencoded" in headers.get("content-type", "")
            return (visitor.form_with_token(body) if form else body).encode(), ""
        case BodyKind.FORM:
            body = visitor.form_with_token(_encoded(fill_form(request.body, past)))
            if "=@" in body:
                return _multipart(body), f"multipart/form-data; boundary={_BOUNDARY}"
            return body.encode(), "application/x-www-form-urlencoded"
    if not request.is_safe and visitor.token_field:
        return visitor.form_with_token("").encode(), "application/x-www-form-urlencoded"
    return b"", ""


def _encoded(form: str) -> str:
    """A form as typed, with what may not stand in one encoded."""
    return quote(form.replace(" ", "+"), safe="=&+%@{}/:,;!$'()*?~-._[]")


def _multipart(form: str) -> bytes:
    parts = []
    for name, value in parse_qsl(form, keep_blank_values=True):
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        content = value.encode()
        if value.startswith("@"):
            path = value[1:]
            head += f'; filename="{Path(path).name}"\r\nContent-Type: {_type_of(path)}'
            content = _file(path)
        parts.append(head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def demand_files(requests: Iterable[Request]) -> None:
    """Raises ConfigError where a body names a file that is not there."""
    for request in requests:
        named = [request.body] if request.kind is BodyKind.FILE else []
        if request.kind is BodyKind.FORM and "=@" in request.body:
            named = [value[1:] for _, value in parse_qsl(request.body) if value.startswith("@")]
        for path in named:
            if "{{" not in path and not Path(path).is_file():
                raise ConfigError(
                    f"{request.label}: there is no file {Path(path).resolve()} to send"
                )


def _file(path: str) -> bytes:
    """Raises OSError, ConfigError over 64 MiB."""
    with Path(path).open("rb") as file:
        content = file.read(_FILE_BYTES_MAX + 1)
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path} is over {_FILE_BYTES_MAX >> 20} MiB: use a smaller file")
    return content


def _type_of(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"
