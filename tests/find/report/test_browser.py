"""The HTML report in a real browser: accessible, in its width, and by keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from crowdsafe.find.report import html
from tests.conftest import find_chromium
from tests.find.report import samples

pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
RUN_AXE = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
    .map(each => `${each.id}: ${each.nodes.map(node => node.html).join(" | ").slice(0, 400)}`)"""
ARGS = ["--no-sandbox", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), args=ARGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    findings = [samples.racy_stock(), samples.three_at_once(), samples.long_one(30)]
    findings += [samples.aborts(), samples.proven(), samples.not_found(), samples.inconclusive()]
    findings += [samples.proven(), samples.racy_stock()]
    findings[0].matrix = (("read committed", "race", ""), ("serializable", "proven", "retried"))
    path.write_text(html.render(samples.report(*findings)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, address: str, request: Any) -> Iterator[Page]:
    scheme, width = getattr(request, "param", ("light", 1280))
    with browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}
    ) as context:
        opened = context.new_page()
        asked: list[str] = []
        opened.on("request", lambda each: asked.append(each.url))
        opened.goto(address)
        yield opened
        assert asked == [address], "the file asks for nothing else"


EVERY = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 400)]


@pytest.mark.parametrize("page", EVERY, indirect=True, ids=lambda each: f"{each[0]}-{each[1]}")
def test_axe_finds_nothing_and_nothing_scrolls_sideways(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(AXE)
    assert page.evaluate(RUN_AXE) == []


@pytest.mark.parametrize("page", [("light", 1280), ("light", 400)], indirect=True, ids=str)
def test_one_diagram_is_shown_and_no_words_leave_it(page: Page) -> None:
    shown = page.evaluate("""() => [...document.querySelectorAll('.diagram')].map(card => {
        const svgs = [...card.querySelectorAll('svg')].filter(svg => svg.checkVisibility());
        const box = svgs[0].getBoundingClientRect();
        const out = [...svgs[0].querySelectorAll('text')].filter(text => {
            const at = text.getBoundingClientRect();
            return at.left < box.left - 1 || at.right > box.right + 1;
        });
        return [svgs.length, out.map(text => text.textContent)];
    })""")
    assert shown and all(each == [1, []] for each in shown)


def test_by_keyboard_a_link_leads_to_its_finding_and_details_open(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the findings"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "show-all"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#finding-1")
    summary = page.locator("#finding-1 summary").last
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#finding-1 .steps li").first.is_visible()


def test_it_prints(page: Page) -> None:
    assert len(page.pdf()) > 1000


def test_the_table_shows_one_verdict_by_keyboard(page: Page) -> None:
    rows = page.locator("table[aria-label='All findings'] tbody tr")
    every = rows.count()
    page.locator("#show-all").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#show-race").is_checked()
    shown = [row for row in rows.all() if row.is_visible()]
    assert 0 < len(shown) < every
    assert {row.get_attribute("class") for row in shown} == {"race"}
