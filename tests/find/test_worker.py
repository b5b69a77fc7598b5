"""The whole way, from the command line to the report, with targets that misbehave."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHOP = """
import ctypes, os, sqlite3, time
from fastapi import FastAPI
import crowdsafe.find

app = FastAPI()
calls = []

@app.post("/login")
def login():
    return {"token": "t"}

def take(guarded=False):
    print("a target may print")
    db = sqlite3.connect("shop.db", isolation_level=None)
    try:
        if guarded:
            return db.execute("UPDATE stock SET n = n - 1 WHERE n > 0").rowcount
        (n,) = db.execute("SELECT n FROM stock").fetchone()
        db.execute("UPDATE stock SET n = ?", (n - 1,))
        return n
    finally:
        db.close()

@app.post("/take")
def post():
    return take()

def safe():
    return take(guarded=True)

def dies():
    take()
    calls.append(1)
    if len(calls) > 3:
        print("no more")
        os._exit(7)

def breaks():
    take()
    ctypes.string_at(0)

def hangs():
    take()
    while True:
        pass

def seed():
    with sqlite3.connect("shop.db") as db:
        db.execute("UPDATE stock SET n = 50")

scenario = crowdsafe.find.Scenario(
    [take, safe], database="sqlite:///shop.db", setup=seed, name="the stock"
)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)")
        db.execute("INSERT INTO stock VALUES (1, 100)")
    db.close()
    return tmp_path


def crowdsafe(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crowdsafe", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def found(folder: Path, *words: str, code: int) -> list[dict[str, Any]]:
    """The findings; and the original is as it was."""
    done = crowdsafe(folder, "find", *words, "--json", "found.json")
    assert done.returncode == code, done.stdout + done.stderr
    with sqlite3.connect(folder / "shop.db") as db:
        assert db.execute("SELECT n FROM stock").fetchall() == [(100,)]
    db.close()
    findings: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return findings


def test_requests_with_a_login_are_found_and_replayed(shop: Path) -> None:
    words = ["shop:app", "--database=sqlite:///shop.db", "--request=POST /take"]
    (race,) = found(shop, *words, "--login=POST /login {}", code=1)
    assert (race["verdict"], race["anomaly"]) == ("race", "lost update")
    assert race["sources"] == ["shop.py:19", "shop.py:20"]
    replayed = crowdsafe(shop, "replay", race["token"], "--json", "again.json")
    assert replayed.returncode == 1, replayed.stderr
    (again,) = json.loads((shop / "again.json").read_text())
    assert (again["anomaly"], again["schedule"]) == (race["anomaly"], race["schedule"])


def test_a_scenario_names_its_database_and_its_setup(shop: Path) -> None:
    findings = found(shop, "shop.py:scenario", code=1)
    verdicts = {tuple(one["operations"]): one["verdict"] for one in findings}
    assert verdicts == {
        ("take()", "take()"): "race",
        ("safe()", "safe()"): "proven",
        ("take()", "safe()"): "race",
    }
    assert "49" in json.dumps(findings[0]["outcomes"])


def test_a_death_a_fault_and_a_hang_cost_their_pairs_only(shop: Path) -> None:
    calls = [f"--call=shop:{name}" for name in ("take", "dies", "breaks", "hangs")]
    words = ["--database=sqlite:///shop.db", "--hang-s=1", "--only=1,1", "--only=2,2"]
    findings = found(shop, *calls, *words, "--only=3,3", "--only=4,4", code=1)
    reasons = {one["operations"][0]: one["reason"] for one in findings}
    assert [one["verdict"] for one in findings].count("inconclusive") == 3
    assert "exit code 7; its last words: a target may print" in reasons["dies()"]
    assert "no more" in reasons["dies()"]
    assert "SIGSEGV" in reasons["breaks()"]
    assert "shop.py" in reasons["breaks()"]
    assert "in hangs" in reasons["hangs()"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["shop:app", "--request=POST /take"], "which database"),
        (["shop:app", "--database=sqlite:///shop.db", "--request=GET"], "path must begin"),
    ],
    ids=["database", "request"],
)
def test_what_is_wrong_is_said_in_one_line(shop: Path, words: list[str], why: str) -> None:
    done = crowdsafe(shop, "find", *words)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
