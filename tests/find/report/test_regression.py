"""``--write-test``: the test fails while the race is there, passes when it is mended, and no other
file is written over."""

from __future__ import annotations

import ast
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.report import Report, regression
from crowdsafe.find.token import Token, encode

APP = """
import sqlite3
def take():
    db = sqlite3.connect("shop.db")
    try:
        {body}
        db.commit()
        return "taken"
    finally:
        db.close()
"""
RACY = """on_hand = db.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()[0]
        if on_hand < 80:
            return "refused"
        db.execute("UPDATE stock SET on_hand = ? WHERE id = 1", (on_hand - 80,))"""
MENDED = """done = db.execute(
            "UPDATE stock SET on_hand = on_hand - 80 WHERE id = 1 AND on_hand >= 80")
        if done.rowcount == 0:
            return "refused\""""


def race(*operations: str, target: str = "", **more: object) -> Finding:
    """A race whose token tells how it was found."""
    names = tuple(each.removeprefix("call ").split(" {")[0] for each in operations)
    token = Token(target, str(more.pop("database", "sqlite:///shop.db")), operations, (), **more)  # type: ignore[arg-type]
    return Finding(names, Verdict.RACE, token=encode(token), summary='It\'s """odd\\" \\ here.')


def written(*findings: Finding) -> str:
    text = regression.render(Report("app", "db", list(findings)))
    ast.parse(text)
    return text


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_races.py"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_it_fails_now_and_passes_after_the_fix(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "shop.db")
    database.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, on_hand INTEGER NOT NULL)")
    database.execute("INSERT INTO stock VALUES (1, 100)")
    database.commit()
    database.close()
    report = Report("app", "db", [race("call shop:take", "call shop:take")])
    regression.write_test(report, tmp_path / "test_races.py")

    (tmp_path / "shop.py").write_text(APP.format(body=RACY))
    before = run_tests(tmp_path)
    assert before.returncode == 1, before.stdout + before.stderr
    assert "lost update" in before.stdout.lower() and "overwrites A" in before.stdout

    (tmp_path / "shop.py").write_text(APP.format(body=MENDED))
    after = run_tests(tmp_path)
    assert after.returncode == 0, after.stdout + after.stderr


def test_it_says_all_that_the_race_was_found_with() -> None:
    text = written(
        race(
            'POST /take {"n": 1}',
            "GET /stock",
            target="shop.main:app",
            database="postgresql://joe:secret@localhost/shop",
            setup="shop.seed:fill",
            login="POST /login a=b",
            headers=("X-Key: 1",),
        )
    )
    for part in (
        '"shop.main:app"',
        'os.environ.get("DATABASE_URL", "postgresql://joe@localhost/shop")',
        'setup="shop.seed:fill"',
        'login="POST /login a=b"',
        "headers=['X-Key: 1']",
        "request('POST /take {\"n\": 1}'",
        'request("GET /stock")',
        "assert report.no_race_between(first, second), str(report)",
    ):
        assert part in text, part
    assert "secret" not in text


def test_functions_are_imported_and_each_race_has_a_test() -> None:
    text = written(
        race("call shop.stock:take", "call shop.stock:give"),
        race("call shop.stock:take", "call shop.stock:take"),
        race("POST /a", "POST /a", target="shop:app"),
        race("POST /a", "POST /a", "POST /a", target="shop:app"),
    )
    assert "from crowdsafe.find import call, find, request" in text
    assert "from shop.stock import give, take" in text
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert len(names) == len(set(names)) == 4
    assert text.count("triples=True") == 1
    assert "no_race_between(first, first, first)" in text


def test_functions_of_a_file_are_named_by_it() -> None:
    finding = race("call jobs/run.py:take", "call jobs/run.py:take")
    finding.operations = ("take()", "take()")
    text = written(finding)
    assert "from crowdsafe.find import find\n" in text
    assert 'first = "call jobs/run.py:take"' in text
    assert 'no_race_between("take()", "take()")' in text


def test_the_operations_of_a_scenario_are_named() -> None:
    text = written(race("take", "give", target="races.py", scenario=True))
    assert '"races.py",\n        database=' in text
    assert 'no_race_between("take", "give")' in text


def test_only_its_own_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "tests" / "test_races.py"
    report = Report("app", "db", [race("POST /a", "POST /a", target="shop:app")])
    regression.write_test(report, path)
    regression.write_test(report, path)
    path.write_text("def test_mine(): ...\n")
    with pytest.raises(ConfigError, match="was not written by --write-test"):
        regression.write_test(report, path)
    assert path.read_text() == "def test_mine(): ...\n"


def test_without_a_race_there_is_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no race"):
        regression.write_test(Report("app", "db", []), tmp_path / "test_races.py")
    assert not (tmp_path / "test_races.py").exists()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = Report("app", "db", [race("POST /a", "POST /a", target="shop:app")])
    with pytest.raises(ConfigError, match="cannot be written"):
        regression.write_test(report, tmp_path / "file" / "test_races.py")
