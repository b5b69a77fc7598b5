"""Each name is given to the runs that it belongs to, on both databases, and to no others."""

from __future__ import annotations

from typing import Any

import pytest

from crowdsafe.find.database.schema import Column, Schema, Table
from crowdsafe.find.judge.anomalies import marks_of, pattern_of
from crowdsafe.find.model import Anomaly, Run, Severity
from tests.find.judge.histories import (
    COMMIT,
    DIALECTS,
    HUNDRED,
    READ,
    SET,
    TAKE,
    gave,
    history,
    judged,
    named,
    rows,
)

pytestmark = pytest.mark.parametrize("dialect", DIALECTS)


# --- lost update ----------------------------------------------------------------------------


def test_a_value_written_over_is_a_lost_update(dialect: str) -> None:
    run = history(
        dialect,
        ("A", READ, (1,), HUNDRED),
        ("B", READ, (1,), HUNDRED),
        ("A", SET, (20, 1)),
        ("A", COMMIT),
        ("B", SET, (20, 1)),
        ("B", COMMIT),
    )
    found = named(run, judged("stock"))
    assert (found.anomaly, found.severity) == (Anomaly.LOST_UPDATE, Severity.HIGH)
    assert found.tables == ("stock",)
    assert found.sources == ("app.py:2", "app.py:3", "app.py:5")
    assert "stock.on_hand" in found.summary and "B" in found.summary
    assert marks_of(run, found.anomaly, []) == {1: "before A's write", 4: "overwrites A"}


def test_a_check_before_counting_down_is_a_lost_update(dialect: str) -> None:
    run = history(
        dialect,
        ("A", READ, (1,), HUNDRED),
        ("B", READ, (1,), HUNDRED),
        ("A", TAKE, (80, 1)),
        ("A", COMMIT),
        ("B", TAKE, (80, 1)),
        ("B", COMMIT),
    )
    found = named(run, judged("stock"))
    assert found.anomaly is Anomaly.LOST_UPDATE
    assert "on the strength of a value" in found.summary
    assert marks_of(run, found.anomaly, [])[4] == "decided before A's write"


def test_an_old_value_saved_with_the_whole_row_is_a_lost_update(dialect: str) -> None:
    """As an ORM does that saves every column: B changed the name, and put the price back."""
    look = "SELECT item.id AS item_id, item.name AS item_name, item.price AS item_price FROM item"
    save = "UPDATE item SET name = ?, price = ? WHERE id = ?"
    before = gave("item_id item_name item_price", (1, "tap", 5))
    run = history(
        dialect,
        ("A", look, None, before),
        ("B", look, None, before),
        ("A", save, ("tap", 9, 1)),
        ("A", COMMIT),
        ("B", save, ("hose", 5, 1)),
        ("B", COMMIT),
    )
    found = named(run, judged("item"))
    assert found.anomaly is Anomaly.LOST_UPDATE
    assert found.pattern is not None and found.pattern.column == "price"


def test_without_transactions_and_with_other_words_it_is_the_same(dialect: str) -> None:
    run = history(
        dialect,
        ("B", 'SELECT * FROM "stock" WHERE "stock"."id" = ?', ("1",), HUNDRED),
        ("A", SET, (20, 1)),
        ("B", 'UPDATE "stock" SET "on_hand" = ? WHERE "stock"."id" = ?', (30, 1)),
    )
    assert named(run, judged("stock")).anomaly is Anomaly.LOST_UPDATE


def test_other_rows_are_no_lost_update(dialect: str) -> None:
    run = history(
        dialect,
        ("A", READ, (1,), HUNDRED),
        ("B", READ, (2,), gave("id on_hand", (2, 50))),
        ("A", SET, (20, 1)),
        ("A", COMMIT),
        ("B", SET, (20, 2)),
        ("B", COMMIT),
    )
    assert pattern_of(run, Anomaly.LOST_UPDATE, []) is None
    assert named(run, judged("stock")).anomaly is Anomaly.UNSERIALIZABLE


def test_what_was_rolled_back_is_no_lost_update(dialect: str) -> None:
    run = history(
        dialect,
        ("B", "BEGIN"),
        ("B", READ, (1,), HUNDRED),
        ("A", SET, (20, 1)),
        ("B", SET, (20, 1)),
        ("B", "ROLLBACK"),
    )
    assert named(run, judged("stock")).anomaly is not Anomaly.LOST_UPDATE


