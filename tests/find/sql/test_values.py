"""The values of a statement are shown by column, whatever the driver's placeholders are."""

from __future__ import annotations

from typing import Any

import pytest

from crowdsafe.find.sql import analyse, values_of

CASES: list[tuple[str, str, Any, dict[str, str]]] = [
    ("postgresql", "UPDATE s SET n=%(n)s::INTEGER WHERE s.id = %(i)s::INTEGER", {"n": 20, "i": 1},
     {"n": "20", "id": "1"}),
    ("sqlite", "UPDATE s SET n = n - ?, t = 'x' WHERE id = ? AND k = 7", (5, 1),
     {"n": "n - 5", "t": "'x'", "id": "1", "k": "7"}),
    ("postgresql", "UPDATE s SET n = n - $2 WHERE id = $1", (1, 5), {"n": "n - 5", "id": "1"}),
    ("postgresql", "INSERT INTO s (a, b) VALUES (%s, %s), (%s, %s)", (1, None, 3, "q"),
     {"a": "1", "b": "NULL"}),
    ("sqlite", "INSERT INTO s (a, b) VALUES (:a, :b)", [{"a": 1, "b": b"\x01"}, {"a": 2, "b": b""}],
     {"a": "1", "b": "x'01'"}),
    ("sqlite", "UPDATE s SET n = 20 WHERE id = 1", None, {"n": "20", "id": "1"}),
    ("sqlite", "SELECT * FROM s WHERE name = ?", ("it's",), {"name": "'it''s'"}),
    ("sqlite", "SELECT * FROM s WHERE name = ?", (), {"name": "?"}),
    ("postgresql", "SELECT * FROM s WHERE name = %s", ["x" * 200], {"name": "'" + "x" * 78 + "…"}),
    ("postgresql", "SELECT f(%s)", (1,), {}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "sql", "parameters", "shown"), CASES, ids=range(len(CASES)))
def test_values(dialect: str, sql: str, parameters: Any, shown: dict[str, str]) -> None:
    assert values_of(analyse(sql, dialect), sql, parameters) == shown
