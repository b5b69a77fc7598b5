"""Times, ids, drawn texts: what of a value is compared, and what is not."""

from __future__ import annotations

import email.utils
import json
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crowdsafe.find.judge.moments import Window, is_opaque, plain_uuid
from crowdsafe.find.judge.volatile import aligned, paired, route
from crowdsafe.find.model import Reply
from tests.find.judge.runs import oracle_of, reply, run, state

NOW = 1_790_000_000.25
WINDOW = Window(NOW - 1, NOW + 5)
MOMENT = datetime.fromtimestamp(NOW, UTC)


@pytest.mark.parametrize(
    "text",
    [
        MOMENT.isoformat(),
        MOMENT.isoformat().replace("+00:00", "Z"),
        MOMENT.strftime("%Y-%m-%d %H:%M:%S"),
        MOMENT.strftime("%Y-%m-%d %H:%M:%S.%f+00"),
        MOMENT.strftime("%Y-%m-%d %H:%M:%S UTC"),
        MOMENT.strftime("%Y-%m-%dT%H:%M"),
        (MOMENT + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S+0530"),
        (MOMENT - timedelta(hours=3)).strftime("%Y-%m-%d %H:%M:%S -03:00"),
        MOMENT.strftime("%Y-%m-%d"),
        email.utils.format_datetime(MOMENT, usegmt=True),
        str(int(NOW)),
        str(NOW),
        str(int(NOW * 1000)),
        f"Order of {MOMENT.isoformat()}, paid",
    ],
    ids=range(14),
)
def test_a_time_of_the_run_in_a_text(text: str) -> None:
    pieces = WINDOW.cut(text)
    assert pieces is not None
    assert len(pieces) == 3


@pytest.mark.parametrize(
    "text",
    [
        (MOMENT + timedelta(hours=1)).isoformat(),
        (MOMENT - timedelta(days=1)).strftime("%Y-%m-%d"),
        MOMENT.isoformat().replace("+00:00", "+02:00"),
        "2026-13-45",
        "2026-99-99 77:00:00",
        str(int(NOW) + 3600),
        "10:11:12",
        "SKU-1790000000-X",
        "",
    ],
    ids=range(9),
)
def test_another_time_is_business(text: str) -> None:
    assert WINDOW.cut(text) is None


def test_numbers_that_tell_the_time() -> None:
    for unit in (1, 1e3, 1e6, 1e9):
        assert WINDOW.has_number(NOW * unit)
        assert WINDOW.has_number(int(NOW * unit))
        assert not WINDOW.has_number((NOW + 60) * unit)
    for number in (0, 17, -1, 80.0, 1_790_000, float("nan"), float("inf"), 10**30):
        assert not WINDOW.has_number(number)


@pytest.mark.parametrize(
    "text",
    [
        str(uuid.UUID(int=random.Random(1).getrandbits(128))),
        uuid.UUID(int=random.Random(2).getrandbits(128)).hex,
        random.Random(3).randbytes(20).hex(),
        "dGhpcyBpcyBhIHNlY3JldCB0b2tlbg",
        "pbkdf2_sha256$260000$kVq3$9sXc+qq/xyZ0aabbQ=",
        ".eJxVjDsOwjAQBe_iGlm7jr9U9DmD5fVucADZUpxUiLsTR:1tDPxz:q3Wm8",
        "gAAAAABmZ2Vh_Xk4sT0vQ",
    ],
)
def test_tokens_are_opaque(text: str) -> None:
    assert is_opaque(text)


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "alice.smith@example.com",
        "a text of several words that is long",
        "1234567890123456789",
        "international_shipping_address",
        "https://example.com/orders/latest",
        "aaaaaaaaaaaaaaaaaaaa",
        "2026-11-23T10:11:12",
    ],
)
def test_words_and_numbers_are_not_opaque(text: str) -> None:
    assert not is_opaque(text)


def test_a_uuid_is_the_same_however_it_is_written() -> None:
    drawn = uuid.UUID(int=random.Random(4).getrandbits(128))
    assert plain_uuid(str(drawn)) == plain_uuid(drawn.hex.upper()) == drawn.hex
    assert plain_uuid("x" * 32) is None


def test_a_route_is_a_request_without_its_ids() -> None:
    assert route("POST /orders/17/lines?page=2 {...}") == "POST /orders/#/lines?page=#"
    assert route(f"GET /o/{uuid.UUID(int=7)}") == "GET /o/#"
    assert route("GET /v2/h264") == "GET /v2/h264"
    assert route("place_order") == "place_order"


def test_leaves_are_paired_by_place_and_likeness() -> None:
    one = {"id": 1, "lines": [{"id": 5, "n": "a"}, {"id": 6, "n": "b"}]}
    two = json.dumps({"id": 9, "lines": [{"id": 8, "n": "b"}, {"id": 7, "n": "a"}]})
    assert set(paired((), one, two)) == {
        (("id",), 1, 9),
        (("lines", "*", "id"), 5, 7),
        (("lines", "*", "n"), "a", "a"),
        (("lines", "*", "id"), 6, 8),
        (("lines", "*", "n"), "b", "b"),
    }
    assert list(paired((), (1, 2), (1, 3))) == [(("[0]",), 1, 1), (("[1]",), 2, 3)]
    assert list(paired(("x",), {"17": "a"}, {"18": "a"})) == [(("x", "*"), "a", "a")]
    assert len(aligned(list(range(500)), list(range(400)))) == 400