def test_a_read_after_the_other_committed_is_no_lost_update(dialect: str) -> None:
    run = history(
        dialect,
        ("A", SET, (20, 1)),
        ("A", COMMIT),
        ("B", READ, (1,), gave("id on_hand", (1, 20))),
        ("B", SET, (10, 1)),
        ("B", COMMIT),
    )
    assert named(run, judged("stock")).anomaly is Anomaly.UNSERIALIZABLE


# --- double transition ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "before", "after"),
    [
        ("status", "requested", "approved"),
        ("used", False, True),
        ("redeemed_at", None, "2026-01-01"),
        ("revoked_at", 0, 1_795_408_442),
    ],
    ids=["status", "flag", "time", "seconds"],
)
def test_a_state_moved_twice_is_a_double_transition(
    dialect: str, column: str, before: Any, after: Any
) -> None:
    look, move = f"SELECT id, {column} FROM leave WHERE id = ?", f"UPDATE leave SET {column} = ?"
    seen = gave(f"id {column}", (7, before))
    run = history(
        dialect,
        ("A", look, (7,), seen),
        ("B", look, (7,), seen),
        ("A", f"{move} WHERE id = ?", (after, 7)),
        ("A", "INSERT INTO pay (leave_id) VALUES (?)", (7,)),
        ("A", COMMIT),
        ("B", f"{move} WHERE id = ?", (after, 7)),
        ("B", "INSERT INTO pay (leave_id) VALUES (?)", (7,)),
        ("B", COMMIT),
    )
    found = named(run, judged("pay"))
    assert (found.anomaly, found.severity) == (Anomaly.DOUBLE_TRANSITION, Severity.HIGH)
    assert found.tables == ("leave", "pay")
    assert f"leave.{column}" in found.summary
    assert marks_of(run, found.anomaly, [])[5] == "moved by A already"


def test_two_who_are_told_that_they_moved_it_are_a_double_transition(dialect: str) -> None:
    look = "SELECT id, state FROM job WHERE id = ?"
    move = "UPDATE job SET state = ? WHERE id = ?"
    run = history(
        dialect,
        ("A", look, (1,), gave("id state", (1, "open"))),
        ("B", look, (1,), gave("id state", (1, "open"))),
        ("A", move, ("taken", 1)),
        ("B", move, ("taken", 1)),
    )
    found = named(run, judged(answers=True))
    assert (found.anomaly, found.severity) == (Anomaly.DOUBLE_TRANSITION, Severity.MEDIUM)


def test_where_the_rows_are_as_in_order_the_state_tells_more_than_a_number(dialect: str) -> None:
    """The number was written over, but with what one of the two alone would have written."""
    number, give = "SELECT id, credits FROM usr WHERE id = ?", "UPDATE usr SET credits = ?"
    look, move = "SELECT id, state FROM job WHERE id = ?", "UPDATE job SET state = ?"
    run = history(
        dialect,
        ("A", number, (7,), gave("id credits", (7, 40))),
        ("A", look, (1,), gave("id state", (1, "open"))),
        ("B", number, (7,), gave("id credits", (7, 40))),
        ("B", look, (1,), gave("id state", (1, "open"))),
        ("A", f"{give} WHERE id = ?", (50, 7)),
        ("A", f"{move} WHERE id = ?", ("done", 1)),
        ("A", COMMIT),
        ("B", f"{give} WHERE id = ?", (50, 7)),
        ("B", f"{move} WHERE id = ?", ("done", 1)),
        ("B", COMMIT),
    )
    assert named(run, judged(answers=True)).anomaly is Anomaly.DOUBLE_TRANSITION
    assert named(run, judged("usr")).anomaly is Anomaly.LOST_UPDATE


def test_who_inserts_nothing_on_a_conflict_writes_over_nobody(dialect: str) -> None:
    look = "SELECT count(*) AS n FROM acct"
    add = "INSERT INTO acct (email) VALUES (?) ON CONFLICT DO NOTHING"
    run = history(
        dialect,
        ("A", look, gave("n", (2,))),
        ("B", look, gave("n", (2,))),
        ("A", add, ("mara",), {"rowcount": 1}),
        ("A", COMMIT),
        ("B", add, ("mara",), {"rowcount": 0}),
        ("B", COMMIT),
    )
    assert named(run, judged(answers=True)).anomaly is Anomaly.PHANTOM_INSERT


