"""A connect to the original goes to the working copy, by whatever name it is called."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crowdsafe.find.database.sqlite import SqliteDatabase
from crowdsafe.find.gates.redirect import Redirect


def spellings(path: Path) -> dict[str, tuple[Any, bool]]:
    link = path.with_name("link.db")
    link.symlink_to(path)
    return {
        "str": (str(path), False),
        "bytes": (bytes(path), False),
        "path": (path, False),
        "dots": (f"{path.parent}/x/../{path.name}", False),
        "link": (link, False),
        "uri": (f"file:{path}", True),
        "uri with host": (f"file://localhost{path}?mode=rw", True),
        "read only": (f"file:{path}?mode=ro", True),
        "immutable": (f"file:{path}?immutable=1", True),
        "relative": (path.name, False),
        "relative uri": (f"file:{path.name}?mode=ro#x", True),
    }


def test_all_spellings_lead_to_the_copy(
    database: SqliteDatabase, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop.parent / "x").mkdir()
    monkeypatch.chdir(shop.parent)
    for name, (path, uri) in spellings(shop).items():
        connection = sqlite3.connect(path, uri=uri)
        found = connection.execute("PRAGMA database_list").fetchone()[2]
        connection.close()
        assert found == database.redirect.working, name
    connection = sqlite3.connect(database=f"file:{shop}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM stock")
    connection.close()


def test_other_files_are_left_alone(database: SqliteDatabase, tmp_path: Path) -> None:
    redirect = database.redirect
    for path in (tmp_path / "other.db", ":memory:", "", b"other.db"):
        assert redirect.sqlite_path(path) is path
        assert not redirect.sqlite_names(path)
    assert redirect.sqlite_path("file:x?mode=memory", True) == "file:x?mode=memory"
    assert redirect.sqlite_names(redirect.working)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"host": "localhost", "port": 5432, "dbname": "shop"}, True),
        ({"host": "127.0.0.1", "dbname": "shop"}, True),
        ({"host": "/var/run/postgresql", "port": "5432", "database": "shop"}, True),
        ({"dbname": "shop"}, True),
        ({"user": "shop"}, True),
        ({"host": "db.example", "dbname": "shop"}, False),
        ({"host": "localhost", "port": 5433, "dbname": "shop"}, False),
        ({"host": "localhost", "dbname": "other"}, False),
    ],
    ids=["same", "address", "socket", "defaults", "user", "host", "port", "database"],
)
def test_postgres_names(
    params: dict[str, Any], named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    redirect = Redirect("postgresql", "shop", "shop_copy", host="localhost", port=5432)
    assert redirect.postgres_names_original(params) is named
    changed = redirect.postgres(params)
    assert ("shop_copy" in changed.values()) is named
    assert set(params) <= set(changed)


def test_strangers_are_limited() -> None:
    redirect = Redirect("sqlite", "/a", "/b")
    for number in range(100):
        redirect.note_stranger(f"/other{number}")
    assert len(redirect.strangers) == 20
