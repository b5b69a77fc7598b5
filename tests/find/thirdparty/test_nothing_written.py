"""A form that is not filled in well writes nothing: that is no proof of anything, and is said."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fastapi import FastAPI, Form, Response

from crowdsafe.find import find
from crowdsafe.find.model import Verdict


def test_what_a_form_that_wrote_nothing_answers_is_told(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE user (email TEXT UNIQUE)")
    made.close()
    app = FastAPI()

    @app.post("/register")
    def register(email: str = Form("")) -> Response:
        db = sqlite3.connect(path)
        try:
            (count,) = db.execute("SELECT count(*) FROM user WHERE email = ?", (email,)).fetchone()
            if count or not email:
                return Response("<p>an e-mail address is needed</p>", media_type="text/html")
            with db:
                db.execute("INSERT INTO user VALUES (?)", (email,))
            return Response(status_code=303, headers={"location": "/welcome"})
        finally:
            db.close()

    report = find(app, ["POST /register mail=a@example.com"], database=f"sqlite:///{path}")

    (finding,) = report.findings
    assert finding.verdict is Verdict.PROVEN
    assert "nothing is written" in finding.reason
    assert "200" in finding.reason
    assert "an e-mail address is needed" in finding.reason
