"""Stock in an SQLite file with sqlite3, and what is written to have each finder try it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import frontrun

from crowdsafe.find import Report, find

URL = os.environ.get("FINDER_URL", "")
PATH = URL.removeprefix("sqlite:///")


def fill() -> None:
    """The tables with what each run begins with."""
    with closing(sqlite3.connect(PATH)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, on_hand INT NOT NULL)")
        connection.execute("CREATE TABLE ledger (id INTEGER PRIMARY KEY, quantity INT NOT NULL)")
        connection.execute("INSERT INTO stock VALUES (1, 100)")


def racy() -> str:
    with closing(sqlite3.connect(PATH)) as connection:
        (on_hand,) = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
        if on_hand < 60:
            return "sold out"
        with connection:
            connection.execute("UPDATE stock SET on_hand = ? WHERE id = 1", [on_hand - 60])
            connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
        return "taken"


def guarded() -> str:
    with closing(sqlite3.connect(PATH)) as connection, connection:
        taken = connection.execute(
            "UPDATE stock SET on_hand = on_hand - 60 WHERE id = 1 AND on_hand >= 60"
        )
        if not taken.rowcount:
            return "sold out"
        connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
        return "taken"


def ours(operation: Callable[[], str], users: int) -> Report:
    return find(None, [operation], database=URL, triples=users == 3)


def peer(operation: Callable[[], str], users: int, **options: Any) -> Any:
    def reset() -> None:
        with closing(sqlite3.connect(PATH)) as connection, connection:
            connection.execute("DELETE FROM ledger")
            connection.execute("UPDATE stock SET on_hand = 100")

    def adds_up(_: None) -> bool:
        with closing(sqlite3.connect(PATH)) as connection:
            (stock,) = connection.execute("SELECT on_hand FROM stock").fetchone()
            (taken,) = connection.execute("SELECT total(quantity) FROM ledger").fetchone()
            return bool(stock >= 0 and stock + taken == 100)

    return frontrun.explore(
        setup=reset,
        workers=lambda _: operation(),
        count=users,
        invariant=adds_up,
        **options,
    )
