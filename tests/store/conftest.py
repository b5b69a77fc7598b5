"""A store of the test's own, sync and async, and a connection beside it that is no store's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from tests.store.models import Account, Base, Counted

from crowdsafe import Settings, Store


def prepare(url: str) -> None:
    with Store(url) as store:
        store.create_all(Base.metadata)
        store.write(
            lambda session: session.add_all(
                [Account(id=1, balance=0), Account(id=2, balance=0), Counted(id=1)]
            )
        )


@pytest.fixture
def url(db_url: str) -> str:
    """A fresh database with the tables and two accounts."""
    prepare(db_url)
    return db_url


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[..., Store]]:
    """Open stores on the test's database, with the settings that are given; closed afterwards."""
    opened: list[Store] = []

    def open_one(**settings: Any) -> Store:
        opened.append(Store(url, Settings(**settings)))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def outsider(url: str) -> Iterator[Engine]:
    """An engine that knows nothing of crowdsafe."""
    from crowdsafe.store.database import parse_url

    engine = create_engine(parse_url(url))
    yield engine
    engine.dispose()


class Gate:
    """Stops whoever comes to it in the middle of a write or a read, until it is opened."""

    def __init__(self, outsider: Engine) -> None:
        self._opened, self._somebody = threading.Event(), threading.Event()
        self._key = outsider.connect() if outsider.dialect.name == "postgresql" else None
        if self._key:
            self._key.execute(text("SELECT pg_advisory_xact_lock(7)"))

    def stop(self, session: Session, *_: Any) -> None:
        """Wait here. The database waits, where a wait in Python would stop an event loop too."""
        if self._key:
            session.execute(text("SELECT pg_advisory_xact_lock(7)"))
            return
        self._somebody.set()
        assert self._opened.wait(60), "nobody opened the gate"

    def reached(self) -> None:
        """Return when somebody waits; AssertionError when nobody comes."""
        if not self._key:
            assert self._somebody.wait(30), "nobody came to the gate"
            return
        waiting = text(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE locktype = 'advisory' AND NOT granted AND d.datname = current_database()"
        )
        end = time.monotonic() + 30
        while not self._key.execute(waiting).scalar_one():
            assert time.monotonic() < end, "nobody came to the gate"
            time.sleep(0.01)

    def open(self) -> None:
        """Let everybody pass, now and later."""
        self._opened.set()
        if self._key:
            self._key.close()


@pytest.fixture
def gate(outsider: Engine) -> Iterator[Gate]:
    """A gate on the test's database, opened at the latest when the test ends."""
    made = Gate(outsider)
    yield made
    made.open()
