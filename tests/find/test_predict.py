"""Which operations could get in each other's way, by what their statements touch."""

from __future__ import annotations

import pytest

from crowdsafe.find.model import Step
from crowdsafe.find.predict import ALL, Footprint, conflicts, footprint, groups
from crowdsafe.find.sql import analyse


def of(*texts: str) -> Footprint:
    steps = [Step(0, n, text) for n, text in enumerate(texts)]
    return footprint(steps, lambda text: analyse(text, "postgresql"))


def test_reads_and_writes_of_all_statements_count() -> None:
    found = of("SELECT * FROM a", "UPDATE b SET n = 1", "SELECT * FROM c FOR UPDATE")
    assert found == Footprint(frozenset("abc"), frozenset("bc"))


@pytest.mark.parametrize("text", ["DROP TABLE a", "SELECT no_such_function(1)"])
def test_what_may_touch_anything_writes_all(text: str) -> None:
    assert ALL in of(text).writes


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("SELECT * FROM a", "SELECT * FROM a", set()),
        ("SELECT * FROM a", "UPDATE a SET n = 1", {"a"}),
        ("UPDATE a SET n = 1", "SELECT * FROM a", {"a"}),
        ("UPDATE a SET n = 1", "UPDATE b SET n = 1", set()),
        ("SELECT * FROM a FOR UPDATE", "SELECT * FROM a FOR UPDATE", {"a"}),
        ("LOCK TABLE a", "SELECT * FROM a", {"a"}),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_lock(1)", {"advisory lock"}),
        ("DROP TABLE b", "SELECT * FROM a", {ALL}),
        ("SELECT 1", "DROP TABLE b", set()),
        ("SELECT * FROM a", "SELECT no_such_function(1)", {ALL}),
    ],
    ids=["reads", "rw", "wr", "apart", "locks", "table", "advisory", "ddl", "idle", "opaque"],
)
def test_conflicts(one: str, other: str, shared: set[str]) -> None:
    assert conflicts(of(one), of(other)) == shared


def test_groups_are_each_with_itself_first() -> None:
    assert groups(3, triples=False) == [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    assert groups(2, triples=True)[3:] == [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)]
    assert groups(0, triples=True) == []
