"""A SQLite database with its gates open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdsafe.find import gates
from crowdsafe.find.database import open_database
from crowdsafe.find.database.sqlite import SqliteDatabase


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A file with a table of stock and a log that a trigger writes."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript("""
            CREATE TABLE stock (id INTEGER PRIMARY KEY, on_hand INTEGER NOT NULL);
            CREATE TABLE log (stock_id INTEGER, was INTEGER);
            CREATE TRIGGER logged AFTER UPDATE ON stock BEGIN
                INSERT INTO log VALUES (old.id, old.on_hand);
                INSERT INTO log VALUES (old.id, new.on_hand);
            END;
            INSERT INTO stock VALUES (1, 100), (2, 50);
        """)
    connection.close()
    return path


@pytest.fixture
def database(shop: Path) -> Iterator[SqliteDatabase]:
    database = open_database(f"sqlite:///{shop}")
    assert isinstance(database, SqliteDatabase)
    undo = gates.install("sqlite", database.redirect)
    yield database
    undo()
    database.close()
