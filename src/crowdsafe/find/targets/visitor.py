"""One user of an app between requests: cookies, bearer token, and tokens against forgery."""

from __future__ import annotations

import email.utils
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote_plus, unquote

from crowdsafe.find.targets.page import Page

__all__ = ["Visitor"]

_HOST = "localhost"
_BEARER_KEYS = ("access_token", "accessToken", "access", "token", "key", "auth_token", "jwt")
_ENVELOPES = ("data", "result", "user", "tokens")
_COOKIE_HEADERS = (
    ("XSRF-TOKEN", "X-XSRF-TOKEN"),
    ("csrf_access_token", "X-CSRF-TOKEN"),
    ("csrf_token", "X-CSRF-Token"),
    ("_csrf", "X-CSRF-Token"),
)
_DJANGO_TOKEN = "crowdsafe" + "0" * 23
"""Django takes any 32 letters and digits that its cookie and the request's header agree on."""


@dataclass(slots=True)
class Visitor:
    """What a browser keeps. ``headers`` go with each request, unless the request has its own."""

    headers: tuple[tuple[str, str], ...] = ()
    cookies: dict[str, str] = field(default_factory=dict)
    authorization: str | None = None
    token: str | None = None
    token_field: str | None = None

    @property
    def site(self) -> tuple[str, str]:
        """The scheme and host of requests that name none: such as Django's settings let in."""
        django = _django_settings()
        if django is None:
            return "http", _HOST
        scheme = "https" if django.SECURE_SSL_REDIRECT else "http"
        allowed = [] if django.DEBUG and not django.ALLOWED_HOSTS else django.ALLOWED_HOSTS
        if not allowed or "*" in allowed or _HOST in allowed:
            return scheme, _HOST
        return scheme, allowed[0].removeprefix(".")

    def copy(self) -> Visitor:
        return replace(self, cookies=dict(self.cookies))

    def take_cookies(self, headers: list[tuple[str, str]]) -> None:
        """Keep what Set-Cookie says, whatever its path and domain; drop what has expired."""
        for name, value in headers:
            if name == "set-cookie":
                self._take_cookie(value)

    def _take_cookie(self, line: str) -> None:
        pair, *attributes = line.split(";")
        name, found, value = pair.strip().partition("=")
        if not found or not name:
            return
        if any(_expired(attribute) for attribute in attributes):
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value

    def take_page(self, page: Page) -> None:
        if page.token:
            self.token, self.token_field = page.token, page.token_field

    def take_login(self, body: Any) -> None:
        """Keep the bearer token of a login's answer, if it has one."""
        for part in (body, *(_inside(body, name) for name in _ENVELOPES)):
            for key in _BEARER_KEYS:
                token = _inside(part, key)
                if isinstance(token, str) and token:
                    self.authorization = f"{_scheme(part, key)} {token}"
                    return

    def forget_page(self) -> None:
        """Django gives out a new token at each login."""
        if _django_settings() is not None:
            self.token = self.token_field = None

    def cookie_line(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def forgery_headers(self, origin: str) -> list[tuple[str, str]]:
        """The headers that prove that a changing request comes from the app's own page."""
        headers = [("Referer", origin + "/")]
        django = _django_settings()
        if django is not None and not django.CSRF_USE_SESSIONS:
            cookie = self.cookies.setdefault(django.CSRF_COOKIE_NAME, _DJANGO_TOKEN)
            header = django.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
            return [*headers, (header, cookie)]
        for name, header in (*_COOKIE_HEADERS, ("csrftoken", "X-CSRFToken")):
            if name in self.cookies:
                headers.append((header, unquote(self.cookies[name].strip('"'))))
        if self.token:
            named = {header.lower() for header, _ in headers}
            both = ("X-CSRFToken", "X-CSRF-Token")
            headers += [(one, self.token) for one in both if one.lower() not in named]
        return headers

    def form_with_token(self, form: str) -> str:
        """The form with the page's hidden token, where it names none itself. Not for Django with
        its cookie, where the header is enough and a page from before a login is out of date."""
        django = _django_settings()
        if django is not None and not django.CSRF_USE_SESSIONS:
            return form
        if not self.token or not self.token_field or f"{self.token_field}=" in form:
            return form
        added = f"{quote_plus(self.token_field)}={quote_plus(self.token)}"
        return f"{form}&{added}" if form else added


def _expired(attribute: str) -> bool:
    name, _, value = attribute.strip().partition("=")
    if name.lower() == "max-age":
        return value.strip().lstrip("-").isdigit() and int(value) <= 0
    if name.lower() == "expires":
        try:
            return email.utils.parsedate_to_datetime(value).timestamp() < time.time()
        except ValueError:
            return False
    return False


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _scheme(part: Any, key: str) -> str:
    named = _inside(part, "token_type")
    if isinstance(named, str) and named:
        return named if named.lower() != "bearer" else "Bearer"
    rest = (
        "rest_framework.authtoken" in sys.modules and "rest_framework_simplejwt" not in sys.modules
    )
    return "Token" if key in {"key", "auth_token"} or (key == "token" and rest) else "Bearer"


def _django_settings() -> Any:
    """Django's settings, when it is in use."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return conf.settings
