"""What is done once before the snapshot: logging in, and fetching the tokens of forms."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer
from crowdsafe.find.targets.hints import told
from crowdsafe.find.targets.page import read_page
from crowdsafe.find.targets.request import BodyKind, Request, Requests, parse
from crowdsafe.find.targets.visitor import Visitor

__all__ = ["header_of", "logged_in", "page_before"]

_GUARDS = ("flask_wtf", "flask_seasurf", "starlette_csrf", "asgi_csrf", "fastapi_csrf_protect")

Drive = Callable[[tuple[Request, ...], Visitor], Answer]


def header_of(text: str) -> tuple[str, str]:
    """``Name: value``. Raises ConfigError."""
    name, found, value = text.partition(":")
    if not found or not name.strip() or any(char.isspace() for char in name.strip()):
        raise ConfigError(f"{text!r} is not a header: write 'Name: value'")
    return name.strip(), value.strip()


def logged_in(text: str, visitor: Visitor, drive: Drive) -> Visitor:
    """The visitor after the requests of a login. Raises ConfigError when it is refused."""
    spec = parse(text)
    page_before(spec, visitor, drive)
    answer = drive(spec.requests, visitor)
    last = answer.replies[-1]
    if answer.stopped_at is not None:
        raise ConfigError(f"the login was refused: {last.request} answered {told(last)}")
    html = isinstance(last.body, str) and "html" in last.headers.get("content-type", "")
    posted = spec.requests[-1].kind is BodyKind.FORM
    if posted and html and read_page(str(last.body)).asks_password:
        raise ConfigError(
            f"the login came back to its page: {last.request} answered {last.status} with a form "
            "that asks for the password: look at the name, the password and the fields' names"
        )
    visitor.forget_page()
    for reply in answer.replies:
        visitor.take_login(reply.body)
    return visitor


def page_before(
    spec: Requests, visitor: Visitor, drive: Drive, *, login: str | None = None
) -> None:
    """Fetch the page whose form the operation sends, when it begins with one that needs a token.

    A browser has that page before; the finder gets it by GET from the form's own address, and in
    an app that guards all its requests also from the login's and from ``/``, once, before the
    snapshot. What the pages answer is not looked at, the token aside.
    """
    first = spec.requests[0]
    if first.is_safe or visitor.token or "{{" in first.url:
        return
    guarded = _guarded()
    urls = [first.url] if guarded or first.kind is BodyKind.FORM else []
    if guarded:
        urls += [*([parse(login).requests[0].url] if login else []), "/"]
    for url in urls:
        if visitor.token is None:
            drive((Request("GET", url, lenient=True),), visitor)


def _guarded() -> bool:
    conf: Any = sys.modules.get("django.conf")
    if conf is not None and conf.settings.configured:
        return bool(getattr(conf.settings, "CSRF_USE_SESSIONS", False))
    return any(name in sys.modules for name in _GUARDS)
