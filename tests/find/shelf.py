"""One row of stock in a SQLite file, and what callers do with it: some racy, some safe."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from crowdsafe.find.session import Session
from crowdsafe.find.stage import Job
from crowdsafe.find.targets import Call, call

__all__ = ["Shelf"]


class Shelf:
    """``operations`` by name; ``released`` lets those go on that hang."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shelf.db"
        self.url = f"sqlite:///{self.path}"
        self.released = threading.Event()
        self.times = 0
        with closing(self._connect()) as db:
            db.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER, note TEXT)")
            db.execute("CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT, n INT)")
            db.execute("INSERT INTO stock VALUES (1, 10, '')")

    def session(self, *names: str, **options: object) -> Session:
        return Session(Job(None, self.calls(*names), self.url, **options))  # type: ignore[arg-type]

    def calls(self, *names: str) -> tuple[Call, ...]:
        return tuple(call(getattr(self, name), name=name) for name in names)

    def rows(self) -> list[tuple[object, ...]]:
        with closing(self._connect()) as db:
            return db.execute("SELECT * FROM stock").fetchall()

    def sell(self) -> int:
        """Racy: what it read may be gone when it writes."""
        with closing(self._connect()) as db:
            (n,) = db.execute("SELECT n FROM stock").fetchone()
            db.execute("UPDATE stock SET n = ?", (n - 1,))
        return int(n)

    def sell_safely(self) -> int:
        with closing(self._connect()) as db:
            return db.execute("UPDATE stock SET n = n - 1 WHERE n > 0").rowcount

    def sell_last(self) -> int:
        """Safe; refused after the first."""
        with closing(self._connect()) as db:
            if db.execute("UPDATE stock SET n = 0 WHERE n > 0").rowcount != 1:
                raise LookupError("sold out")
        return 1

    def refuse(self) -> None:
        with closing(self._connect()) as db:
            db.execute("UPDATE stock SET n = n WHERE n > 1000")
        raise LookupError("never")

    def count_in_memory(self) -> int:
        """Another answer each time, whatever the order."""
        self.times += 1
        with closing(self._connect()) as db:
            db.execute("UPDATE stock SET n = ?", (self.times * 3,))
        return self.times

    def add_other(self) -> None:
        with closing(self._connect()) as db:
            db.execute("INSERT INTO other (n) VALUES (1)")

    def create(self) -> None:
        with closing(self._connect()) as db:
            db.execute("CREATE TABLE made (id INTEGER PRIMARY KEY)")

    def nothing(self) -> None:
        return None

    def hang(self) -> None:
        self.sell_safely()
        self.released.wait(20)

    def hang_the_third_time(self) -> None:
        self.sell_safely()
        self.times += 1
        if self.times == 3:
            self.released.wait(20)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None)
