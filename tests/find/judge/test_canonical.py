"""Ids may be any, but not what refers to what."""

from __future__ import annotations

import time
from itertools import permutations
from typing import Any

import pytest

from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table
from crowdsafe.find.judge import Oracle
from crowdsafe.find.judge.delta import delta_of
from crowdsafe.find.judge.names import is_id_name, tables_meant
from crowdsafe.find.model import Answer, Reply, Rows, Run

USERS = Table("shop_user", (Column("id", generated=True), Column("name")), ("id",))
ORDERS = Table(
    "shop_order",
    (Column("id", generated=True), Column("user_id"), Column("parent_id"), Column("n")),
    ("id",),
    (),
    (ForeignKey(("user_id",), "shop_user", ("id",)),
     ForeignKey(("parent_id",), "shop_order", ("id",))),
)  # fmt: skip
VIPS = Table("vip", (Column("user_ptr_id"), Column("since")), ("user_ptr_id",), (),
             (ForeignKey(("user_ptr_id",), "shop_user", ("id",)),))  # fmt: skip
KEYS = Table("apikey", (Column("token"), Column("owner")), ("token",))
SCHEMA = Schema({table.name: table for table in (USERS, ORDERS, VIPS, KEYS)})
BASE = {table.name: Rows(table.column_names, table.primary_key, []) for table in SCHEMA}


def made(*answers: Any, **rows: list[tuple[Any, ...]]) -> Run:
    state = {
        name: Rows(empty.columns, empty.key, rows.get(name, [])) for name, empty in BASE.items()
    }
    told = [Answer([Reply("POST /orders", 201, body)]) for body in answers]
    return Run(((0, 1), (1, 1)), [], told, state)


def kind(serial: Run, run: Run, again: Run | None = None) -> str:
    oracle = Oracle(SCHEMA, base=BASE)
    oracle.learn([serial, again or serial])
    for order in permutations(range(len(serial.answers))):
        oracle.add_serial(order, (None,) * len(serial.answers), serial)
    return oracle.judge(run).kind


def chain(*ids: int) -> Run:
    """Orders of which each has the one before as its parent; the first is told apart."""
    rows = [(own, None, parent, int(parent is None))
            for own, parent in zip(ids, (None, *ids), strict=False)]  # fmt: skip
    return made(shop_order=rows)


def test_a_chain_of_references_is_the_same_with_other_ids() -> None:
    assert kind(chain(1, 2, 3, 4, 5), chain(9, 4, 7, 2, 1)) == "serial"
    crossed = chain(1, 2, 3, 4, 5)
    assert crossed.state is not None
    rows = crossed.state["shop_order"].rows
    rows[4] = (5, None, 2, 0)
    assert kind(chain(1, 2, 3, 4, 5), crossed) == "race"


def test_a_key_that_is_itself_a_reference() -> None:
    serial = made(shop_user=[(1, "a"), (2, "b")], vip=[(1, 7)])
    assert kind(serial, made(shop_user=[(4, "b"), (8, "a")], vip=[(8, 7)])) == "serial"
    assert kind(serial, made(shop_user=[(4, "b"), (8, "a")], vip=[(4, 7)])) == "race"


def test_an_id_in_an_answer_is_the_row_that_it_names() -> None:
    def two(a: int, b: int, *told: int) -> Run:
        bodies = [{"order": {"id": one}} for one in told]
        return made(*bodies, shop_order=[(a, None, None, 1), (b, None, None, 2)])

    assert kind(two(1, 2, 1, 2), two(2, 1, 2, 1), two(11, 12, 11, 12)) == "serial"
    assert kind(two(1, 2, 1, 2), two(2, 1, 1, 2), two(11, 12, 11, 12)) == "race"
    assert kind(two(1, 2, 1, 2), two(1, 2, 1, 1), two(11, 12, 11, 12)) == "race"


def test_the_same_id_told_twice_is_a_race_where_generators_cannot_be_moved() -> None:
    def two(*told: int) -> Run:
        return made(
            *({"id": one} for one in told), shop_order=[(1, None, None, 1), (2, None, None, 1)]
        )

    assert kind(two(1, 2), two(2, 1)) == "serial"
    assert kind(two(1, 2), two(1, 1)) == "race"