# Through the oracle: what two repeats teach


def told(body: Any, **headers: str) -> Any:
    return run(state(), Reply("GET /x", 200, body, headers), reply(200))


@pytest.mark.parametrize(
    ("one", "two", "serial", "race"),
    [
        ({"otp": 4711}, {"otp": 815}, {"otp": 1234}, {"otp": "none"}),
        ({"took": 0.12, "n": 1}, {"took": 0.5, "n": 1}, {"took": 0.0, "n": 1},
         {"took": 0.1, "n": 2}),
        ({"t": "a1b2c3d4e5f6a7b8"}, {"t": "9f8e7d6c5b4a3928"}, {"t": "0a1b2c3d4e5f6789"}, {"t": 1}),
        ({"msg": "took 3 ms, 2 left"}, {"msg": "took 7 ms, 2 left"}, {"msg": "took 9 ms, 2 left"},
         {"msg": "took 3 ms, 1 left"}),
        ([{"id": "x", "n": 1}, 2], [2, {"id": "x", "n": 1}], [2, {"id": "x", "n": 1}], [2, 2]),
        ("<p>a</p>\n<i>csrf q1w2e3r4t5z6u7i8o9p0</i>",
         "<p>a</p>\n<i>csrf 0p9o8i7u6z5t4r3e2w1q</i>",
         "<p>a</p>\n<i>csrf 1a2s3d4f5g6h7j8k9l0q</i>",
         "<p>b</p>\n<i>csrf q1w2e3r4t5z6u7i8o9p0</i>"),
        ({"in": 1_790_000_123}, {"in": 1_790_000_125}, {"in": 1_790_000_129}, {"in": None}),
        ({"at": "2031-02-03T04:05:06"}, {"at": "2031-02-03T04:05:08"},
         {"at": "2031-02-03T04:06:01"}, {"at": "never"}),
        (("a", 4711), ("a", 815), ("a", 7), ("b", 7)),
        (None, None, None, 0),
        (b"\x01", b"\x01", b"\x01", b"\x02"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_differs_between_repeats_is_not_compared(
    one: Any, two: Any, serial: Any, race: Any
) -> None:
    oracle = oracle_of(told(one), told(one), told(two))
    assert oracle.unstable is None
    assert oracle.judge(told(serial)).kind == "serial"
    assert oracle.judge(told(race)).kind == "race"


def test_headers() -> None:
    oracle = oracle_of(told(1, etag='"3"', Date="x"), told(1, etag='"3"'))
    assert oracle.judge(told(1, ETag='W/"3"', Date="y")).kind == "serial"
    assert oracle.judge(told(1, etag='"4"')).kind == "race"
    hashed = oracle_of(told(1, etag='"a1b2c3d4e5f6a7b8c9d0"'), told(1, etag='"00"'))
    assert hashed.judge(told(1, etag='"d0c9b8a7f6e5d4c3b2a1"')).kind == "serial"
    moved = oracle_of(told(1, location="/done"), told(1, location="/done"))
    assert moved.judge(told(1, location="/failed")).kind == "race"


def test_a_time_that_is_written_in_two_ways_is_a_time() -> None:
    """PostgreSQL's text drops the zeros at the end, Python's does not."""

    def noted(seconds: float, row: str, body: str) -> Any:
        moment = datetime.now(UTC).replace(microsecond=574180) + timedelta(seconds=seconds)
        told = moment.isoformat()
        rows = [(1, 1, 7, "a", told.replace("180+", row))]
        return run(state(orders=rows), reply(201, {"at": told.replace("180+", body)}), reply())

    oracle = oracle_of(noted(0, "180+", "180+"), noted(0, "18+", "180+"), noted(1, "18+", "18+"))
    assert oracle.judge(noted(0, "18+", "180+")).kind == "serial"


def test_times_of_day_on_a_page_are_for_people() -> None:
    def page(text: str) -> Any:
        return told(f"<html>\n<p>{text}</p>\n</html>")

    oracle = oracle_of(page("saved at 8:07 p.m., 3 left"), page("saved at 8:07 p.m., 3 left"))
    assert oracle.judge(page("saved at 8:08 p.m., 3 left")).kind == "serial"
    assert oracle.judge(page("saved at 8:07 p.m., 2 left")).kind == "race"


def test_a_time_in_a_json_column_and_a_number_beside_it() -> None:
    def noted(number: int) -> Any:
        code = json.dumps({"at": time.time(), "n": number, "by": "x"})
        return run(state(orders=[(1, 1, 7, code, None)]), reply(), reply())

    oracle = oracle_of(noted(1), noted(1), noted(1))
    assert oracle.judge(noted(1)).kind == "serial"
    assert oracle.judge(noted(2)).kind == "race"
