"""One line of text becomes the requests that it says, or an error that says where it is wrong."""

from __future__ import annotations

import re

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets.request import BodyKind, parse, request


def test_method_path_and_json() -> None:
    (one,) = parse('POST /stock/allocate?x=1&y=a%20b {"product_id": 1, "q": [1, 2]}').requests
    assert (one.method, one.url) == ("POST", "/stock/allocate?x=1&y=a%20b")
    assert (one.body, one.kind) == ('{"product_id": 1, "q": [1, 2]}', BodyKind.JSON)


def test_a_separator_inside_of_a_json_string_separates_nothing() -> None:
    spec = parse('POST /a {"t": "x && y } \\" "} && ?DELETE /b/1')
    assert [one.label for one in spec.requests] == ["POST /a", "DELETE /b/1"]
    assert [one.lenient for one in spec.requests] == [False, True]


def test_headers_by_the_rules_of_the_shell() -> None:
    text = """PUT /a X-One:1 'Authorization:Bearer x y' If-Match:'"3"' Host:"a b" {"v": "A:b"}"""
    (one,) = parse(text).requests
    assert dict(one.headers) == {
        "X-One": "1",
        "Authorization": "Bearer x y",
        "If-Match": '"3"',
        "Host": "a b",
    }
    assert one.body == '{"v": "A:b"}'


@pytest.mark.parametrize(
    ("text", "body", "kind"),
    [
        ("POST /a", "", BodyKind.NONE),
        ("POST /a a=1&b=two words && GET /b", "a=1&b=two words", BodyKind.FORM),
        ("POST /a at=12:30 && GET /b", "at=12:30", BodyKind.FORM),
        ("POST /a @'my file.json' && GET /b", "my file.json", BodyKind.FILE),
        ("POST /a 'a=1 && b' && GET /b", "a=1 && b", BodyKind.FORM),
        ("POST /a Content-Type:text/plain hello there", "hello there", BodyKind.RAW),
        ('POST /a "text"', '"text"', BodyKind.JSON),
        ("GET /b && POST /a {{body}} && GET /c", "{{body}}", BodyKind.JSON),
        ('GET /b && POST /a {"id": {{body.id}}}', '{"id": {{body.id}}}', BodyKind.JSON),
    ],
    ids=["none", "form", "colon", "file", "quoted", "raw", "string", "whole", "placeholder"],
)
def test_kinds_of_bodies(text: str, body: str, kind: BodyKind) -> None:
    posts = [one for one in parse(text).requests if one.method == "POST"]
    assert [(one.body, one.kind) for one in posts] == [(body, kind)]


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 1, "expected a method"),
        ("FETCH /a", 1, "expected a method"),
        ("POST stock/allocate", 6, "POST: path must begin with /"),
        ("GET ws://x/y", 5, "web sockets"),
        ('POST /a {"x": 1', 9, "does not end"),
        ('POST /a {"x": nope}', 15, "not valid JSON"),
        ('POST /a {"x": 1} X-A:1', 18, "headers go before"),
        ("POST /a hello", 9, "neither|not JSON"),
        ("POST /a 'X-A:1", 9, "quote is missing"),
        ("POST /a Authorization:Bearer abc", 30, "quote a header"),
        ("GET /a Upgrade:websocket", 25, "web sockets"),
    ],
    ids=lambda value: str(value)[:12] if isinstance(value, str) else None,
)
def test_an_error_says_where(text: str, at: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse(text)
    assert f"at character {at}:" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["POST /a/{{body.id}}", 'GET /a && POST /b {"x": "{{cookie.a}}"}', "GET /a && GET /{{2.body}}"],
    ids=["first", "unknown", "later"],
)
def test_a_placeholder_that_can_never_be_filled(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("{{")):
        parse(text)


def test_the_name_is_that_of_the_request_that_matters() -> None:
    assert parse("GET /cart && POST /order a=1 && GET /order/1").name == "POST /order (+2)"
    assert parse("GET /cart").name == "GET /cart"


def test_in_python() -> None:
    made = request(
        "GET /cart",
        request("POST /order", json={"cart": "{{body.id}}", "t": "x {{body.id}}"}),
        "POST /pay a=1",
        name="order",
        as_="alice",
    )
    assert (made.name, made.user) == ("order", "alice")
    assert made.requests[1].body == '{"cart": {{body.id}}, "t": "x {{body.id}}"}'
    assert parse(made.text).requests == made.requests


def test_in_python_with_form_and_headers_survives_its_text() -> None:
    made = request("POST /a", form={"a": "1 2&3", "file": "@x.png"}, headers={"X-A": "b c"})
    assert made.requests[0].body == "a=1+2%263&file=@x.png"
    assert parse(made.text).requests == made.requests


def test_two_bodies_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep one"):
        request("POST /a a=1", json={})


def test_quotes_that_the_shell_took_are_told() -> None:
    with pytest.raises(ConfigError, match="as when the shell took them"):
        parse("POST /take {product_id: 1}")
    with pytest.raises(ConfigError, match="is not valid JSON") as raised:
        parse('POST /take {"product_id": }')
    assert "shell" not in raised.value.message
