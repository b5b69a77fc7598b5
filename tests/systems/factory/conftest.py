"""Fixtures of the factory's tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.support.pg_server import PgServer
from tests.systems.factory.plant import Plant, broken
from tests.systems.factory.site import Site, running_site


@pytest.fixture
def plant(db_url: str) -> Iterator[Plant]:
    """A small plant, once on SQLite and once on PostgreSQL; checked by plain SQL at the end."""
    plant = Plant(db_url)
    try:
        yield plant
        wrong = [line for line in broken(db_url) if "factory.order" not in line]
        assert wrong == []
    finally:
        plant.close()


@pytest.fixture(
    scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def shared_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Two server processes on one database, shared by the tests that leave them running."""
    folder = tmp_path_factory.mktemp("site")
    if request.param == "sqlite":
        with running_site(f"sqlite:///{folder / 'site.db'}", folder) as site:
            yield site
        return
    server: PgServer = request.getfixturevalue("pg_server")
    name = f"t_{uuid.uuid4().hex[:16]}"
    server.execute(f"CREATE DATABASE {name}")
    with running_site(server.url(name), folder) as site:
        yield site
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The shared site; after each test its database is checked by plain SQL."""
    yield shared_site
    assert [line for line in shared_site.broken() if "factory.order" not in line] == []
