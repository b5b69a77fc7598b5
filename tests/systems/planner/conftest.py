"""Fixtures of the planner's tests: two server processes on one database, and their upstream."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pg_server import PgServer
from tests.systems.planner.site import Site, running_site
from tests.systems.planner.upstream import LiveUpstream, live_upstream

LEASE = {"CROWDSAFE_PLANNER_LEASE_S": "3"}
TIGHT = {
    "CROWDSAFE_PLANNER_RUNNING_MAX": "2",
    "CROWDSAFE_PLANNER_QUEUED_MAX": "6",
    "CROWDSAFE_PLANNER_QUEUED_PER_USER_MAX": "3",
    "CROWDSAFE_PLANNER_BREAKER_COOLDOWN_S": "1",
    "CROWDSAFE_PLANNER_IP_RATE": "20/minute",
    "CROWDSAFE_TRUSTED_PROXIES": "127.0.0.0/8",
}
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[LiveUpstream]:
    """The upstream of the shared sites."""
    with live_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared_upstream: LiveUpstream) -> Iterator[LiveUpstream]:
    """The shared sites' upstream, quick and without faults before and after each test."""
    shared_upstream.reset()
    yield shared_upstream
    shared_upstream.reset()


@contextmanager
def _site(
    request: pytest.FixtureRequest, folder: Path, upstream: LiveUpstream, env: Mapping[str, str]
) -> Iterator[Site]:
    settings = {**LEASE, "CROWDSAFE_PLANNER_UPSTREAM_URL": upstream.base_url, **env}
    if request.param == "sqlite":
        with running_site(f"sqlite:///{folder / 'site.db'}", folder, env=settings) as site:
            yield site
        return
    server: PgServer = request.getfixturevalue("pg_server")
    name = f"t_{uuid.uuid4().hex[:16]}"
    server.execute(f"CREATE DATABASE {name}")
    with running_site(server.url(name), folder, env=settings) as site:
        yield site
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session", params=BACKENDS)
def shared_site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_upstream: LiveUpstream,
) -> Iterator[Site]:
    """Two server processes on one database, shared by the tests that leave them running."""
    with _site(request, tmp_path_factory.mktemp("planner"), shared_upstream, {}) as site:
        yield site


@pytest.fixture(scope="session", params=BACKENDS)
def shared_tight_site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_upstream: LiveUpstream,
) -> Iterator[Site]:
    """As ``shared_site``, with limits so low that a test can meet them, behind a proxy."""
    folder = tmp_path_factory.mktemp("tight")
    with _site(request, folder, shared_upstream, TIGHT) as site:
        site.behind_proxy = True
        yield site


@pytest.fixture
def site(shared_site: Site, upstream: LiveUpstream) -> Iterator[Site]:
    """The shared site; after each test its database is checked by plain SQL."""
    yield shared_site
    shared_site.cancel_all()
    shared_site.quiet()
    assert shared_site.broken() == []


@pytest.fixture
def tight_site(shared_tight_site: Site, upstream: LiveUpstream) -> Iterator[Site]:
    """The shared site with low limits, likewise."""
    yield shared_tight_site
    shared_tight_site.cancel_all()
    shared_tight_site.quiet()
    assert shared_tight_site.broken() == []