def test_a_token_deleted_twice_is_a_double_transition(dialect: str) -> None:
    look, use = "SELECT id FROM token WHERE id = ?", "DELETE FROM token WHERE id = ?"
    run = history(
        dialect,
        ("A", look, (3,), gave("id", (3,))),
        ("B", look, (3,), gave("id", (3,))),
        ("A", use, (3,)),
        ("A", "INSERT INTO session (user_id) VALUES (1)"),
        ("B", use, (3,), {"rowcount": 0}),
        ("B", "INSERT INTO session (user_id) VALUES (1)"),
    )
    found = named(run, judged("session"))
    assert found.anomaly is Anomaly.DOUBLE_TRANSITION
    assert "removed the same row of token" in found.summary


@pytest.mark.parametrize(
    ("column", "anomaly"),
    [
        ("answered", Anomaly.DOUBLE_TRANSITION),
        ("is_used", Anomaly.DOUBLE_TRANSITION),
        ("used_today", Anomaly.LOST_UPDATE),
        ("used", Anomaly.LOST_UPDATE),
        ("places_used", Anomaly.LOST_UPDATE),
        ("sold", Anomaly.LOST_UPDATE),
    ],
)
def test_a_counter_that_goes_to_one_is_no_flag(dialect: str, column: str, anomaly: Anomaly) -> None:
    """SQLite has no booleans: only the name of the column tells a flag from a count."""
    look = f"SELECT id, {column} FROM t WHERE id = ?"
    run = history(
        dialect,
        ("A", look, (1,), gave(f"id {column}", (1, 0))),
        ("B", look, (1,), gave(f"id {column}", (1, 0))),
        ("A", f"UPDATE t SET {column} = ? WHERE id = ?", (1, 1)),
        ("B", f"UPDATE t SET {column} = ? WHERE id = ?", (1, 1)),
    )
    assert named(run, judged("t")).anomaly is anomaly
    declared = Schema({"t": Table("t", (Column(column, "boolean"),))})
    found = named(run, judged("t"), schema=declared)
    assert found.anomaly is Anomaly.DOUBLE_TRANSITION
    assert marks_of(run, found.anomaly, [])[3] == "moved by A already"


# --- duplicates and phantoms ----------------------------------------------------------------

LOOK = "SELECT id FROM users WHERE email = ?"
ADD = "INSERT INTO users (email) VALUES (?)"
NONE: dict[str, Any] = {"columns": ("id",), "rows": [], "rowcount": 0}
ONE_USER = {"users": rows("id email", (1, "m@x"))}
TWO_USERS = {"users": rows("id email", (1, "m@x"), (2, "m@x"))}


@pytest.mark.parametrize(
    ("look", "nothing"),
    [
        (LOOK, NONE),
        ("SELECT count(*) AS n FROM users WHERE email = ?", gave("n", (0,))),
        ("SELECT EXISTS (SELECT 1 FROM users WHERE email = ?) AS there", gave("there", (False,))),
    ],
    ids=["row", "count", "exists"],
)
def test_two_who_found_nothing_and_made_one_each(
    dialect: str, look: str, nothing: dict[str, Any]
) -> None:
    run = history(
        dialect,
        ("A", look, ("m@x",), nothing),
        ("B", look, ("m@x",), nothing),
        ("A", ADD, ("m@x",)),
        ("A", COMMIT),
        ("B", ADD, ("m@x",)),
        ("B", COMMIT),
        state=TWO_USERS,
    )
    found = named(run, judged("users"), [ONE_USER, ONE_USER])
    assert (found.anomaly, found.severity) == (Anomaly.DUPLICATE_CREATE, Severity.HIGH)
    assert found.tables == ("users",)
    marks = marks_of(run, found.anomaly, [Run((), [], [], ONE_USER)])
    assert marks == {1: "before A's insert", 4: "second insert"}


