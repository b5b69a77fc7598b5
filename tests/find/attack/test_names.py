"""Races that are told by what one statement alone read, by rows that were free, by ranges and by
tries that failed: each is called what it is, about the table that it is on, with a cure that
fits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Anomaly, Finding, Verdict

Operation = Callable[[psycopg.Connection], object]


class Program(NamedTuple):
    """``cure`` is what the first cure holds."""

    schema: str
    operations: tuple[Operation, ...]
    anomaly: Anomaly
    table: str
    cure: str


def _book(db: psycopg.Connection) -> str:
    look = "SELECT count(*) FROM stays WHERE room = 1 AND starts < 9 AND ends > 4"
    if db.execute(look).fetchone() != (0,):
        return "taken"
    db.execute("INSERT INTO stays (room, starts, ends) VALUES (1, 4, 9)")
    return "booked"


def _pay(db: psycopg.Connection) -> None:
    row = db.execute("SELECT coalesce(sum(cents), 0) FROM payments WHERE card = 1").fetchone()
    if row is None or row[0] + 60 > 100:
        raise ValueError("over the limit")
    db.execute("INSERT INTO payments (card, cents) VALUES (1, 60)")


def _redeem(db: psycopg.Connection) -> None:
    if db.execute("SELECT id, taken_by FROM coupons WHERE id = 1").fetchone() != (1, None):
        raise ValueError("it is taken")
    db.execute("UPDATE coupons SET taken_by = 7 WHERE id = 1")
    db.execute("INSERT INTO gifts (coupon) VALUES (1)")


def _send(db: psycopg.Connection) -> None:
    for (number,) in db.execute("SELECT id FROM mails WHERE sent_at IS NULL").fetchall():
        db.execute("UPDATE mails SET sent_at = now() WHERE id = %s", [number])
        db.execute("INSERT INTO sent (mail) VALUES (%s)", [number])


def _credit(db: psycopg.Connection) -> None:
    paid = db.execute("SELECT id, cents FROM deposits WHERE NOT credited").fetchall()
    for number, cents in paid:
        row = db.execute("SELECT cents FROM accounts WHERE id = 1").fetchone()
        assert row is not None
        db.execute("UPDATE accounts SET cents = %s WHERE id = 1", [row[0] + cents])
        db.execute("UPDATE deposits SET credited = true WHERE id = %s", [number])


def _append(db: psycopg.Connection) -> None:
    row = db.execute("SELECT id, note FROM notes WHERE id = 1").fetchone()
    assert row is not None
    db.execute("UPDATE notes SET note = %s WHERE id = 1", [(row[1] or "") + "x"])


def _save(db: psycopg.Connection) -> None:
    row = db.execute("SELECT id, body, version FROM papers WHERE id = 1").fetchone()
    if row != (1, "", 1):
        raise ValueError("someone else was first")
    db.execute("UPDATE papers SET body = 'new', version = 2 WHERE id = 1")
    db.execute("INSERT INTO saved (paper) VALUES (1)")


def _put(db: psycopg.Connection) -> None:
    if not db.execute("UPDATE flags SET n = 5 WHERE word = 'a'").rowcount:
        db.execute("INSERT INTO flags (word, n) VALUES ('a', 5)")


def _add_line(db: psycopg.Connection) -> None:
    db.execute("INSERT INTO lines (bill, price) VALUES (1, 5)")
    sum_ = "(SELECT sum(price) FROM lines WHERE bill = 1)"
    db.execute(f"UPDATE bills SET total = {sum_} WHERE id = 1".encode())


def _replace(db: psycopg.Connection) -> None:
    db.execute("DELETE FROM tags WHERE paper = 1")
    db.execute("INSERT INTO tags (paper, word) VALUES (1, 'new')")


def _rent(db: psycopg.Connection) -> int:
    used = {row[0] for row in db.execute("SELECT number FROM lockers")}
    number = next(n for n in range(1, 9) if n not in used)
    db.execute("INSERT INTO lockers (number) VALUES (%s)", [number])
    return number


def _next(db: psycopg.Connection) -> object:
    return db.execute(
        "INSERT INTO bills (number) SELECT max(number) + 1 FROM bills RETURNING number"
    ).fetchone()


def _subscribe(db: psycopg.Connection) -> int:
    return db.execute(
        "INSERT INTO readers (paper, mail) SELECT 3, 'a' WHERE NOT EXISTS"
        " (SELECT FROM readers WHERE mail = 'a')"
    ).rowcount


def _welcome(db: psycopg.Connection) -> str:
    if db.execute("SELECT FROM readers WHERE mail = 'a'").fetchone() is not None:
        return "known"
    try:
        with db.transaction():
            db.execute("INSERT INTO readers (mail) VALUES ('a')")
    except psycopg.errors.UniqueViolation:
        pass
    db.execute("INSERT INTO letters (word) VALUES ('welcome')")
    return "welcome"


def _merge(db: psycopg.Connection) -> None:
    db.execute(
        "MERGE INTO counts USING (VALUES ('a')) AS v (word) ON counts.word = v.word"
        " WHEN MATCHED THEN UPDATE SET n = counts.n + 1"
        " WHEN NOT MATCHED THEN INSERT VALUES (v.word, 1)"
    )


def _upgrade(db: psycopg.Connection) -> None:
    row = db.execute("SELECT n FROM stock WHERE id = 1 FOR SHARE").fetchone()
    assert row is not None
    db.execute("UPDATE stock SET n = %s WHERE id = 1", [row[0] - 1])


def _add_task(db: psycopg.Connection) -> None:
    if db.execute("SELECT closed FROM plans WHERE id = 1").fetchone() == (True,):
        raise ValueError("it is closed")
    db.execute("INSERT INTO tasks (plan) VALUES (1)")


def _close(db: psycopg.Connection) -> None:
    if db.execute("SELECT count(*) FROM tasks WHERE plan = 1").fetchone() != (0,):
        raise ValueError("there is something to do")
    db.execute("UPDATE plans SET closed = true WHERE id = 1")


def _buy_and_read(db: psycopg.Connection) -> object:
    db.execute("UPDATE stock SET n = n - 1 WHERE id = 1")
    db.commit()
    return db.execute("SELECT n FROM stock WHERE id = 1").fetchone()


STOCK = "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 9)"
PROGRAMS = {
    "range": Program(
        "CREATE TABLE stays (id serial PRIMARY KEY, room int, starts int, ends int)",
        (_book,),
        Anomaly.PHANTOM_INSERT,
        "stays",
        "SELECT ... FROM parent",
    ),
    "sum-of-nothing": Program(
        "CREATE TABLE payments (id serial PRIMARY KEY, card int, cents int)",
        (_pay,),
        Anomaly.PHANTOM_INSERT,
        "payments",
        "SELECT ... FROM parent",
    ),
    "free": Program(
        "CREATE TABLE coupons (id int PRIMARY KEY, taken_by int);"
        "CREATE TABLE gifts (id serial PRIMARY KEY, coupon int); INSERT INTO coupons VALUES (1)",
        (_redeem,),
        Anomaly.DOUBLE_TRANSITION,
        "coupons",
        "SET taken_by = :to WHERE id = :id AND taken_by IS NULL",
    ),
    "free-by-where": Program(
        "CREATE TABLE mails (id int PRIMARY KEY, sent_at timestamptz);"
        "CREATE TABLE sent (id serial PRIMARY KEY, mail int); INSERT INTO mails VALUES (1), (2)",
        (_send,),
        Anomaly.DOUBLE_TRANSITION,
        "mails",
        "AND sent_at IS NULL",
    ),
    "credited-twice": Program(
        "CREATE TABLE deposits (id int PRIMARY KEY, cents int, credited bool);"
        "CREATE TABLE accounts (id int PRIMARY KEY, cents int);"
        "INSERT INTO deposits VALUES (1, 50, false); INSERT INTO accounts VALUES (1, 0)",
        (_credit,),
        Anomaly.DOUBLE_TRANSITION,
        "deposits",
        "SET credited = :to WHERE id = :id AND credited = :from",
    ),
    "null-that-grows": Program(
        "CREATE TABLE notes (id int PRIMARY KEY, note text); INSERT INTO notes VALUES (1)",
        (_append,),
        Anomaly.LOST_UPDATE,
        "notes",
        "SET note = :note, version = version + 1",
    ),
    "version": Program(
        "CREATE TABLE papers (id int PRIMARY KEY, body text, version int);"
        "CREATE TABLE saved (id serial PRIMARY KEY, paper int);"
        "INSERT INTO papers VALUES (1, '', 1)",
        (_save,),
        Anomaly.LOST_UPDATE,
        "papers",
        "SET body = :body, version = version + 1",
    ),
    "update-or-insert": Program(
        "CREATE TABLE flags (id serial PRIMARY KEY, word text, n int)",
        (_put,),
        Anomaly.DUPLICATE_CREATE,
        "flags",
        "UNIQUE INDEX flags_word_key ON flags (word)",
    ),
    "sum-in-update": Program(
        "CREATE TABLE bills (id int PRIMARY KEY, total int); INSERT INTO bills VALUES (1, 0);"
        "CREATE TABLE lines (id serial PRIMARY KEY, bill int, price int)",
        (_add_line,),
        Anomaly.PHANTOM_INSERT,
        "lines",
        "SELECT ... FROM parent",
    ),
    "delete-and-insert": Program(
        "CREATE TABLE tags (id serial PRIMARY KEY, paper int, word text);"
        "INSERT INTO tags (paper, word) VALUES (1, 'old')",
        (_replace,),
        Anomaly.PHANTOM_INSERT,
        "tags",
        "SELECT ... FROM parent",
    ),
    "first-gap": Program(
        "CREATE TABLE lockers (id serial PRIMARY KEY, number int);"
        "INSERT INTO lockers (number) VALUES (1), (3)",
        (_rent,),
        Anomaly.DUPLICATE_NUMBER,
        "lockers",
        "'lockers'",
    ),
    "max-in-insert": Program(
        "CREATE TABLE bills (id serial PRIMARY KEY, number int);"
        "INSERT INTO bills (number) VALUES (1)",
        (_next,),
        Anomaly.DUPLICATE_NUMBER,
        "bills",
        "'bills'",
    ),
    "not-exists-in-insert": Program(
        "CREATE TABLE readers (id serial PRIMARY KEY, paper int, mail text)",
        (_subscribe,),
        Anomaly.DUPLICATE_CREATE,
        "readers",
        "UNIQUE INDEX readers_mail_key ON readers (mail)",
    ),
    "swallowed": Program(
        "CREATE TABLE readers (id serial PRIMARY KEY, mail text UNIQUE);"
        "CREATE TABLE letters (id serial PRIMARY KEY, word text)",
        (_welcome,),
        Anomaly.PHANTOM_INSERT,
        "readers",
        "ON CONFLICT (mail) DO NOTHING",
    ),
    "merge": Program(
        "CREATE TABLE counts (word text PRIMARY KEY, n int)",
        (_merge,),
        Anomaly.ERROR,
        "counts",
        "ON CONFLICT (word) DO NOTHING",
    ),
    "shared-lock": Program(
        STOCK, (_upgrade,), Anomaly.DEADLOCK, "stock", "WHERE id = :id FOR UPDATE"
    ),
    "parent-closed": Program(
        "CREATE TABLE plans (id int PRIMARY KEY, closed bool); INSERT INTO plans VALUES (1, false);"
        "CREATE TABLE tasks (id serial PRIMARY KEY, plan int)",
        (_add_task, _close),
        Anomaly.PHANTOM_INSERT,
        "tasks",
        "the rows of tasks belong to",
    ),
    "read-after-commit": Program(
        STOCK, (_buy_and_read,), Anomaly.STALE_ANSWER, "stock", "RETURNING"
    ),
}


def _found(url: str, operations: tuple[Operation, ...]) -> Finding:
    """The race between the first and the last of these."""

    def alone(operation: Operation) -> Callable[[], object]:
        def call() -> object:
            with psycopg.connect(url) as db:
                return operation(db)

        call.__name__ = operation.__name__
        return call

    report = find(None, [alone(one) for one in operations], database=url, budget_s=30)
    finding = report.findings[-1]
    assert finding.verdict is Verdict.RACE, report
    return finding


@pytest.mark.postgres
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_race_is_called_what_it_is(pg_url: str, program: Program) -> None:
    with psycopg.connect(pg_url) as db:
        db.execute(program.schema.encode())
    finding = _found(pg_url, program.operations)
    assert finding.anomaly is program.anomaly, finding.summary
    assert finding.tables[:1] == (program.table,)
    assert program.cure in finding.cures[0][1]


@pytest.mark.postgres
def test_what_a_try_read_that_was_undone_is_not_what_went_wrong(pg_url: str) -> None:
    with psycopg.connect(pg_url) as db:
        db.execute(STOCK.encode())
        db.execute("CREATE TABLE mails (id serial PRIMARY KEY, word text)")

    def buy() -> None:
        for _ in range(5):
            with psycopg.connect(pg_url) as db:
                db.execute("INSERT INTO mails (word) VALUES ('you paid')")
            try:
                with psycopg.connect(pg_url) as db:
                    db.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                    row = db.execute("SELECT n FROM stock WHERE id = 1").fetchone()
                    assert row is not None
                    db.execute("UPDATE stock SET n = %s WHERE id = 1", [row[0] - 1])
                return
            except psycopg.errors.SerializationFailure:
                continue

    [finding] = find(None, [buy], database=pg_url, budget_s=30).findings
    assert (finding.verdict, finding.anomaly) == (Verdict.RACE, Anomaly.TORN_STEPS)
    assert finding.tables == ("mails",)


def test_that_nothing_was_found_is_seen_in_a_file_too(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE users (id INTEGER PRIMARY KEY, mail text, gone_at text)")

    def join() -> str:
        with closing(sqlite3.connect(path)) as db:
            look = "SELECT id FROM users WHERE mail = 'a' AND gone_at IS NULL"
            if db.execute(look).fetchone() is not None:
                return "known"
            db.execute("INSERT INTO users (mail) VALUES ('a')")
            db.commit()
            return "new"

    [finding] = find(None, [join], database=sqlite_url, budget_s=30).findings
    assert finding.anomaly is Anomaly.DUPLICATE_CREATE, finding.summary
    assert "ON users (mail) WHERE gone_at IS NULL" in finding.cures[0][1]
