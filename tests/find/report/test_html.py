"""The HTML file: complete, self-contained, and nothing of the target is markup in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from crowdsafe.find.report import html
from crowdsafe.find.token import Token, encode
from tests.find.report import samples
from tests.find.report.test_machines import odd_finding

VOID = {"meta", "input", "line", "rect", "polygon", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects ids, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[name] or "" for name in ("href", "src") if name in values]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.text += data + " "


def test_it_tells_all_that_a_race_needs() -> None:
    page = Page(html.render(samples.report()))
    for part in (
        "Lost update on stock",
        "Expected and found",
        "expected: A then B",
        "reads on_hand = 100",
        "overwrites A",
        "shop/stock.py:41",
        "stock = session.get(Stock, product_id)",
        "UPDATE stock SET on_hand = ?",
        "store.write(take, Stock.on_hand",
        "crowdsafe replay",
        "the budget of 60 s ended",
    ):
        assert part in page.text, part
    alone = Page(html.render(samples.report(samples.long_one())))
    assert "58 statements of A on other tables" in alone.text
    assert len(page.ids) == len(set(page.ids))
    assert all(link.removeprefix("#") in page.ids for link in page.links)


def test_it_needs_nothing_else() -> None:
    text = html.render(samples.report())
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import|\son\w+=|javascript:", text)


def test_what_comes_from_the_target_is_never_markup() -> None:
    finding = odd_finding()
    evil = "<script>alert(1)</script><b onclick=x>\"'"
    finding.tables = (evil,)
    finding.sources = (evil,)
    finding.token = evil
    finding.isolation = evil
    finding.matrix = ((evil, evil, evil),)
    report = samples.report(finding, samples.long_one())
    report.target = report.database = report.version = evil
    report.notes = [evil]
    text = html.render(report)
    page = Page(text)
    assert "<script" not in text and "<b " not in text
    assert "script" not in page.tags and "b" not in page.tags
    assert "\x00" not in text and "\x1b" not in text
    text.encode("utf-8")


def test_large_values_are_cut() -> None:
    finding = samples.long_one()
    assert finding.run is not None
    for step in finding.run.steps:
        step.parameters = ("y" * 1_000_000,)
    assert len(html.render(samples.report(finding))) < 600_000


def test_many_statements_are_cut_and_counted() -> None:
    finding = samples.long_one(1200)
    text = html.render(samples.report(finding))
    assert "and 2000 more" in text or re.search(r"… and \d+ more", text)


def test_without_a_race_it_says_so() -> None:
    page = Page(html.render(samples.report(samples.proven())))
    assert "No race found in" in page.text


def test_the_requests_are_shown_as_they_were_given() -> None:
    finding = samples.racy_stock()
    texts = ('POST /take {"n": 1}', 'POST /take {"n": 2}')
    finding.operations = ("POST /take", "POST /take #2")
    finding.token = encode(Token("shop:app", "sqlite:///shop.db", texts, ()))
    page = Page(html.render(samples.report(finding)))
    assert all(text in page.text for text in texts)


def test_a_long_table_can_be_filtered_and_tells_each_race_once() -> None:
    races = [samples.racy_stock(), samples.racy_stock()]
    many = samples.report(*(samples.proven() for _ in range(8)), *races)
    page = Page(html.render(many))
    assert {"show-all", "show-race", "show-proven"} <= set(page.ids)
    assert page.tags.count("article") == 1
    assert page.links.count("#finding-1") == 2
    assert "of 1 other set of operations" in page.text
    assert "show-all" not in Page(html.render(samples.report(*races))).ids