@pytest.mark.parametrize(
    ("look", "given"),
    [
        ("SELECT max(number) AS top FROM orders", gave("top", (4,))),
        ("SELECT count(*) FROM orders", gave("count", (4,))),
        ("SELECT number FROM orders ORDER BY number DESC LIMIT 1", gave("number", (4,))),
    ],
    ids=["max", "count", "last"],
)
def test_two_who_took_the_same_number(dialect: str, look: str, given: dict[str, Any]) -> None:
    add = "INSERT INTO orders (number, customer_id) VALUES (?, ?)"
    run = history(
        dialect,
        ("A", look, None, given),
        ("B", look, None, given),
        ("A", add, (5, 1)),
        ("B", add, (5, 1)),
        ("A", COMMIT),
        ("B", COMMIT),
        state={"orders": rows("id number customer_id", (1, 4, 1), (2, 5, 1), (3, 5, 1))},
    )
    right = {"orders": rows("id number customer_id", (1, 4, 1), (2, 5, 1), (3, 6, 1))}
    found = named(run, judged("orders"), [right])
    assert (found.anomaly, found.severity) == (Anomaly.DUPLICATE_NUMBER, Severity.HIGH)
    assert found.pattern is not None and found.pattern.column == "number"


def test_the_first_number_of_an_empty_table_is_a_number_too(dialect: str) -> None:
    look, add = "SELECT max(n) FROM seats", "INSERT INTO seats (n) VALUES (?)"
    run = history(
        dialect,
        ("A", look, None, gave("max", (None,))),
        ("B", look, None, gave("max", (None,))),
        ("A", add, (1,)),
        ("B", add, (1,)),
        state={"seats": rows("id n", (1, 1), (2, 1))},
    )
    right = {"seats": rows("id n", (1, 1), (2, 2))}
    assert named(run, judged("seats"), [right]).anomaly is Anomaly.DUPLICATE_NUMBER


@pytest.mark.parametrize(
    ("look", "given"),
    [
        ("SELECT sum(hours) FROM entries WHERE day = ?", gave("sum", (20,))),
        ("SELECT count(*) FROM entries WHERE day = ?", gave("count", (3,))),
        ("SELECT id, hours FROM entries WHERE day = ?", gave("id hours", (1, 8), (2, 8))),
    ],
    ids=["sum", "count", "rows"],
)
def test_a_check_over_rows_that_misses_an_insert_is_a_phantom(
    dialect: str, look: str, given: dict[str, Any]
) -> None:
    add = "INSERT INTO entries (day, hours) VALUES (?, ?)"
    run = history(
        dialect,
        ("A", look, (1,), given),
        ("B", look, (1,), given),
        ("A", add, (1, 4)),
        ("A", COMMIT),
        ("B", add, (1, 4)),
        ("B", COMMIT),
        state={"entries": rows("id day hours", (1, 1, 8), (2, 1, 4), (3, 1, 4))},
    )
    right = {"entries": rows("id day hours", (1, 1, 8), (2, 1, 4))}
    found = named(run, judged("entries"), [right])
    assert (found.anomaly, found.severity) == (Anomaly.PHANTOM_INSERT, Severity.HIGH)
    assert "without the row that A inserted" in found.summary


def test_an_insert_into_what_another_was_closing_is_a_phantom(dialect: str) -> None:
    run = history(
        dialect,
        ("A", "SELECT id, open FROM invoice WHERE id = ?", (1,), gave("id open", (1, True))),
        ("B", "SELECT sum(price) FROM line WHERE invoice_id = ?", (1,), gave("sum", (10,))),
        ("A", "INSERT INTO line (invoice_id, price) VALUES (?, ?)", (1, 5)),
        ("A", COMMIT),
        ("B", "UPDATE invoice SET total = ?, open = ? WHERE id = ?", (10, False, 1)),
        ("B", COMMIT),
    )
    assert named(run, judged("invoice")).anomaly is Anomaly.PHANTOM_INSERT


def test_an_update_that_meets_a_row_which_its_select_missed_is_a_phantom(dialect: str) -> None:
    run = history(
        dialect,
        ("A", "INSERT INTO messages (phone, answered) VALUES (?, ?)", ("966", 0)),
        ("B", "SELECT words FROM messages WHERE phone = ?", ("966",), gave("words", ("hi",))),
        ("A", COMMIT),
        ("B", "UPDATE messages SET answered = ? WHERE phone = ?", (1, "966")),
        ("B", COMMIT),
    )
    found = named(run, judged("messages"))
    assert found.anomaly is Anomaly.PHANTOM_INSERT
    assert marks_of(run, found.anomaly, [])[3] == "meets A's row too"


