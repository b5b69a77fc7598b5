"""``/problems/{slug}``: what a problem type means, and what to do about it."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from crowdsafe.errors import CrowdsafeError, NotFound
from crowdsafe.web.problem import describe, problem_types

__all__ = ["router"]

router = APIRouter(prefix="/problems", include_in_schema=False)


@router.get("")
async def problem_index(request: Request) -> Response:
    """All problem types."""
    types = problem_types()
    if not _wants_html(request):
        return PlainTextResponse("".join(f"{_line(slug, cls)}\n" for slug, cls in types.items()))
    rows = "".join(
        f'<li><a href="/problems/{slug}">{escape(cls.title)}</a> ({cls.status})</li>'
        for slug, cls in types.items()
    )
    return _page("Problem types", f"<ul>{rows}</ul>")


@router.get("/{slug}")
async def problem_page(request: Request, slug: str) -> Response:
    """One problem type."""
    cls = problem_types().get(slug)
    if cls is None:
        raise NotFound("There is no such problem type; /problems lists them all.")
    if not _wants_html(request):
        return PlainTextResponse(_line(slug, cls) + "\n")
    body = (
        f"<p>{escape(describe(cls))}</p><dl><dt>HTTP status</dt><dd>{cls.status}</dd>"
        f"<dt>Type</dt><dd><code>/problems/{slug}</code></dd></dl>"
        '<p><a href="/problems">All problem types</a></p>'
    )
    return _page(cls.title, body)


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _line(slug: str, cls: type[CrowdsafeError]) -> str:
    return f"/problems/{slug} ({cls.status}, {cls.title}): {describe(cls)}"


def _page(title: str, body: str) -> Response:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width"><link rel="stylesheet" '
        f'href="/static/0/crowdsafe.css"></head><body><main><h1>{escape(title)}</h1>{body}'
        "</main></body></html>"
    )
