"""What the recorder tries, and what it tries again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crowdsafe.find.model import Verdict
from crowdsafe.find.recording.places import Everywhere, Places
from crowdsafe.find.recording.recorder import Recorder
from crowdsafe.find.targets.functions import FunctionOperation, call


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder(budget_s=10)
    stop = recorder.start()
    yield recorder
    stop()


class Shop:
    """A stock of which 60 are taken at a time, and 50 delivered."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def ask(self, *statements: str) -> int:
        with closing(sqlite3.connect(self.file)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
            return int(connection.execute("select on_hand from stock").fetchone()[0])

    def fill(self, on_hand: int) -> None:
        self.ask(
            "drop table if exists stock",
            "create table stock (on_hand int)",
            f"insert into stock values ({on_hand})",
        )

    def deliver(self) -> None:
        self.ask("update stock set on_hand = on_hand + 50")

    def take(self) -> None:
        on_hand = self.ask()
        if on_hand < 60:
            raise ValueError("sold out")
        self.ask(f"update stock set on_hand = {on_hand - 60}")


def seen(recorder: Recorder, function: Callable[[], None]) -> None:
    recorder.saw("CALL", FunctionOperation(call(function)), None)


def test_what_was_refused_is_tried_again_when_it_succeeds(
    recorder: Recorder, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "shop.db")
    shop.fill(0)
    recorder.begin("first")
    seen(recorder, shop.deliver)
    shop.deliver()
    seen(recorder, shop.take)  # 50 are there: refused alone, and not after one more delivery
    told = {finding.operations for finding in recorder.findings}
    assert told == {("Shop.deliver()",) * 2, ("Shop.take()", "Shop.deliver()")}
    assert "Shop.take()" in recorder.declined

    shop.fill(100)
    recorder.begin("second")
    seen(recorder, shop.take)
    assert recorder.findings[-1].operations == ("Shop.take()",) * 2
    assert recorder.findings[-1].verdict is Verdict.RACE
    assert "Shop.take()" not in recorder.declined
    assert shop.ask() == 100


def test_what_is_refused_each_time_is_not_tried_for_ever(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path / "shop.db")
    shop.fill(0)
    looks = []
    stage = recorder._stage
    monkeypatch.setattr(recorder, "_stage", lambda operations: looks.append(1) or stage(operations))
    for number in range(5):
        recorder.begin(f"test {number}")
        seen(recorder, shop.take)
    assert len(looks) == 3
    assert recorder.findings == []


def test_the_same_is_not_tried_twice(recorder: Recorder, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop.db")
    shop.fill(100)
    for number in range(2):
        recorder.begin(f"test {number}")
        seen(recorder, shop.deliver)
    assert len(recorder.findings) == 1


def test_what_an_open_connection_tells_of_itself_keeps_the_name_that_it_was_made_with() -> None:
    """psycopg's ``info`` has the host, the port and the database, and others are made between."""
    places = Places()
    everywhere = Everywhere("postgresql", places)
    shop = {"host": "127.0.0.1", "port": 5432, "dbname": "shop"}
    everywhere.postgres({**shop, "user": "mara", "password": "secret"})
    everywhere.postgres({**shop, "user": "tom", "dbname": "postgres"})
    assert everywhere.postgres_names_original(shop)
    assert places.latest == "postgresql://mara:secret@127.0.0.1:5432/shop"


def test_a_database_that_cannot_be_connected_to_is_declined_and_breaks_no_test() -> None:
    recorder = Recorder(database="postgresql://mara@127.0.0.1:1/shop", budget_s=10)
    stop = recorder.start()
    try:
        recorder.begin("test_shop")
        seen(recorder, lambda: None)
    finally:
        stop()
    (reason,) = recorder.declined.values()
    assert "cannot be connected to" in reason and "--find-races-database" in reason
