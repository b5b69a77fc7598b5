"""What fixes a race names the tables, columns and keys of that race, in the words of its ORM."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import crowdsafe
from crowdsafe.find.database.schema import Schema, Table
from crowdsafe.find.judge.anomalies import Named, name
from crowdsafe.find.judge.cures import cures
from crowdsafe.find.judge.recipes import RECIPES
from crowdsafe.find.model import Anomaly, Run, Severity, Source
from tests.find.judge.histories import DIALECTS, gave, history, judged, rows

DJANGO = "stock = Stock.objects.get(pk=pk)"
ALCHEMY = "stock = session.get(Stock, id)"
PLAIN = 'row = cursor.execute("SELECT ...").fetchone()'


def overwritten(
    dialect: str, values: tuple[Any, Any, Any], column: str = "on_hand", code: str = PLAIN
) -> tuple[Named, Run]:
    """Both read the first value; A writes the second and B the third over it."""
    look = f"SELECT id, {column} FROM shop_stocks WHERE id = ?"
    put = f"UPDATE shop_stocks SET {column} = ? WHERE id = ?"
    before = gave(f"id {column}", (1, values[0]))
    run = history(
        dialect,
        ("A", look, (1,), before),
        ("B", look, (1,), before),
        ("A", put, (values[1], 1)),
        ("A", "COMMIT"),
        ("B", put, (values[2], 1)),
        ("B", "COMMIT"),
    )
    for step in run.steps:
        step.source = Source("app.py", 1, "view", code)
    return name(run, judged("shop_stocks"), []), run


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_number_that_went_down_is_taken_and_one_that_went_up_is_given(dialect: str) -> None:
    (title, plain, part), lock = cures(*overwritten(dialect, (100, 20, 20)))
    assert title == "Check and change in one statement"
    assert "UPDATE shop_stocks SET on_hand = on_hand - :n WHERE id = :id AND on_hand >= :n" in plain
    assert part == "store.write(take, ShopStock.on_hand, n, where=ShopStock.id == id)"
    assert ("BEGIN IMMEDIATE" in lock[1]) == (dialect == "sqlite")
    assert ("FOR UPDATE" in lock[1]) == (dialect == "postgresql")
    (_, plain, part), _ = cures(*overwritten(dialect, (100, 120, 130)))
    assert "on_hand = on_hand + :n" in plain and "store.write(give, " in part


def test_a_value_that_was_read_as_another_name_tells_the_way_too() -> None:
    look, put = "SELECT max(uses) FROM asset", "UPDATE asset SET uses = ? WHERE id = ?"
    run = history(
        "sqlite",
        ("A", look, None, gave("max_1", (7,))),
        ("B", look, None, gave("max_1", (7,))),
        ("A", put, (8, 1)),
        ("B", put, (8, 1)),
    )
    (_, plain, part), _ = cures(name(run, judged("asset"), []), run)
    assert "uses = uses + :n" in plain and "give, Asset.uses" in part


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_text_beside_a_counter_is_what_was_lost(dialect: str) -> None:
    look = "SELECT body, version FROM doc WHERE id = ?"
    put = "UPDATE doc SET body = ?, version = version + 1 WHERE id = ?"
    before = gave("body version", ("x", 1))
    run = history(
        dialect,
        ("A", look, (1,), before),
        ("B", look, (1,), before),
        ("A", put, ("xy", 1)),
        ("A", "COMMIT"),
        ("B", put, ("xz", 1)),
        ("B", "COMMIT"),
    )
    named = name(run, judged("doc"), [])
    assert "doc.body" in named.summary
    (title, plain, part), _ = cures(named, run)
    assert title == "Save only if nobody saved meanwhile"
    assert "UPDATE doc SET body = :body, version = version + 1" in plain
    assert "edit, Doc, id" in part


def test_a_check_over_many_rows_is_not_cured_by_one_row() -> None:
    look = "SELECT sum(balance) FROM accounts"
    put = "UPDATE accounts SET balance = balance - ? WHERE id = ?"
    run = history(
        "postgresql",
        ("A", look, None, gave("sum", (120,))),
        ("B", look, None, gave("sum", (120,))),
        ("A", put, (100, 1)),
        ("B", put, (100, 1)),
    )
    (title, plain, _), _ = cures(name(run, judged("accounts"), []), run)
    assert title == "Run it as if it were alone" and "SERIALIZABLE" in plain


@pytest.mark.parametrize(
    ("code", "said", "unsaid"),
    [
        (DJANGO, 'Stock.objects.filter(id=id, on_hand__gte=n).update(on_hand=F("on_hand") - n)',
         "session.execute"),
        (ALCHEMY, "update(ShopStock)", ".objects"),
        (PLAIN, "UPDATE shop_stocks", "session.execute"),
    ],
    ids=["django", "sqlalchemy", "sql"],
)  # fmt: skip
def test_the_words_are_those_of_the_program(code: str, said: str, unsaid: str) -> None:
    (_, plain, _), _ = cures(*overwritten("postgresql", (100, 20, 20), code=code))
    assert said in plain and unsaid not in plain


def test_the_sql_tells_the_orm_where_the_source_does_not() -> None:
    run = history("postgresql", ("A", 'SELECT "a"."id" FROM "a"'), ("B", 'UPDATE "a" SET "n" = 1'))
    named = Named(Anomaly.DUPLICATE_CREATE, Severity.HIGH, ("a",), (), "")
    assert ".objects.get_or_create(" in cures(named, run)[0][1]


def test_a_session_of_a_visitor_is_none_of_sqlalchemy() -> None:
    run = history("postgresql", ("A", 'SELECT "a"."id" FROM "a"'), ("B", 'UPDATE "a" SET "n" = 1'))
    for step in run.steps:
        step.source = Source("app.py", 1, "view", 'cart = request.session.get("cart", {})')
    named = Named(Anomaly.DUPLICATE_CREATE, Severity.HIGH, ("a",), (), "")
    assert ".objects.get_or_create(" in cures(named, run)[0][1]


def test_a_text_that_was_written_over_is_edited_with_its_version() -> None:
    (_, plain, part), _ = cures(*overwritten("sqlite", ("a", "b", "c"), column="title"))
    assert "version = version + 1" in plain
    assert "edit, ShopStock, id" in part and '{"title": value}' in part


def test_a_time_is_no_number_to_count_up() -> None:
    values = (1_795_400_000, 1_795_408_442, 1_795_408_443)
    (title, plain, _), _ = cures(*overwritten("sqlite", values, column="seen_at"))
    assert "version = version + 1" in plain and title == "Save only if nobody saved meanwhile"


def test_a_state_is_moved_from_the_state_that_was_read() -> None:
    found = overwritten("sqlite", ("new", "paid", "paid"), column="status")
    (_, plain, part), _ = cures(*found)
    assert "UPDATE shop_stocks SET status = :to WHERE id = :id AND status = :from" in plain
    assert part.startswith('store.write(transition, ShopStock, id, "status", from_=')


@pytest.mark.parametrize("unique", [False, True])
def test_a_unique_index_is_proposed_where_there_is_none(unique: bool) -> None:
    look, add = "SELECT id FROM users WHERE email = ?", "INSERT INTO users (email) VALUES (?)"
    nothing = {"columns": ("id",), "rows": [], "rowcount": 0}
    run = history(
        "sqlite",
        ("A", look, ("m",), nothing),
        ("B", look, ("m",), nothing),
        ("A", add, ("m",)),
        ("B", add, ("m",)),
        state={"users": rows("id email", (1, "m"), (2, "m"))},
    )
    serial = Run((), [], [], {"users": rows("id email", (1, "m"))})
    table = Table("users", (), ("id",), (("email",),) if unique else ())
    named = name(run, judged("users"), [serial])
    (_, plain, part), _ = cures(named, run, Schema({"users": table}))
    assert ("CREATE UNIQUE INDEX users_email_key ON users (email)" in plain) is not unique
    assert "ON CONFLICT (email) DO NOTHING" in plain
    assert part == "row, made = store.write(get_or_create, User, defaults, email=email)"


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": "IntegrityError: no", "sqlstate": "23505"},
        {"error": "UNIQUE constraint failed: users.email", "sqlstate": None},
    ],
    ids=["postgresql", "sqlite"],
)
def test_an_insert_that_a_unique_key_refused_reads_what_is_there(refusal: dict[str, Any]) -> None:
    look, add = (
        "SELECT id FROM users WHERE email = ?",
        "INSERT INTO users (id, email) VALUES (?, ?)",
    )
    nothing = {"columns": ("id",), "rows": [], "rowcount": 0}
    run = history(
        "sqlite",
        ("A", look, ("m",), nothing),
        ("B", look, ("m",), nothing),
        ("A", add, (1, "m")),
        ("A", "COMMIT"),
        ("B", add, (2, "m"), refusal),
        ("B", "ROLLBACK"),
    )
    (title, plain, part), retry = cures(name(run, judged(kind="error"), []), run)
    assert title == "Insert first, and read what is there on a conflict"
    assert "INSERT INTO users (email, ...)" in plain and "CREATE UNIQUE" not in plain
    assert "get_or_create, User, defaults, email=email" in part
    assert retry[0].startswith("Run it again")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("anomaly", list(Anomaly), ids=lambda each: each.name.lower())
def test_every_name_has_a_cure_that_leaves_no_blank(anomaly: Anomaly, dialect: str) -> None:
    run = history(dialect, ("A", "SELECT * FROM t"), ("B", "UPDATE t SET n = 1"))
    for tables in (("t",), ()):
        found = cures(Named(anomaly, Severity.LOW, tables, (), ""), run)
        assert found
        for title, plain, part in found:
            assert title and plain and "$" not in title + plain + part


def test_the_parts_that_are_proposed_exist_with_these_arguments() -> None:
    """What a cure writes can be typed: its names are public, its keywords are parameters."""
    for recipe in RECIPES.values():
        for part in ("take", "give", "edit", "mutate", "transition", "get_or_create", "once"):
            if f"({part}, " in recipe.part or f"{part}, $model" in recipe.part:
                assert set(_keywords(recipe.part)) <= _parameters(getattr(crowdsafe, part)), part
    assert "next_number" in crowdsafe.__all__


def _keywords(text: str) -> list[str]:
    text = text.replace("$given", "").replace("$column=", "")
    return re.findall(r"(\w+)=(?!=)", text)


def _parameters(part: Any) -> set[str]:
    return set(inspect.signature(part).parameters)


def test_model_names_are_guessed_from_tables() -> None:
    run = history("postgresql", ("A", "SELECT 1"))
    for table, model in (("order_items", "OrderItem"), ("status", "Status"), ("entries", "Entry")):
        named = Named(Anomaly.DUPLICATE_CREATE, Severity.LOW, (table,), (), "")
        assert f"get_or_create, {model}, " in cures(named, run)[0][2]
