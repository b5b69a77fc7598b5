"""A race between the requests of one operation is told as such."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Body, FastAPI

from crowdsafe.find import find
from crowdsafe.find.model import Verdict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, db:
        db.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)")
        db.execute("INSERT INTO stock VALUES (1, 9)")
    return tmp_path / "shop.db"


def shop(path: Path) -> FastAPI:
    app = FastAPI()

    def ask(sql: str, *values: int) -> int:
        with closing(sqlite3.connect(path)) as db, db:
            row = db.execute(sql, values).fetchone()
        return row[0] if row else 0

    @app.get("/stock")
    def look() -> dict[str, int]:
        return {"n": ask("SELECT n FROM stock")}

    @app.post("/stock")
    def put(n: Annotated[int, Body(embed=True)]) -> None:
        ask("UPDATE stock SET n = ?", n - 1)

    @app.post("/take")
    def take() -> None:
        ask("UPDATE stock SET n = ?", ask("SELECT n FROM stock") - 1)

    return app


def test_what_comes_between_two_requests(path: Path) -> None:
    edit = 'GET /stock && POST /stock {"n": {{body.n}}}'
    (finding,) = find(shop(path), [edit], database=f"sqlite:///{path}").findings
    assert finding.verdict is Verdict.RACE
    assert "came between request 1 and request 2 of " in finding.summary


def test_what_comes_into_one_request(path: Path) -> None:
    (finding,) = find(
        shop(path), ["GET /stock && POST /take"], database=f"sqlite:///{path}"
    ).findings
    assert finding.verdict is Verdict.RACE
    assert "request 1" not in finding.summary
