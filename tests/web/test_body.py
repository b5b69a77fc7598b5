"""JSON bodies that look valid and are not."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdsafe.errors import InvalidInput
from crowdsafe.web import body as body_module
from crowdsafe.web.body import check_json
from crowdsafe.web.problem import UnreadableBody


@pytest.mark.parametrize(
    "body",
    [
        b'{"quantity": NaN}',
        b"NaN",
        b"[1, [Infinity]]",
        b'{"a": {"b": -Infinity}}',
        b'{"quantity": 1e999}',
        b'{"quantity": -1E+400}',
        b'{"quantity": ' + b"9" * 400 + b".0}",
        rb'{"note": "a\u0000b"}',
        rb'{"a\u0000": 1}',
        rb'[["\u0000"]]',
        rb'{"note": "\ud800"}',
        rb'{"\uDFFF x": 1}',
        rb'["\udc00\ud800"]',
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        check_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"note": "NaN and Infinity are words"}',
        rb'{"note": "a backslash: \\u0000"}',
        b'{"quantity": 1e300}',
        b'{"quantity": 1e-999}',
        b"[" + b"1," * 1000 + b"1]",
        b"not JSON at all",
    ],
)
def test_let_through(body: bytes) -> None:
    check_json(body)


@pytest.mark.parametrize("body", [b"{NaN", b"[" * 100_000 + b"NaN", b"\x00", b'{"a": NaN'])
def test_suspicious_and_unreadable(body: bytes) -> None:
    with pytest.raises((UnreadableBody, InvalidInput)):
        check_json(body)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(values)
def test_refused_exactly_when_strict_json_or_postgresql_would(value: object) -> None:
    loose = json.dumps(value)
    try:
        bad = "\\u0000" in json.dumps(value, allow_nan=False).replace("\\\\", "")
    except ValueError:
        bad = True
    try:
        check_json(loose.encode())
    except InvalidInput:
        assert bad
    else:
        assert not bad


def test_nested_deeper_than_it_can_be_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from Python 3.12 on, whose JSON reader goes deeper than its functions."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    monkeypatch.setattr(body_module, "json", SimpleNamespace(loads=lambda *_, **__: deep))
    with pytest.raises(UnreadableBody):
        check_json(b'["NaN"]')
