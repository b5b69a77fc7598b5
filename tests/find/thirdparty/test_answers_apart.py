"""What is masked is not listed as a difference, and where a form leads is."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from secrets import token_urlsafe

from fastapi import FastAPI

from crowdsafe.find import find
from crowdsafe.find.model import Verdict
from tests.find.judge.runs import oracle_of, reply, run, state


def test_where_an_answer_leads_is_told() -> None:
    first = run(state(), reply(302, None, location="/paid"), reply(302, None, location="/sorry"))
    second = run(state(), reply(302, None, location="/sorry"), reply(302, None, location="/paid"))

    judgement = oracle_of(first, second).judge(
        run(state(), *[reply(302, None, location="/paid")] * 2)
    )

    assert judgement.kind == "race"
    (told,) = judgement.differences
    assert "(operation 2) leads is /paid; one after another it is /sorry" in told


def test_tokens_that_are_drawn_are_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "codes.db"
    with sqlite3.connect(path) as made:
        made.executescript("""
            CREATE TABLE code (id INTEGER PRIMARY KEY, code TEXT);
            CREATE TABLE access (id INTEGER PRIMARY KEY, token TEXT UNIQUE, code_id INTEGER);
            INSERT INTO code VALUES (1, 'c');
        """)
    made.close()
    app = FastAPI()

    @app.post("/token")
    def token() -> dict[str, str]:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            if db.execute("SELECT 1 FROM code WHERE id = 1").fetchone() is None:
                return {"error": "used"}
            text = token_urlsafe(24)
            db.execute("INSERT INTO access (token, code_id) VALUES (?, 1)", (text,))
            db.execute("DELETE FROM code WHERE id = 1")
            return {"access_token": text}
        finally:
            db.close()

    (finding,) = find(app, ["POST /token"], database=f"sqlite:///{path}").findings

    assert finding.verdict is Verdict.RACE
    assert any("the number of new rows in access" in told for told in finding.differences)
    assert not any("'access_token': '" in told for told in finding.differences), finding.differences
