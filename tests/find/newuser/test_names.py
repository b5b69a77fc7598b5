"""A race on one table is not put down to another, in which everything went by the book."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from crowdsafe.find import call, find


def _number(db: sqlite3.Connection) -> None:
    """The next order number, taken under the lock of the write before it."""
    [last] = db.execute("SELECT max(number) FROM orders").fetchone()
    db.execute("INSERT INTO orders (number) VALUES (?)", [(last or 0) + 1])


def _buy(db: sqlite3.Connection) -> str:
    [stock] = db.execute("SELECT stock FROM products WHERE id = 1").fetchone()
    if stock < 1:
        return "sold out"
    db.execute("UPDATE products SET stock = ? WHERE id = 1", [stock - 1])
    _number(db)
    return "sold"


def _checkout(db: sqlite3.Connection) -> str:
    [state] = db.execute("SELECT state FROM carts WHERE id = 1").fetchone()
    if state != "open":
        return "closed"
    db.execute("UPDATE carts SET state = ? WHERE id = 1", ["done"])
    _number(db)
    return "done"


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (_buy, ("lost update", "products")),
        (_checkout, ("double transition", "carts")),
    ],
    ids=["buy", "checkout"],
)
def test_the_name_is_of_where_it_went_wrong(
    tmp_path: Path, work: Callable[[sqlite3.Connection], str], expected: tuple[str, str]
) -> None:
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as db:
        db.executescript(
            "CREATE TABLE products (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL);"
            "CREATE TABLE carts (id INTEGER PRIMARY KEY, state TEXT NOT NULL);"
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);"
            "INSERT INTO products VALUES (1, 1); INSERT INTO carts VALUES (1, 'open');"
        )
    db.close()

    def operation() -> str:
        connection = sqlite3.connect(file)
        try:
            with connection:
                return work(connection)
        finally:
            connection.close()

    [finding] = find(None, [call(operation)], database=f"sqlite:///{file}", budget_s=30).findings
    assert finding.anomaly is not None
    assert (finding.anomaly.value, finding.tables[0]) == expected
