"""The pages' frame without a browser: escaping, headers, static files, navigation by role."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from crowdsafe.errors import ConfigError, NotAuthenticated, Overloaded
from crowdsafe.identity import User
from crowdsafe.web.fastapi import install
from crowdsafe.web.pages import CONTENT_SECURITY_POLICY, NavItem, Pages, Section


def section(folder: Path) -> Section:
    """A small system with one template and one script."""
    (folder / "templates").mkdir()
    (folder / "static").mkdir()
    (folder / "templates" / "hello.html").write_text(
        '{% extends "base.html" %}{% block main %}<h1>{{ said }}</h1>{% endblock %}'
    )
    (folder / "static" / "hello.js").write_text("export const hello = 1;\n")
    (folder / "static" / "notes.txt").write_text("not served")
    nav = (NavItem("/s/all", "All"), NavItem("/s/few", "Few", frozenset({"admin"})))
    return Section(name="s", title="Small", folder=folder, nav=nav)


def app_of(pages: Pages) -> FastAPI:
    """Pages: one that greets, one that wants a login, one that is busy, one that is broken."""
    app = FastAPI()
    router = pages.router()

    @router.get("/hello")
    async def hello(request: Request, role: str = "") -> Response:
        user = User(1, "mara", "Mara <b>", frozenset({role})) if role else None
        said = "<script>alert(1)</script>"
        return pages.render(request, "s/hello.html", {"user": user, "section": "s", "said": said})

    @router.get("/mine")
    async def mine() -> Response:
        raise NotAuthenticated

    @router.get("/busy")
    async def busy() -> Response:
        raise Overloaded("Too much at once <now>.", retry_after_s=3)

    @router.get("/broken")
    async def broken() -> Response:
        raise ConfigError("the table crowdsafe_x is missing")

    app.include_router(router)
    app.include_router(pages.static_router())
    install(app)
    return app


def get(app: FastAPI, path: str) -> httpx.Response:
    """One GET without a server."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(go())


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return Pages([section(tmp_path)])


@pytest.fixture
def app(pages: Pages) -> FastAPI:
    return app_of(pages)


def test_a_page_escapes_and_forbids_foreign_and_inline_scripts(app: FastAPI) -> None:
    answer = get(app, "/hello")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "<script>" not in answer.text
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "script-src 'self'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert answer.headers["cache-control"] == "no-store"


def test_the_navigation_offers_what_the_role_allows(app: FastAPI) -> None:
    assert "/s/all" not in get(app, "/hello").text
    sales = get(app, "/hello?role=sales").text
    assert "/s/all" in sales
    assert "/s/few" not in sales
    assert "Mara &lt;b&gt;" in sales
    assert "/s/few" in get(app, "/hello?role=admin").text


def test_a_missing_login_leads_to_the_login_page_and_back(app: FastAPI) -> None:
    answer = get(app, "/mine?a=1&b=2")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?to=%2Fmine%3Fa%3D1%26b%3D2"


def test_a_refusal_is_a_page_that_says_what_to_do(app: FastAPI) -> None:
    answer = get(app, "/busy")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert "Too much at once &lt;now&gt;." in answer.text


def test_a_failure_of_the_servers_own_is_logged_and_not_told(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    answer = get(app, "/broken")
    assert answer.status_code == 500
    assert "crowdsafe_x" not in answer.text
    assert answer.json()["error_id"] in caplog.text
    assert "crowdsafe_x" in caplog.text


def test_static_files_are_cached_by_their_content(pages: Pages, app: FastAPI) -> None:
    address = pages.static_url("s/hello.js")
    answer = get(app, address)
    assert answer.text == "export const hello = 1;\n"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    old = get(app, address.replace(pages.version, "0" * 16))
    assert old.headers["cache-control"] == "no-cache"
    styles = get(app, pages.static_url("crowdsafe.css"))
    assert styles.headers["content-type"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["s/notes.txt", "%2e%2e/pages.py", "%2e%2e%2fpages.py", "/etc/passwd", "nothing.js", ""]
)
def test_nothing_else_is_served(pages: Pages, app: FastAPI, path: str) -> None:
    assert get(app, f"/static/{pages.version}/{path}").status_code == 404


def test_the_version_changes_with_the_content(tmp_path: Path) -> None:
    small = section(tmp_path)
    before = Pages([small]).version
    assert Pages([small]).version == before
    (tmp_path / "static" / "hello.js").write_text("export const hello = 2;\n")
    assert Pages([small]).version != before


def test_an_unknown_static_file_in_a_template_fails_loudly(pages: Pages) -> None:
    with pytest.raises(LookupError, match=r"no\.js"):
        pages.static_url("no.js")
