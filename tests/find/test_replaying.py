"""A token shows its race again, or says that it is gone, or that it cannot be shown."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.finder import find
from crowdsafe.find.model import Verdict
from crowdsafe.find.replaying import replay
from crowdsafe.find.token import decode, encode
from tests.find.shelf import Shelf

TARGET = """
import sqlite3
from contextlib import closing

BODY = "racy"

def sell():
    with closing(sqlite3.connect("shelf.db", isolation_level=None)) as db:
        if BODY == "safe":
            db.execute("SELECT 1 FROM stock")
            return db.execute("UPDATE stock SET n = n - 1").rowcount
        (n,) = db.execute("SELECT n FROM stock").fetchone()
        db.execute("UPDATE stock SET n = ?", (n - 1,))
"""


@pytest.fixture
def token(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shelf_target", raising=False)
    (tmp_path / "shelf_target.py").write_text(TARGET)
    report = find(None, ["call shelf_target:sell"], database="sqlite:///shelf.db")
    (race,) = report.findings
    assert race.token is not None
    return race.token


def test_a_race_is_shown_again_by_the_same_schedule(token: str, shelf: Shelf) -> None:
    (again,) = replay(token).findings
    assert (again.verdict, again.schedule) == (Verdict.RACE, ((0, 1), (1, 2), (0, 1)))
    assert (again.schedules, again.token) == (1, token)
    assert shelf.rows() == [(1, 10, "")]


def test_a_race_that_was_mended_is_not_found(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["shelf_target"], "BODY", "safe")
    (again,) = replay(token).findings
    assert again.verdict is Verdict.NOT_FOUND
    assert "now gives what one after another gives" in again.reason


def test_a_schedule_that_cannot_be_kept_tells_nothing(token: str) -> None:
    longer = replace(decode(token), schedule=((0, 5), (1, 2), (0, 1)))
    (again,) = replay(encode(longer)).findings
    assert again.verdict is Verdict.INCONCLUSIVE
    assert "cannot be kept" in again.reason


def test_one_who_is_refused_each_time_is_no_sign_of_a_cure(token: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shelf.db")) as db:
        db.execute("DELETE FROM stock")
        db.commit()
    (again,) = replay(token).findings
    assert again.verdict is Verdict.INCONCLUSIVE
    assert "sell() is refused each time" in again.reason


def test_the_operations_must_be_as_many(token: str, shelf: Shelf) -> None:
    with pytest.raises(ConfigError, match="the token is of 1 operations"):
        replay(token, operations=shelf.calls("sell", "sell_safely"))
