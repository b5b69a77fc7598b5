"""Stock in PostgreSQL with psycopg, and what is written to have each finder try it.

``ours`` and the functions of the peer (``peer``, ``peer_told``) are what a user of either tool
writes: their lines are counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import frontrun
import psycopg
from psycopg.errors import SerializationFailure

from crowdsafe.find import Report, find

URL = os.environ.get("FINDER_URL", "")
ATTEMPTS = 5


def fill() -> None:
    """The tables with what each run begins with."""
    with psycopg.connect(URL, autocommit=True) as connection:
        connection.execute("CREATE TABLE stock (id int PRIMARY KEY, on_hand int NOT NULL)")
        connection.execute("CREATE TABLE ledger (id serial PRIMARY KEY, quantity int NOT NULL)")
        connection.execute("CREATE TABLE prize (id int PRIMARY KEY, taken bool NOT NULL)")
        connection.execute("INSERT INTO stock VALUES (1, 100)")
        connection.execute("INSERT INTO prize VALUES (1, false)")


def racy() -> str:
    with psycopg.connect(URL) as connection:
        row = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
        if row is None or row[0] < 60:
            return "sold out"
        connection.execute("UPDATE stock SET on_hand = %s WHERE id = 1", [row[0] - 60])
        connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
        return "taken"


def guarded() -> str:
    with psycopg.connect(URL) as connection:
        taken = connection.execute(
            "UPDATE stock SET on_hand = on_hand - 60 WHERE id = 1 AND on_hand >= 60"
        )
        if not taken.rowcount:
            return "sold out"
        connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
        return "taken"


def locked() -> str:
    with psycopg.connect(URL) as connection:
        row = connection.execute("SELECT on_hand FROM stock WHERE id = 1 FOR UPDATE").fetchone()
        if row is None or row[0] < 60:
            return "sold out"
        connection.execute("UPDATE stock SET on_hand = %s WHERE id = 1", [row[0] - 60])
        connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
        return "taken"


def claimed() -> str:
    """The row ends the same whoever comes first; only what both are told is wrong."""
    with psycopg.connect(URL) as connection:
        row = connection.execute("SELECT taken FROM prize WHERE id = 1").fetchone()
        if row is None or row[0]:
            return "too late"
        connection.execute("UPDATE prize SET taken = true WHERE id = 1")
        return "won"


def retried() -> str:
    for attempt in range(ATTEMPTS):
        try:
            with psycopg.connect(URL) as connection:
                connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                row = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
                if row is None or row[0] < 60:
                    return "sold out"
                connection.execute("UPDATE stock SET on_hand = %s WHERE id = 1", [row[0] - 60])
                connection.execute("INSERT INTO ledger (quantity) VALUES (60)")
            return "taken"
        except SerializationFailure:
            if attempt == ATTEMPTS - 1:
                raise
    return "never"


def ours(operation: Callable[[], str], users: int) -> Report:
    return find(None, [operation], database=URL, triples=users == 3)


def peer(operation: Callable[[], str], users: int, **options: Any) -> Any:
    def reset() -> None:
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute("TRUNCATE ledger")
            connection.execute("UPDATE stock SET on_hand = 100")

    def adds_up(_: None) -> bool:
        with psycopg.connect(URL) as connection:
            stock = connection.execute("SELECT on_hand FROM stock").fetchone()
            taken = connection.execute("SELECT coalesce(sum(quantity), 0) FROM ledger").fetchone()
            return bool(stock[0] >= 0 and stock[0] + taken[0] == 100)

    return frontrun.explore(
        setup=reset,
        workers=lambda _: operation(),
        count=users,
        invariant=adds_up,
        warn_nondeterministic_sql=False,
        **options,
    )


def peer_told(operation: Callable[[], str], users: int, **options: Any) -> Any:
    def reset() -> list[str]:
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute("UPDATE prize SET taken = false")
        return []

    return frontrun.explore(
        setup=reset,
        workers=lambda told: told.append(operation()),
        count=users,
        invariant=lambda told: told.count("won") == 1,
        **options,
    )
