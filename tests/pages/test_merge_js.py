"""merge.js holds the same cases as its Python twin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pages.conftest import OpenDesk

pytestmark = pytest.mark.browser

CASES = Path(__file__).parents[1] / "writes" / "merge_cases.json"
_RUN = """async ([module, text]) => {
    const { merge } = await import(module);
    return JSON.stringify(JSON.parse(text).cases.map((c) => merge(c.base, c.yours, c.theirs)));
}"""


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
    script = page.locator("script[type=module]").first.get_attribute("src")
    assert script is not None
    text = CASES.read_text(encoding="utf-8")
    cases = json.loads(text)["cases"]
    results = json.loads(page.evaluate(_RUN, [script.replace("page.js", "merge.js"), text]))
    assert len(results) == len(cases) >= 40
    for case, result in zip(cases, results, strict=True):
        wanted = {"merged": case["merged"], "conflicts": case["conflicts"]}
        assert typed(result) == typed(wanted), case["name"]
