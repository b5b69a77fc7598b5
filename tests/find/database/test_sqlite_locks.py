"""The model of SQLite's locks against SQLite: random programs, and a real timeout."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdsafe.find import gates
from crowdsafe.find.database import Database, open_database
from crowdsafe.find.gates import control
from crowdsafe.find.gates.control import Link, Pass
from crowdsafe.find.model import Source, Step
from crowdsafe.find.sql import analyse

TIMEOUT_MS = 30
TRIES = 3


class Asking:
    """A gatekeeper that asks the model, and lets go on."""

    wants_rows = False

    def __init__(self, database: Database, timeout_ms: int = TIMEOUT_MS) -> None:
        self.database = database
        self.timeout_ms = timeout_ms
        self.needed: frozenset[Link] = frozenset()

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        self.needed = self.database.locks.needed(link, analyse(sql, "sqlite"))
        connection = link.state.connection
        with connection.crowdsafe_gate.quiet():
            sqlite3.Cursor(connection).execute(f"PRAGMA busy_timeout={self.timeout_ms}").fetchall()
        return Pass(Step(operation, 0, sql), link)

    async def enter_async(self, *args: Any) -> Pass:
        raise NotImplementedError

    def leave(self, passed: Pass, **how: Any) -> None:
        pass

    def keep_rows(self, passed: Pass, columns: Any, rows: Any) -> None:
        pass


@pytest.fixture(params=["wal", "delete"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "locks.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode={request.param}")
        connection.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, on_hand INTEGER)")
        connection.executemany("INSERT INTO stock VALUES (?, 100)", [(n,) for n in range(1, 6)])
    connection.close()
    database = open_database(f"sqlite:///{path}")
    undo = gates.install("sqlite", database.redirect)
    yield database
    control.operate(None)
    control.keep(None)
    undo()
    database.close()


def connect(database: Database, **options: Any) -> Any:
    return sqlite3.connect(database.redirect.original, isolation_level=None, **options)


READS = ("SELECT * FROM stock", "WITH s AS (SELECT * FROM stock) SELECT * FROM s")
WRITES = (
    "UPDATE stock SET on_hand = on_hand - 1 WHERE id = 1",
    "UPDATE stock SET on_hand = 1 WHERE id = 0",
    "INSERT INTO stock (on_hand) VALUES (7)",
    "WITH one(id) AS (SELECT 2) UPDATE stock SET on_hand = 0 WHERE id IN (SELECT id FROM one)",
)
BOUNDS = ("BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "SAVEPOINT a")


class Client:
    """One connection and its unread cursors."""

    def __init__(self, database: Database) -> None:
        self.connection = connect(database)
        self.unread: list[sqlite3.Cursor] = []
        self.savepoint = False

    def next(self, rng: random.Random) -> tuple[str, Callable[[], object]]:
        """Something that it may do now."""
        choices: list[str] = [*READS, *WRITES, *WRITES, "unread", "finish"]
        if self.connection.in_transaction:
            choices += ["RELEASE a"] if self.savepoint else []
            choices += ["COMMIT", "COMMIT", "ROLLBACK"]
        else:
            choices += BOUNDS
        chosen = rng.choice(choices)
        if chosen == "finish":
            return "", self.finish
        if chosen == "unread":
            return "SELECT id FROM stock", self.begin_reading
        return chosen, lambda: self.run(chosen)

    def run(self, sql: str) -> None:
        self.connection.execute(sql).fetchall()
        self.savepoint = self.connection.in_transaction and (
            self.savepoint or sql.startswith("SAVEPOINT")
        )

    def begin_reading(self) -> None:
        cursor = self.connection.execute("SELECT id FROM stock")
        cursor.fetchone()
        self.unread.append(cursor)

    def finish(self) -> None:
        while self.unread:
            self.unread.pop().fetchall()


def attempt(call: Callable[[], object]) -> str:
    """Whether SQLite lets it go, refuses it at once, or waits as long as the timeout says."""
    quickest = float("inf")
    for _ in range(TRIES):
        start = time.monotonic()
        try:
            call()
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            quickest = min(quickest, time.monotonic() - start)
            if quickest < TIMEOUT_MS / 1000 * 0.8:
                return "refused"
            continue
        return "goes"
    return "waits"


def test_waits_are_those_of_sqlite(database: Database, rng: random.Random) -> None:
    keeper = Asking(database)
    control.keep(keeper)
    control.operate(0)
    seen: dict[str, int] = {"goes": 0, "refused": 0, "waits": 0}
    start = time.monotonic()
    while time.monotonic() < start + (3 if min(seen.values()) else 30):
        run_program(database, keeper, rng, seen)
        database.restore()
    assert min(seen.values()) >= 1, seen


def run_program(
    database: Database, keeper: Asking, rng: random.Random, seen: dict[str, int]
) -> None:
    clients = [Client(database) for _ in range(rng.choice([2, 2, 3]))]
    story: list[str] = []
    for _ in range(14):
        who = rng.randrange(len(clients))
        sql, call = clients[who].next(rng)
        keeper.needed = frozenset()
        answer = attempt(call)
        story.append(f"{who}: {sql or 'finish'} -> {answer}")
        waits = "waits" if keeper.needed else "goes or is refused"
        assert (waits == "waits") == (answer == "waits"), waits + "\n" + "\n".join(story)
        seen[answer] += 1
        if answer == "waits" and sql in {"COMMIT", "RELEASE a"}:
            break  # it keeps PENDING, which the model does not know and never takes
    for client in clients:
        client.connection.close()


def test_who_was_refused_and_sleeps_tries_again_when_the_writer_is_done(
    database: Database,
) -> None:
    keeper = Asking(database, timeout_ms=0)
    control.keep(keeper)
    control.operate(0)
    one, another = connect(database), connect(database)
    another.execute("BEGIN")
    another.execute("SELECT * FROM stock").fetchall()
    one.execute("BEGIN IMMEDIATE")
    control.operate(1)
    time.sleep(60)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        another.execute(WRITES[0])
    assert not keeper.needed
    time.sleep(60)
    another.execute("ROLLBACK")
    assert not keeper.needed
    another.execute("BEGIN")
    assert keeper.needed
    another.execute("SELECT * FROM stock").fetchall()
    assert not keeper.needed
    one.close()
    another.close()
