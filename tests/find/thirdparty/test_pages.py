"""Two pages that differ are told by the words that differ, not by how both begin."""

from __future__ import annotations

import pytest

from tests.find.judge.runs import oracle_of, reply, run, state

PAGE = """<!DOCTYPE html><html lang="en"><head><style>td {{ width: 1em }}</style></head><body>
<input type="hidden" name="csrfmiddlewaretoken" value="{token}"><h1>Order preview</h1>
<table><tr><td class="{kind}">Total</td><td>{total}</td></tr></table></body></html>"""

FIRST = "Hq3ZtO9bVdXw0KpYc7RuLm2NsE8aGf5TjI1oQxWz6BvDyPkU4hJrCiMlSgA9eFt0"
SECOND = "b7KcY2mVxQ0dWt9ZpLu4RsN8eGa5TfJ1oHq3XwI6zBvDyPkUhJrCiMlSgAeFtO90"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param({"total": "£0.50 Coupons: ONCE"}, ("Coupons", "ONCE"), id="more"),
        pytest.param({"total": "£1.00 less"}, ("less",), id="a-word"),
    ],
)
def test_what_a_page_shows_else_is_told(found: dict[str, str], words: tuple[str, ...]) -> None:
    usual = {"token": FIRST, "kind": "sum", "total": "£1.00"}
    answer = reply(200, PAGE.format(**usual), **{"content-type": "text/html"})
    serial = run(state(), answer, answer)
    other = reply(200, PAGE.format(**usual | {"token": SECOND} | found))

    judgement = oracle_of(serial, serial).judge(run(state(), answer, other))

    assert judgement.kind == "race"
    (told,) = judgement.differences
    assert "operation 2" in told
    assert all(word in told for word in words), told
    assert not any(word in told for word in ("DOCTYPE", "html", "csrf", SECOND[:8], "preview"))


def test_pages_that_differ_in_their_marks_only_are_shown_as_they_are() -> None:
    usual = {"token": FIRST, "kind": "sum", "total": "£1.00"}
    answer = reply(200, PAGE.format(**usual))
    serial = run(state(), answer, answer)
    other = reply(200, PAGE.format(**usual | {"kind": "error"}))

    judgement = oracle_of(serial, serial).judge(run(state(), answer, other))

    assert judgement.kind == "race"
    assert judgement.differences