def test_a_function_that_gives_the_id_of_its_row() -> None:
    def two(a: int, b: int) -> Run:
        run = made(a, b, shop_order=[(1, None, None, 1), (2, None, None, 1)])
        for answer in run.answers:
            answer.replies[0].status = None
            answer.replies[0].request = "place"
        return run

    assert kind(two(1, 2), two(2, 1)) == "serial"
    assert kind(two(1, 2), two(2, 2)) == "race"


def test_a_drawn_key_is_a_node_and_is_known_in_answers() -> None:
    def keyed(a: str, b: str, told: str) -> Run:
        return made({"key": told}, apikey=[(a, "x"), (b, "y")])

    a, b, c, d, e, f = (f"{n}f8e7d6c5b4a3928{n}c0ffee" for n in range(6))
    assert kind(keyed(a, b, a), keyed(e, f, e), keyed(c, d, c)) == "serial"
    assert kind(keyed(a, b, a), keyed(e, f, f), keyed(c, d, c)) == "race"


def test_a_natural_key_is_no_node() -> None:
    assert kind(made(apikey=[("bob", "x")]), made(apikey=[("eve", "x")])) == "race"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("answer|POST /orders|id", {"shop_order"}),
        ("answer|POST /x|order|id", {"shop_order"}),
        ("answer|POST /x|orders|*|id", {"shop_order"}),
        ("answer|POST /x|user_id", {"shop_user"}),
        ("answer|POST /x|userId", {"shop_user"}),
        ("answer|POST /orders|product_id", set()),
        ("answer|POST /x|id", None),
        ("row|vip|api_key_id", set()),
        ("answer|place", None),
    ],
)
def test_whose_id_by_name(path: str, meant: set[str] | None) -> None:
    parts = tuple(path.split("|"))
    assert is_id_name(parts)
    assert tables_meant(parts, SCHEMA.tables) == meant


@pytest.mark.parametrize("name", ["quantity", "number", "paid", "valid", "total", "grid", "Paid"])
def test_names_that_are_no_ids(name: str) -> None:
    assert not is_id_name(("answer", "POST /x", name))


def test_changes_of_rows() -> None:
    base = {"t": Rows(("id", "n"), ("id",), [(1, "a"), (2, "b"), (3, "c")])}
    now = {"t": Rows(("id", "n"), ("id",), [(1, "a"), (3, "C"), (4, "d")])}
    changes = {change.key: change for change in delta_of(now, base).changes["t"]}
    assert set(changes) == {(2,), (3,), (4,)}
    assert changes[2,].after is None
    assert changes[3,].cells() == {"n": "C"}
    assert changes[4,].is_new
    assert changes[4,].label == "t[id=4]"
    assert delta_of(base, base).changes == {}
    keyless = {"t": Rows(("a",), (), [(1,), (1,), (2,)])}
    fewer = delta_of({"t": Rows(("a",), (), [(1,), (3,)])}, keyless).changes["t"]
    assert sorted((change.before, change.after) for change in fewer if change.after is None) == [
        ((1,), None), ((2,), None)
    ]  # fmt: skip
    lists = {"t": Rows(("id", "tags"), ("id",), [(1, ["a"])])}
    assert delta_of({"t": Rows(("id", "tags"), ("id",), [(1, ["a"])])}, lists).changes == {}


def test_a_large_table_costs_little() -> None:
    rows = [(n, n % 7, None, n) for n in range(50_000)]
    base = BASE | {"shop_order": Rows(ORDERS.column_names, ("id",), rows)}
    oracle = Oracle(SCHEMA, base=base)
    touched = [*rows[:-1], (49_999, 1, None, -1)]
    serial = made({"id": 1}, shop_order=touched)
    oracle.add_serial((0,), (None,), serial)
    began = time.process_time()
    assert oracle.judge(made({"id": 1}, shop_order=list(touched))).kind == "serial"
    assert time.process_time() - began < 1.0
