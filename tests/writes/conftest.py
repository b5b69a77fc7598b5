"""Every part is checked for every kind of caller, on both databases, at two isolation levels."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.support.pg_server import PgServer
from tests.writes.callers import (
    Call,
    Outcome,
    Pair,
    from_sessions,
    from_tasks,
    from_threads,
)
from tests.writes.models import Base

from crowdsafe import Store

CASES = [
    ("sqlite", "threads", None),
    ("sqlite", "tasks", None),
    ("sqlite", "processes", None),
    ("sqlite", "sessions", None),
    ("postgresql", "threads", "serializable"),
    ("postgresql", "threads", "read committed"),
    ("postgresql", "tasks", "serializable"),
    ("postgresql", "tasks", "read committed"),
    ("postgresql", "processes", "serializable"),
    ("postgresql", "processes", "read committed"),
    ("postgresql", "sessions", None),
]


class Crowd:
    """A fresh database, and callers of one kind at one isolation level."""

    def __init__(self, url: str, run: Callable[..., list[Outcome]], isolation: Any) -> None:
        self.url = url
        self._run = run
        self._isolation = isolation

    @property
    def by_store(self) -> bool:
        """Whether the store runs what the database broke off once more."""
        return self._run is not from_sessions

    def run(self, todo: Sequence[Call]) -> list[Outcome]:
        """Release all calls at once; their outcomes, in order."""
        return self._run(self.url, self._isolation, todo)

    def do(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One write of its own, before or after the crowd."""
        with Store(self.url) as store:
            return store.write(fn, *args, **kwargs)

    def add(self, *rows: Any) -> None:
        self.do(lambda session: session.add_all(rows))


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    processes = Pair()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(empty_sqlite: Path, tmp_path: Path) -> str:
    """A fresh SQLite file with all tables."""
    return f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'test.db')}"


@pytest.fixture(scope="session")
def shared_pg(pg_server: PgServer) -> Iterator[tuple[PgServer, str]]:
    """A PostgreSQL database with all tables, for one test after the other."""
    name = f"writes_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    prepare(pg_server.url(name))
    yield pg_server, name
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def pg_url(shared_pg: tuple[PgServer, str]) -> str:
    """The shared database, emptied."""
    server, name = shared_pg
    server.kill_connections(name)
    rows = server.execute(
        "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
        "WHERE schemaname = 'public' AND tablename <> 'crowdsafe_schema'",
        name,
    )
    server.execute(f"TRUNCATE {rows[0][0]} RESTART IDENTITY", name)
    return server.url(name)


@pytest.fixture(
    params=[
        pytest.param(
            case,
            id="-".join(word.replace(" ", "_") for word in case if word),
            marks=[pytest.mark.postgres] if case[0] == "postgresql" else [],
        )
        for case in CASES
    ]
)
def crowd(request: pytest.FixtureRequest) -> Crowd:
    """Each kind of caller in turn."""
    database, kind, isolation = request.param
    url = request.getfixturevalue("sqlite_url" if database == "sqlite" else "pg_url")
    if kind == "processes":
        return Crowd(url, request.getfixturevalue("pair"), isolation)
    run = {"threads": from_threads, "tasks": from_tasks, "sessions": from_sessions}[kind]
    return Crowd(url, run, isolation)


@pytest.fixture
def naive(db_url: str) -> Crowd:
    """Callers with plain sessions at the database's default level: where naive code goes wrong."""
    return Crowd(db_url, from_sessions, None)


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    with Store(db_url) as opened:
        yield opened


@pytest.fixture
def session(store: Store) -> Iterator[Session]:
    """A plain session of the test's own beside the store."""
    engine = create_engine(store.url)
    with Session(engine) as own:
        yield own
    engine.dispose()


def prepare(url: str) -> None:
    with Store(url) as store:
        store.create_all(Base.metadata)
