"""A store of the test's own, sync and async, and a connection beside it that is no store's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
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
