"""What a browser would know of a page: its forms' fields, and the token against forgery."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["TOKEN_FIELDS", "Page", "read_page"]

TOKEN_FIELDS = (
    "csrfmiddlewaretoken",
    "csrf_token",
    "_csrf_token",
    "csrf-token",
    "csrftoken",
    "authenticity_token",
    "_csrf",
    "_token",
    "anti-csrf-token",
    "__RequestVerificationToken",
)
_FIELDS_MAX = 1000
_VALUED = {"hidden", "text", "email", "number", "date", "url", "tel", "search", "range", ""}


@dataclass(slots=True)
class Page:
    """``fields`` are the filled-in inputs (the first of a name), ``token`` what guards the page's
    forms and ``token_field`` the name of its field (None for a meta tag)."""

    fields: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    token_field: str | None = None
    asks_password: bool = False


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        name = values.get("name", "")
        if tag == "input":
            self._input(name, values)
        elif tag == "meta" and name.lower() in TOKEN_FIELDS and self.page.token is None:
            self.page.token = values.get("content")

    def _input(self, name: str, values: dict[str, str]) -> None:
        kind = values.get("type", "").lower()
        page = self.page
        page.asks_password = page.asks_password or kind == "password"
        checked = kind in {"checkbox", "radio"} and "checked" in values
        if name and (kind in _VALUED or checked) and len(page.fields) < _FIELDS_MAX:
            page.fields.setdefault(name, values.get("value", "on" if checked else ""))
        if name in TOKEN_FIELDS and page.token_field is None:
            page.token, page.token_field = values.get("value"), name


def read_page(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page
