"""Pages for people: one Jinja environment, one tree of static files, one frame.

A system brings a `Section`: its templates (used as ``factory/orders.html``), its scripts
(served beside the shared ones, so that ``import "../dom.js"`` works) and its navigation.
Pages escape everything, run only scripts of this origin and load nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
)

from crowdsafe.errors import CrowdsafeError, NotAuthenticated, NotFound
from crowdsafe.identity import User
from crowdsafe.web.auth import optional_user
from crowdsafe.web.problem import problem_of

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "NavItem",
    "Pages",
    "Section",
]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC_FILE_BYTES_MAX = 1_000_000
_HERE = Path(__file__).parent
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class NavItem:
    """One link of a section's navigation, shown to users with any of `roles` (empty: to all)."""

    href: str
    label: str
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Section:
    """What a system brings: ``folder/templates`` and ``folder/static``."""

    name: str
    title: str
    folder: Path
    nav: Sequence[NavItem] = field(default_factory=tuple)
    summary: str = ""

    def offered_to(self, user: User | None) -> list[NavItem]:
        """The links that this user may follow; none for a visitor."""
        if user is None:
            return []
        return [item for item in self.nav if not item.roles or item.roles & user.roles]


class Pages:
    """Renders the pages of all sections and serves their static files."""

    def __init__(self, sections: Sequence[Section] = ()) -> None:
        self.sections = {section.name: section for section in sections}
        folders = {"": _HERE / "static"}
        folders |= {section.name: section.folder / "static" for section in sections}
        self._files = _read_static(folders)
        self.version = _digest(self._files)
        self._environment = _environment(sections)
        self.filters = self._environment.filters
        self._environment.globals["static"] = self.static_url
        self._environment.globals["sections"] = list(self.sections.values())

    def static_url(self, path: str) -> str:
        """The address of a static file; it changes with the content of any of them."""
        if path not in self._files:
            raise LookupError(f"no static file {path!r}")
        return f"/static/{self.version}/{path}"

    def render(
        self,
        request: Request,
        template: str,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> HTMLResponse:
        """A page.

        The frame uses of `context`: ``user`` (the identity's User, or None), ``section`` (the
        name of whose page it is), ``events`` and ``last_event_id`` (the stream to follow, and
        what the page already shows).
        """
        values = {"user": None, "events": "", "last_event_id": "", **context}
        values["section"] = section = self.sections.get(values.get("section", ""))
        values["nav"] = section.offered_to(values["user"]) if section else []
        values["path"] = request.url.path
        text = self._environment.get_template(template).render(values)
        return HTMLResponse(
            text,
            status_code=status,
            headers={
                "Content-Security-Policy": CONTENT_SECURITY_POLICY,
                "Cache-Control": "no-store",
                "Referrer-Policy": "same-origin",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def error(self, request: Request, error: CrowdsafeError) -> HTMLResponse:
        """The error page: what went wrong and what to do next; never a stack trace."""
        try:
            user = await optional_user(request)
        except CrowdsafeError:
            user = None  # the database is away: that is the error which is being shown
        context = {"title": error.title, "detail": error.message, "user": user}
        return self.render(request, "error.html", context, error.status)

    def router(self) -> APIRouter:
        """A router for page handlers: errors become pages, a missing login a redirect."""
        pages = self

        class PageRoute(APIRoute):
            def get_route_handler(self) -> _Handler:
                return _as_page(pages, super().get_route_handler())

        return APIRouter(route_class=PageRoute, include_in_schema=False)

    def static_router(self) -> APIRouter:
        """Serves ``/static/{version}/{path}`` out of memory, cached for a year."""
        router = APIRouter(include_in_schema=False)

        @router.get("/static/{version}/{path:path}")
        async def static_file(version: str, path: str) -> Response:
            found = self._files.get(path)
            if found is None:
                return Response("There is no such file.\n", 404, media_type="text/plain")
            current = version == self.version
            return Response(
                found,
                media_type=_media_type(path),
                headers={
                    "Cache-Control": "public, max-age=31536000, immutable"
                    if current
                    else "no-cache",
                    "X-Content-Type-Options": "nosniff",
                },
            )

        return router


def _as_page(pages: Pages, handler: _Handler) -> _Handler:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except NotAuthenticated:
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?to={quote(here, safe='')}", status_code=303)
        except CrowdsafeError as error:
            if error.status == 500:  # not for a client's eyes: the guard logs it
                raise
            response = await pages.error(request, error)
            response.headers.update(problem_of(error).headers)
            return response
        except RequestValidationError:
            return await pages.error(request, NotFound("There is no page at this address."))

    return handle


def _environment(sections: Sequence[Section]) -> Environment:
    prefixed: dict[str, BaseLoader] = {
        section.name: FileSystemLoader(section.folder / "templates") for section in sections
    }
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(_HERE / "templates"), PrefixLoader(prefixed)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        money=_money,
        hours=_hours,
        day=_day,
        when=_when,
        label=_label,
        signed=_signed,
        dollars=_dollars,
        clock=_clock,
    )
    environment.globals["blank"] = _Blank()
    return environment


def _read_static(folders: Mapping[str, Path]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for prefix, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.suffix not in (".css", ".js", ".svg", ".png"):
                continue
            content = path.read_bytes()
            if len(content) > STATIC_FILE_BYTES_MAX:
                raise ValueError(f"{path} is larger than {STATIC_FILE_BYTES_MAX} bytes")
            name = path.relative_to(folder).as_posix()
            files[f"{prefix}/{name}" if prefix else name] = content
    return files


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()[:16]


def _media_type(path: str) -> str:
    if path.endswith(".js"):
        return "text/javascript; charset=utf-8"
    guessed = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed


class _Blank:
    """A record with no values, for the rows inside ``<template>``."""

    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return ""

    def __getitem__(self, name: str) -> str:
        return ""


# How values read; static/format.js does the same for what changes later. "" stays "".


def _number(value: int | str) -> str:
    return "" if value == "" else f"{value:,}"


def _money(cents: int | str) -> str:
    if isinstance(cents, str):
        return ""
    return f"{'−' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02}"


def _dollars(cents: int | str) -> str:
    return "" if isinstance(cents, str) else f"{cents // 100}.{cents % 100:02}"


def _hours(minutes: int | str) -> str:
    if isinstance(minutes, str):
        return ""
    whole, rest = divmod(abs(minutes), 60)
    return f"{'−' if minutes < 0 else ''}{whole} h" + (f" {rest:02} min" if rest else "")


def _clock(minutes: int | str) -> str:
    return "" if isinstance(minutes, str) else f"{minutes // 60}:{minutes % 60:02}"


def _day(value: str | date | None) -> str:
    if not value:
        return ""
    day = value if isinstance(value, date) else date.fromisoformat(value[:10])
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _when(value: str | datetime | None) -> str:
    if not value:
        return ""
    at = (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year} {at:%H:%M} UTC"


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _signed(value: int | str) -> str:
    return "" if isinstance(value, str) else f"{'−' if value < 0 else '+'}{abs(value):,}"
