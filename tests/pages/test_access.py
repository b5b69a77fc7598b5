"""Every page, light and dark: axe reports nothing, and a narrow screen scrolls one way only."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.pages.conftest import OpenDesk
from tests.pages.desk import Plant

pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PATHS = (
    "/",
    "/factory/orders",
    "/factory/orders/5",
    "/factory/floor",
    "/factory/stock",
    "/factory/stock/1",
    "/factory/invoices?order=30",
    "/factory/timesheets",
    "/factory/leave",
    "/factory/orders/999999",
    "/problems",
    "/problems/edit-conflict",
)
SCHEMES = ("light", "dark")
_RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).slice(0, 5).join(" | ")}`)"""
_OPEN_ALL = "() => document.querySelectorAll('details').forEach((d) => { d.open = true; })"
_SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
_STILL = "() => Promise.all(document.getAnimations().map((a) => a.finished))"


def violations(page: Page) -> list[str]:
    """What axe finds, with everything that can be unfolded unfolded."""
    page.evaluate(_OPEN_ALL)
    page.evaluate(_STILL)
    page.evaluate(AXE)
    found: list[str] = page.evaluate(_RUN)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_reports_nothing_on_any_page(desk: OpenDesk, scheme: Any) -> None:
    window = desk("admin", scheme=scheme)
    found = {path: violations(window.open(path)) for path in PATHS}
    assert {path: each for path, each in found.items() if each} == {}


def test_axe_reports_nothing_for_those_who_may_do_little(desk: OpenDesk) -> None:
    window = desk("employee")
    found = {path: violations(window.open(path)) for path in PATHS}
    assert {path: each for path, each in found.items() if each} == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_reports_nothing_on_the_login_page(desk: OpenDesk, scheme: Any) -> None:
    page = desk(None, scheme=scheme).open("/login")
    assert violations(page) == []
    page.fill("#username", "mara")
    page.fill("#password", "wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    assert violations(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_reports_nothing_on_the_conflict_dialog(
    desk: OpenDesk, plant: Plant, scheme: Any, width: int
) -> None:
    order = plant.new_order()
    page = desk("tomas", scheme=scheme, width=width).open(f"/factory/orders/{order['id']}")
    page.fill("#notes", "Do not ring.")
    page.select_option("#priority", "ASAP")
    plant.edit(order, "mara", notes="Ring twice.", contact_name="Li Wei")
    page.locator("#stale").wait_for()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("dialog").wait_for()
    assert violations(page) == []
    assert page.evaluate(_SIDEWAYS) == 0


@pytest.mark.parametrize("width", [1280, 400, 320])
def test_no_page_scrolls_sideways(desk: OpenDesk, width: int) -> None:
    window = desk("admin", width=width)
    wide = {}
    for path in PATHS:
        page = window.open(path)
        page.evaluate(_OPEN_ALL)
        wide[path] = page.evaluate(_SIDEWAYS)
    assert {path: by for path, by in wide.items() if by > 0} == {}


def test_every_page_has_a_language_a_title_and_one_heading(desk: OpenDesk) -> None:
    window = desk("admin")
    for path in PATHS:
        page = window.open(path)
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.title()
        assert page.locator("h1").count() == 1, path


def test_reduced_motion_is_kept(desk: OpenDesk) -> None:
    window = desk("admin")
    window.page.emulate_media(reduced_motion="reduce")
    page = window.open("/factory/orders")
    moving = page.evaluate(
        "() => getComputedStyle(document.querySelector('tbody tr')).transitionDuration"
    )
    assert moving == "0s"
