"""Databases with the tables of traffic in them, for one test after the other."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pg_server import PgServer
from tests.traffic.limits_crowd import Pair
from tests.traffic.queue_help import Base

from crowdsafe.store import Store


def _prepare(url: str) -> None:
    with Store(url) as store:
        store.create_all(Base.metadata)


@pytest.fixture(scope="session")
def queue_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("queue") / "empty.db"
    _prepare(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def queue_pg(pg_server: PgServer) -> Iterator[tuple[PgServer, str]]:
    """A PostgreSQL database with all tables."""
    name = f"queue_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    _prepare(pg_server.url(name))
    yield pg_server, name
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def queue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty queue, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        empty = request.getfixturevalue("queue_sqlite")
        return f"sqlite:///{shutil.copy(empty, tmp_path / 'queue.db')}"
    server, name = request.getfixturevalue("queue_pg")
    server.kill_connections(name)
    server.execute("TRUNCATE crowdsafe_jobs, crowdsafe_queues, effects RESTART IDENTITY", name)
    return str(server.url(name))


@pytest.fixture(scope="session")
def limits_pg(pg_server: PgServer) -> Iterator[tuple[PgServer, str]]:
    """A PostgreSQL database for limits, with their tables."""
    name = f"limits_{uuid.uuid4().hex[:16]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    _prepare(pg_server.url(name))
    yield pg_server, name
    pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "valkey"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What processes can share limits through, empty, by the URL of its server."""
    if request.param == "sqlite":
        empty = request.getfixturevalue("queue_sqlite")
        return f"sqlite:///{shutil.copy(empty, tmp_path / 'limits.db')}"
    if request.param == "valkey":
        return str(request.getfixturevalue("valkey_url"))
    server, name = request.getfixturevalue("limits_pg")
    server.kill_connections(name)
    server.execute("TRUNCATE crowdsafe_rates, crowdsafe_slots", name)
    return str(server.url(name))


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two other processes, which drive limits at the same time."""
    processes = Pair()
    yield processes
    processes.close()