# --- write skew, pieces, reads --------------------------------------------------------------


@pytest.mark.parametrize("look", ["SELECT count(*) FROM shift WHERE on_call = 1",
                                  "SELECT name FROM shift WHERE on_call = 1",
                                  "SELECT sum(on_call) FROM shift"],
                         ids=["count", "rows", "sum"])  # fmt: skip
def test_two_who_each_read_what_the_other_wrote_are_a_write_skew(dialect: str, look: str) -> None:
    off = "UPDATE shift SET on_call = 0 WHERE name = ?"
    run = history(
        dialect,
        ("A", look, None, gave("count", (2,))),
        ("B", look, None, gave("count", (2,))),
        ("A", off, ("alice",)),
        ("B", off, ("bob",)),
        ("A", COMMIT),
        ("B", COMMIT),
    )
    found = named(run, judged("shift"))
    assert (found.anomaly, found.severity) == (Anomaly.WRITE_SKEW, Severity.HIGH)
    assert marks_of(run, found.anomaly, []) == {0: "before B's write", 1: "before A's write"}


def test_a_write_skew_over_two_tables(dialect: str) -> None:
    run = history(
        dialect,
        ("A", "SELECT open FROM gate WHERE id = 1", None, gave("open", (True,))),
        ("B", "SELECT loaded FROM truck WHERE id = 1", None, gave("loaded", (False,))),
        ("A", "UPDATE truck SET loaded = ? WHERE id = 1", (True,)),
        ("B", "UPDATE gate SET open = ? WHERE id = 1", (False,)),
        ("A", COMMIT),
        ("B", COMMIT),
    )
    assert named(run, judged("gate", "truck")).anomaly is Anomaly.WRITE_SKEW


PAY = "UPDATE account SET cents = cents + ? WHERE id = ?"


@pytest.mark.parametrize(
    "between",
    [
        ("SELECT sum(cents) FROM account", None, gave("sum", (70,))),
        ("UPDATE account SET cents = 0", None, {}),
        ("SELECT id, cents FROM account", None, gave("id cents", (1, 70), (2, 100))),
    ],
    ids=["sum", "write", "rows"],
)
def test_who_comes_between_two_transactions_of_one_operation(
    dialect: str, between: tuple[Any, ...]
) -> None:
    run = history(
        dialect,
        ("A", PAY, (-30, 1)),
        ("A", COMMIT),
        ("B", *between),
        ("B", COMMIT),
        ("A", PAY, (30, 2)),
        ("A", COMMIT),
    )
    found = named(run, judged("account"))
    assert (found.anomaly, found.severity) == (Anomaly.TORN_STEPS, Severity.MEDIUM)
    assert marks_of(run, found.anomaly, [])[2] == "between A's steps"


@pytest.mark.parametrize("again", [READ, "SELECT sum(on_hand) FROM stock", "SELECT * FROM stock"],
                         ids=["same", "sum", "all"])  # fmt: skip
def test_one_moment_read_twice(dialect: str, again: str) -> None:
    parameters = (1,) if "?" in again else None
    run = history(
        dialect,
        ("B", READ, (1,), HUNDRED),
        ("A", SET, (20, 1)),
        ("A", COMMIT),
        ("B", again, parameters, gave("on_hand", (20,))),
        ("B", COMMIT),
    )
    found = named(run, judged(answers=True))
    assert (found.anomaly, found.severity) == (Anomaly.NON_REPEATABLE_READ, Severity.LOW)


def test_two_rows_of_one_transaction_read_around_it(dialect: str) -> None:
    run = history(
        dialect,
        ("A", PAY, (-60, 1)),
        ("A", PAY, (60, 2)),
        ("B", "SELECT cents FROM account WHERE id = ?", (1,), gave("cents", (60,))),
        ("A", COMMIT),
        ("B", "SELECT cents FROM account WHERE id = ?", (2,), gave("cents", (120,))),
    )
    assert named(run, judged(answers=True)).anomaly is Anomaly.NON_REPEATABLE_READ


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_answer_that_no_step_explains_is_stale(dialect: str, count: int) -> None:
    run = history(dialect, *[("A", READ, (1,), HUNDRED)] * count, ("B", "SELECT * FROM other"))
    found = named(run, judged(answers=True))
    assert (found.anomaly, found.severity) == (Anomaly.STALE_ANSWER, Severity.LOW)
