"""The engine on real databases, through the gates of their drivers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from crowdsafe.find.database import Database, open_database
from crowdsafe.find.engine import Budget, Controller, Search, in_order
from crowdsafe.find.gates import install
from crowdsafe.find.model import Run, Schedule
from tests.find.engine.rig import Task

Statement = tuple[str, tuple[Any, ...]]
TAKE = "UPDATE stock SET qty = qty - ? WHERE id = 1 AND qty >= ?"
ENTER = "INSERT INTO ledger (item, q) VALUES (1, ?)"


@dataclass
class Bench:
    """A database with a shelf of 100, a controller, and connections as the target makes them."""

    database: Database
    controller: Controller
    connect: Callable[[], Any]

    def sql(self, text: str) -> str:
        return text.replace("?", "%s") if self.database.dialect == "postgresql" else text

    def search(self, tasks: list[Task], budget: Budget | None = None) -> tuple[Search, list[Any]]:
        found: list[Any] = []

        def after(run: Run) -> None:
            found.append((self.stock(), [answer.replies[0].body for answer in run.answers]))

        search = Search(
            self.controller,
            tasks,
            reset=self.database.restore,
            after=after,
            budget=budget or Budget(2000, 60),
        )
        for run in search:
            assert run.problem is None
        return search, found

    def replay(self, tasks: list[Task], schedule: Schedule) -> Run:
        self.database.restore()
        return self.controller.replay(tasks, schedule)

    def stock(self) -> tuple[int, ...]:
        return tuple(row[1] for row in self.database.read()["stock"].rows)


@pytest.fixture
def bench(db_url: str) -> Iterator[Bench]:
    pg = db_url.startswith("postgresql")

    def connect() -> Any:
        if pg:
            return psycopg.connect(db_url)
        return sqlite3.connect(db_url.removeprefix("sqlite:///"))

    key = "serial primary key" if pg else "integer primary key"
    made = connect()
    for text in (
        "CREATE TABLE stock (id int primary key, qty int not null)",
        f"CREATE TABLE ledger (id {key}, item int references stock (id), q int not null)",
        "INSERT INTO stock VALUES (1, 100), (2, 100)",
    ):
        made.execute(text)
    made.commit()
    made.close()
    database = open_database(db_url)
    undo = install(database.dialect, database.redirect)
    try:
        database.keep()
        with Controller(database, hang_s=20) as controller:
            yield Bench(database, controller, connect)
    finally:
        undo()
        database.close()


def racy(bench: Bench, quantity: int) -> Task:
    def take() -> str:
        connection = bench.connect()
        try:
            (there,) = connection.execute("SELECT qty FROM stock WHERE id = 1").fetchone()
            if there < quantity:
                connection.rollback()
                return "none left"
            text = bench.sql("UPDATE stock SET qty = ? WHERE id = 1")
            connection.execute(text, (there - quantity,))
            connection.commit()
            return "taken"
        finally:
            connection.close()

    return Task(take, "racy")


def guarded(bench: Bench, quantity: int) -> Task:
    def take() -> str:
        connection = bench.connect()
        try:
            taken = connection.execute(bench.sql(TAKE), (quantity, quantity))
            if taken.rowcount == 0:
                connection.rollback()
                return "none left"
            connection.execute(bench.sql(ENTER), (quantity,))
            connection.commit()
            return "taken"
        finally:
            connection.close()

    return Task(take, "guarded")


def test_a_lost_update_is_found_within_three_schedules(bench: Bench) -> None:
    _, found = bench.search([racy(bench, 80), racy(bench, 80)], Budget(3, 60))
    assert ((20, 100), ["taken", "taken"]) in found


def test_guarded_updates_of_three_are_proven_with_few_schedules(bench: Bench) -> None:
    search, found = bench.search([guarded(bench, 40) for _ in range(3)])
    assert search.complete, search.why_not
    assert search.schedules <= 72
    assert {stock for stock, _ in found} == {(20, 100)}
    assert {tuple(answers).count("taken") for _, answers in found} == {2}
    assert len({tuple(answers) for _, answers in found}) == 3, "each of them can be the late one"


def test_a_schedule_gives_the_same_run_ten_times(bench: Bench) -> None:
    search, _ = bench.search([racy(bench, 80), guarded(bench, 30)], Budget(4, 60))
    assert search.schedules == 4
    tasks = [racy(bench, 80), guarded(bench, 30)]
    first = bench.replay(tasks, ((0, 1), (1, 2), (0, 1), (1, 1), (0, 1)))
    schedule = first.schedule if first.problem else ((0, 1), (1, 2), (0, 1), (1, 1), (0, 1))
    runs = [bench.replay(tasks, schedule) for _ in range(10)]
    told = {
        tuple((s.operation, s.sql, s.rowcount, s.waited_for, s.error) for s in run.steps)
        for run in runs
    }
    assert len(told) == 1


def test_one_after_another_nobody_waits(bench: Bench) -> None:
    run = bench.replay([guarded(bench, 40) for _ in range(3)], in_order((2, 0, 1)))
    assert run.problem is None
    assert not any(step.waited_for for step in run.steps)
    assert [answer.replies[0].body for answer in run.answers] == ["taken", "none left", "taken"]


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_rows_of_other_keys_do_not_matter(bench: Bench) -> None:
    def changes(key: int) -> Task:
        def change() -> None:
            connection = bench.connect()
            text = bench.sql("UPDATE stock SET qty = qty - 1 WHERE id = ?")
            connection.execute(text, (key,))
            connection.commit()
            connection.close()

        return Task(change)

    search, _ = bench.search([changes(1), changes(2)])
    assert (search.complete, search.schedules) == (True, 1)


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_who_closes_a_circle_is_ended_each_time(bench: Bench) -> None:
    def both(*keys: int) -> Task:
        def change() -> str:
            connection = bench.connect()
            try:
                for key in keys:
                    text = "UPDATE stock SET qty = qty - 1 WHERE id = %s"
                    connection.execute(text, (key,))
                connection.commit()
            except psycopg.errors.DeadlockDetected:
                return "deadlock"
            finally:
                connection.close()
            return "done"

        return Task(change)

    tasks = [both(1, 2), both(2, 1)]
    for _ in range(5):
        run = bench.replay(tasks, ((0, 1), (1, 2), (0, 2), (1, 1)))
        assert [answer.replies[0].body for answer in run.answers] == ["deadlock", "done"]
        assert run.deadlocked
    search, found = bench.search(tasks)
    assert search.complete, search.why_not
    assert {tuple(answers) for _, answers in found} == {
        ("done", "done"),
        ("deadlock", "done"),
        ("done", "deadlock"),
    }


@pytest.mark.postgres
def test_what_a_snapshot_hides_is_tried(pg_url: str) -> None:
    """At REPEATABLE READ the first statement of a transaction takes the snapshot of all."""
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE stock (id int primary key, qty int not null)")
        connection.execute("CREATE TABLE price (id int primary key, cents int not null)")
        connection.execute("INSERT INTO stock VALUES (1, 100)")
        connection.execute("INSERT INTO price VALUES (1, 100)")
    database = open_database(pg_url)
    undo = install(database.dialect, database.redirect)

    def reads() -> tuple[int, int]:
        connection = psycopg.connect(pg_url)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection:
            (stock,) = connection.execute("SELECT qty FROM stock").fetchone() or (0,)
            (price,) = connection.execute("SELECT cents FROM price").fetchone() or (0,)
        return stock, price

    def writes() -> None:
        with psycopg.connect(pg_url) as connection:
            connection.execute("UPDATE price SET cents = 200")
            connection.execute("UPDATE stock SET qty = 50")

    seen: set[Any] = set()
    try:
        database.keep()
        with Controller(database) as controller:
            search = Search(
                controller,
                [Task(reads), Task(writes)],
                reset=database.restore,
                after=lambda run: seen.add(run.answers[0].replies[0].body),
            )
            assert all(run.problem is None for run in search)
    finally:
        undo()
        database.close()
    assert search.complete, search.why_not
    assert seen == {(100, 100), (50, 200)}
    assert search.schedules <= 6


@pytest.mark.postgres
def test_a_skewed_pair_is_seen_to_fail_at_serializable(pg_url: str) -> None:
    """Each of two takes itself off duty when the other is on; SERIALIZABLE ends one of them."""
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE duty (id int primary key, on_duty bool not null)")
        connection.execute("INSERT INTO duty VALUES (1, true), (2, true)")
    database = open_database(pg_url)
    undo = install(database.dialect, database.redirect)

    def leaves(key: int) -> Task:
        def leave() -> str:
            connection = psycopg.connect(pg_url)
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            try:
                text = "SELECT count(*) FROM duty WHERE on_duty"
                (count,) = connection.execute(text).fetchone() or (0,)
                if count < 2:
                    return "stays"
                connection.execute("UPDATE duty SET on_duty = false WHERE id = %s", (key,))
                connection.commit()
            except psycopg.errors.SerializationFailure:
                return "failed"
            finally:
                connection.close()
            return "left"

        return Task(leave)

    seen: set[tuple[str, ...]] = set()
    try:
        database.keep()
        with Controller(database) as controller:
            search = Search(
                controller,
                [leaves(1), leaves(2)],
                reset=database.restore,
                after=lambda run: seen.add(tuple(a.replies[0].body for a in run.answers)),
            )
            assert all(run.problem is None for run in search)
    finally:
        undo()
        database.close()
    assert search.complete, search.why_not
    assert {("left", "stays"), ("stays", "left")} <= seen
    assert ("left", "left") not in seen
    assert any("failed" in outcome for outcome in seen)
