"""The JavaScript twins of Python functions: merge.js by the shared cases, format.js by values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from crowdsafe.web.pages import Pages
from tests.pages.conftest import OpenDesk

pytestmark = pytest.mark.browser

CASES = Path(__file__).parents[1] / "writes" / "merge_cases.json"
VALUES: dict[str, list[Any]] = {
    "number": [0, 7, 999, 1000, 1234567, 10**12],
    "money": [0, 5, 99, 100, 123456, 10**13, -1, -123456],
    "hours": [0, 1, 59, 60, 456, 4560, -456, -4560],
    "clock": [0, 5, 60, 456, 1439],
    "day": ["2026-11-02", "2027-01-31", ""],
    "label": ["paper_slitting", "draft", "Must Delivery On Date", ""],
    "signed": [0, 80, -80, 12345, -12345],
}
_FORMAT = """async ([module, values]) => {
    const { formats } = await import(module);
    const shown = ([name, each]) => [name, each.map((value) => formats[name](value))];
    return Object.fromEntries(Object.entries(values).map(shown));
}"""
_RUN = """async ([module, text]) => {
    const { merge } = await import(module);
    return JSON.stringify(JSON.parse(text).cases.map((c) => merge(c.base, c.yours, c.theirs)));
}"""


def module_of(page: Page) -> str:
    """The address of page.js, beside which the other modules are."""
    found = page.locator("script[type=module]").first.get_attribute("src")
    assert found is not None
    return found


def typed(value: object) -> object:
    """The value with True and 1 told apart, which Python's == does not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return [typed(each) for each in value]
    if isinstance(value, dict):
        return {key: typed(each) for key, each in value.items()}
    return value


def test_the_javascript_merge_holds_every_shared_case(desk: OpenDesk) -> None:
    page = desk(None).open("/login")
    script = module_of(page)
    text = CASES.read_text(encoding="utf-8")
    cases = json.loads(text)["cases"]
    results = json.loads(page.evaluate(_RUN, [script.replace("page.js", "merge.js"), text]))
    assert len(results) == len(cases) >= 40
    for case, result in zip(cases, results, strict=True):
        wanted = {"merged": case["merged"], "conflicts": case["conflicts"]}
        assert typed(result) == typed(wanted), case["name"]


def test_what_changes_later_reads_as_the_first_paint_does(desk: OpenDesk) -> None:
    page = desk(None).open("/login")
    module = module_of(page).replace("page.js", "format.js")
    shown = page.evaluate(_FORMAT, [module, VALUES])
    filters = Pages().filters
    assert shown == {name: [filters[name](each) for each in VALUES[name]] for name in VALUES}
