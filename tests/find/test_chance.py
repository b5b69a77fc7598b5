"""A target that gives something else each time one after another is not judged by that."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing

from crowdsafe.find import find
from crowdsafe.find.model import Anomaly, Finding, Verdict
from tests.find.shelf import Shelf


def only(shelf: Shelf, operation: object) -> Finding:
    (finding,) = find(None, [operation], database=shelf.url).findings
    return finding


def test_rows_that_come_by_chance_are_told(shelf: Shelf) -> None:
    turns = itertools.cycle([1, 1, 0, 2, 0, 1, 0])

    def add_some() -> None:
        with closing(sqlite3.connect(shelf.path)) as db, db:
            for _ in range(next(turns)):
                db.execute("INSERT INTO other (n) VALUES (1)")
            db.execute("UPDATE stock SET n = n WHERE id = 1")

    finding = only(shelf, add_some)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "in the same order" in finding.reason
    assert "new rows in other" in finding.reason


def test_what_changed_in_the_process_meanwhile_is_no_race(shelf: Shelf) -> None:
    """From the tenth call on there is a row more, in whatever order, and each time again."""
    turns = itertools.count(1)

    def add_later() -> None:
        with closing(sqlite3.connect(shelf.path)) as db, db:
            if next(turns) >= 10:
                db.execute("INSERT INTO other (n) VALUES (1)")
            db.execute("UPDATE stock SET n = n WHERE id = 1")

    finding = only(shelf, add_later)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "in the same order" in finding.reason


def test_answers_that_come_by_chance_prove_nothing(shelf: Shelf) -> None:
    turns = itertools.count()

    def sell_safely() -> list[int]:
        with closing(sqlite3.connect(shelf.path)) as db, db:
            db.execute("UPDATE stock SET n = n - 1 WHERE id = 1")
        return [7] * (next(turns) * 5 % 7)

    finding = only(shelf, sell_safely)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "in the same order" in finding.reason


def test_rows_that_are_lost_are_told_whatever_the_answer(shelf: Shelf) -> None:
    turns = itertools.count()

    def sell() -> list[int]:
        with closing(sqlite3.connect(shelf.path)) as db:
            (n,) = db.execute("SELECT n FROM stock WHERE id = 1").fetchone()
            db.execute("UPDATE stock SET n = ? WHERE id = 1", (n - 1,))
            db.commit()
        return [7] * (next(turns) * 5 % 7)

    finding = only(shelf, sell)
    assert (finding.verdict, finding.anomaly) == (Verdict.RACE, Anomaly.LOST_UPDATE)
