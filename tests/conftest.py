"""Fixtures that every test may use: databases that are real, a seeded source of chance."""

from __future__ import annotations

import os
import random
import shutil
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from valkey.asyncio import Valkey

from tests.support.lock import locked
from tests.support.pg_server import PgServer
from tests.support.valkey_server import DATABASES, ValkeyServer

SEED = pytest.StashKey[int]()

# A machine that is busy says nothing about what a test shows.
settings.register_profile(
    "steady", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def find_chromium() -> str | None:
    """The browser for tests of pages: $CROWDSAFE_CHROMIUM, or one on the PATH."""
    names = (os.environ.get("CROWDSAFE_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium() is None:
        skip = pytest.mark.skip(reason="no Chromium found: apt install chromium")
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def pg_server(tmp_path_factory: pytest.TempPathFactory) -> PgServer:
    """One PostgreSQL for the whole run, shared by the workers: never stop or restart this one."""
    folder, watch_pid = _whole_run(tmp_path_factory)
    note = folder / "pg-base"
    with locked(folder / "pg-lock"):
        if note.exists():
            return PgServer(Path(note.read_text()))
        server = PgServer.create(watch_pid=watch_pid)
        note.write_text(str(server.base))
        return server


def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder, and the id of a process, that all workers of this run have in common."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        return folder.parent, os.getppid()
    return folder, os.getpid()


@pytest.fixture(scope="session")
def pg_server_url(pg_server: PgServer) -> str:
    """Address of the shared server's `postgres` database: for CREATE DATABASE and the like."""
    return pg_server.url("postgres")


@pytest.fixture(scope="session")
def spare_databases() -> list[str]:
    """Databases of the shared server that are empty again: emptying is quicker than making."""
    return []


@pytest.fixture
def pg_url(pg_server: PgServer, spare_databases: list[str]) -> Iterator[str]:
    """An empty PostgreSQL database of the test's own, whose name no other test has or had."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    if not (spare_databases and pg_server.rename(spare_databases.pop(), name)):
        pg_server.execute(f"CREATE DATABASE {name}")
    yield pg_server.url(name)
    if pg_server.empty(name):
        spare_databases.append(name)


@pytest.fixture
def own_pg_server() -> Iterator[PgServer]:
    """A PostgreSQL server of the test's own, to stop, restart and kill."""
    with PgServer.create() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> ValkeyServer:
    """One Valkey for the whole run, shared by the workers: never stop or restart this one."""
    folder, watch_pid = _whole_run(tmp_path_factory)
    note = folder / "valkey-base"
    with locked(folder / "valkey-lock"):
        if note.exists():
            return ValkeyServer(Path(note.read_text()))
        server = ValkeyServer.create(watch_pid=watch_pid)
        note.write_text(str(server.base))
        return server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """An empty database of the shared Valkey, which no other worker uses."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    database = int(worker) % DATABASES
    valkey_server.execute("FLUSHDB", database=database)
    return valkey_server.url(database)


@pytest.fixture
def valkey(valkey_url: str) -> Valkey:
    """A client of `valkey_url`, not connected yet: use it inside `async with valkey:`, which
    closes its connections while their event loop still runs."""
    return Valkey.from_url(valkey_url)


@pytest.fixture
def own_valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey server of the test's own, to stop, restart, freeze and kill."""
    with ValkeyServer.create() as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db_url(request: pytest.FixtureRequest) -> str:
    """A fresh database, once on SQLite and once on PostgreSQL."""
    fixture = "sqlite_url" if request.param == "sqlite" else "pg_url"
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance with a seed, which a failure prints and CROWDSAFE_TEST_SEED brings back."""
    seed = int(os.environ.get("CROWDSAFE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    request.node.stash[SEED] = seed
    return random.Random(seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seed = item.stash.get(SEED, None)
    if seed is not None and report.failed:
        report.sections.append(("seed", f"replay with CROWDSAFE_TEST_SEED={seed}"))
    return report
