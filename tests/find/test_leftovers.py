"""The copy of a process that died is removed; nothing else is."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from crowdsafe.find.database.postgres_copy import make_copy, parse_address
from crowdsafe.find.leftovers import discard


def test_the_folder_of_a_copy(tmp_path: Path) -> None:
    for name in ("crowdsafe-find-1-x", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.db").touch()
        discard(f"sqlite:///{tmp_path}/{name}/dev.db?mode=rw")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.postgres
def test_the_database_of_a_copy(pg_url: str) -> None:
    original = parse_address(pg_url)
    copy = make_copy(original, [])
    discard(copy.url)
    discard(original.url)
    with psycopg.connect(pg_url) as db:
        row = db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [copy.dbname]).fetchone()
    assert row is None


def test_a_server_that_is_gone() -> None:
    discard("postgresql://nobody@127.0.0.1:1/crowdsafe_find_1_x")
