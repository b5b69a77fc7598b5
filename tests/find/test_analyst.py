"""What the schema makes of a statement's text: keys that reach, triggers, views, unknown names."""

from __future__ import annotations

import pytest

from crowdsafe.find.analyst import analyst
from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table

TO_ORDER = ForeignKey(("order_id",), "orders", ("id",))
TO_LINE = ForeignKey(("line_id",), "lines", ("id",))


def table(name: str, *keys: ForeignKey, triggers: bool = False, policies: bool = False) -> Table:
    columns = tuple(Column(column) for column in ("id", "n", "order_id", "line_id"))
    return Table(
        name, columns, ("id",), foreign_keys=keys, has_triggers=triggers, has_policies=policies
    )


TABLES = (
    table("orders"),
    table("lines", TO_ORDER),
    table("parcels", TO_LINE),
    table("audited", triggers=True),
    table("secret", policies=True),
)
SCHEMA = Schema(
    {one.name: one for one in TABLES},
    views={"open_orders": frozenset({"orders", "lines"})},
    functions=frozenset({"next_price"}),
    homonyms={"things": frozenset({"orders", "a.things"})},
)
KNOWN = analyst(SCHEMA, "postgresql")


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("DELETE FROM orders", {"orders", "lines", "parcels"}),
        ("DELETE FROM lines", {"lines", "parcels"}),
        ("UPDATE orders SET id = 2", {"orders", "lines", "parcels"}),
        ("UPDATE orders SET n = 2", {"orders"}),
        ("INSERT INTO orders (n) VALUES (1)", {"orders"}),
    ],
    ids=["delete", "middle", "key", "other", "insert"],
)
def test_what_refers_to_a_row_is_reached(text: str, writes: set[str]) -> None:
    assert KNOWN(text).writes == writes
    assert not KNOWN(text).opaque


@pytest.mark.parametrize(
    ("text", "opaque"),
    [
        ("UPDATE audited SET n = 1", True),
        ("SELECT * FROM audited", False),
        ("SELECT * FROM secret", True),
        ("SELECT * FROM no_such_view", True),
        ("CREATE TABLE no_such_table (id int)", False),
        ("SELECT next_price(1) FROM orders", True),
        ("SELECT n FROM orders WHERE n = 'next_price'", False),
    ],
    ids=["trigger", "no-write", "policy", "unknown", "ddl", "function", "text"],
)
def test_what_cannot_be_told_may_touch_anything(text: str, opaque: bool) -> None:
    assert KNOWN(text).opaque is opaque


def test_a_view_reads_its_tables() -> None:
    statement = KNOWN("SELECT * FROM open_orders")
    assert (statement.reads, statement.opaque) == ({"orders", "lines"}, False)


def test_a_name_stands_for_all_that_it_may_mean() -> None:
    statement = KNOWN("UPDATE things SET n = 1")
    assert {"orders", "a.things"} <= statement.writes
