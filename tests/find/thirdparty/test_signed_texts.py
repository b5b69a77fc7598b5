"""A signed text differs in each run, by its time and its signature; what it carries counts."""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import pytest
from itsdangerous import URLSafeTimedSerializer

from crowdsafe.find import find
from crowdsafe.find.judge.volatile import opened
from crowdsafe.find.model import Anomaly, Verdict


def _django(value: Any, *, packed: bool = False) -> str:
    data = json.dumps(value).encode()
    data = zlib.compress(data) if packed else data
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    return f"{'.' * packed}{text}:1w{secrets.token_hex(2)}:{secrets.token_urlsafe(32)}"


def _read(text: str) -> dict[str, Any]:
    payload = text.partition(":")[0]
    value: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return value


@pytest.mark.parametrize(
    "text",
    [
        _django({"cart": {"7": 1}}),
        _django({"cart": {"7": 1}}, packed=True),
        URLSafeTimedSerializer("key").dumps({"cart": {"7": 1}}),
    ],
    ids=["plain", "packed", "itsdangerous"],
)
def test_a_signed_text_is_opened(text: str) -> None:
    assert opened(text) == {"cart": {"7": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:b:c",
        f"bm90aGluZw:1w2x3y:{'s' * 43}",
        f".bm90aGluZw:1w2x3y:{'s' * 43}",
        f"!:1w2x3y:{'s' * 43}",
        "2026-11-23T10:11:12",
    ],
    ids=["empty", "short", "no JSON", "not packed", "no base64", "time"],
)
def test_any_other_text_is_left_as_it_is(text: str) -> None:
    assert opened(text) == text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "sessions.db") as db:
        db.execute("CREATE TABLE session (key TEXT PRIMARY KEY, data TEXT NOT NULL)")
        db.execute("INSERT INTO session VALUES ('k', ?)", (_django({"cart": {}}),))
    db.close()
    return tmp_path / "sessions.db"


def test_an_update_lost_inside_of_a_signed_session_is_found(path: Path) -> None:
    def put_in_cart() -> None:
        db = sqlite3.connect(path, isolation_level=None)
        (text,) = db.execute("SELECT data FROM session WHERE key = 'k'").fetchone()
        held = _read(text)
        held["cart"]["7"] = held["cart"].get("7", 0) + 1
        db.execute("UPDATE session SET data = ? WHERE key = 'k'", (_django(held),))
        db.close()

    [finding] = find(None, [put_in_cart], database=f"sqlite:///{path}").findings

    assert (finding.verdict, finding.anomaly) == (Verdict.RACE, Anomaly.LOST_UPDATE)
    assert finding.tables == ("session",)
    assert finding.differences[0].endswith(".data.cart.7 is 1; one after another it is 2")


def test_a_session_that_is_only_signed_anew_is_no_race(path: Path) -> None:
    def come_by() -> None:
        db = sqlite3.connect(path, isolation_level=None)
        (text,) = db.execute("SELECT data FROM session WHERE key = 'k'").fetchone()
        db.execute("UPDATE session SET data = ? WHERE key = 'k'", (_django(_read(text)),))
        db.close()

    [finding] = find(None, [come_by], database=f"sqlite:///{path}").findings

    assert finding.verdict is Verdict.PROVEN, finding.differences
