"""What an operation does in one of the serial orders only must be learned all the same."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Verdict


class WrongPassword(Exception):
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "users.db") as db:
        db.executescript("""
            CREATE TABLE user (id INTEGER PRIMARY KEY, password TEXT NOT NULL);
            CREATE TABLE session (id INTEGER PRIMARY KEY, user_id INTEGER, code TEXT NOT NULL);
            INSERT INTO user VALUES (1, 'old');
        """)
    db.close()
    return tmp_path / "users.db"


def test_a_code_that_is_given_out_only_by_who_comes_first_is_no_race(path: Path) -> None:
    """The password is changed, and somebody logs in with the old one: refused after the change.
    The codes of a login are short and drawn, so that nothing tells them but that they differ."""

    def change() -> None:
        db = sqlite3.connect(path)
        with db:
            db.execute("UPDATE user SET password = 'new' WHERE id = 1")
        db.close()

    def log_in() -> str:
        db = sqlite3.connect(path)
        try:
            (password,) = db.execute("SELECT password FROM user WHERE id = 1").fetchone()
            if password != "old":
                raise WrongPassword
            code = secrets.token_hex(4)
            with db:
                db.execute("INSERT INTO session (user_id, code) VALUES (1, ?)", (code,))
            return code
        finally:
            db.close()

    report = find(None, [change, log_in], database=f"sqlite:///{path}")

    apart = report.findings[-1]
    assert len(set(apart.operations)) == 2
    assert apart.verdict is Verdict.PROVEN, apart.differences
