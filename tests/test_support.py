"""The fixtures themselves: the databases are real, apart from each other, and durable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.pg_server import ROOT, PgServer


@pytest.mark.postgres
def test_postgres_is_real_durable_and_ours(pg_server: PgServer, pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        for name, value in {"fsync": "on", "synchronous_commit": "on"}.items():
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)
    assert pg_server.url("postgres").startswith("postgresql://postgres@127.0.0.1:")


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("CREATE TABLE things (id serial); CREATE SCHEMA other; CREATE TABLE other.x ()", True),
        ("ALTER DATABASE {name} SET work_mem = '7MB'", True),
        ("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", True),
        ("ALTER ROLE postgres IN DATABASE {name} SET work_mem = '7MB'", False),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", False),
        ("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC", False),
        ("SELECT lo_create(0)", False),
        ("CREATE PUBLICATION news", False),
    ],
)
def test_a_database_is_emptied_or_dropped(pg_server: PgServer, change: str, kept: bool) -> None:
    name = f"t_emptied_{uuid.uuid4().hex[:12]}"
    pg_server.execute(f"CREATE DATABASE {name}")
    idle = psycopg.connect(pg_server.url(name), autocommit=True)
    idle.execute(change.format(name=name).encode())
    assert pg_server.empty(name) is kept
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    idle.close()
    if kept:
        objects = "SELECT count(*)::int FROM pg_class WHERE oid >= 16384"
        assert pg_server.execute(objects, name) == [(0,)]
        assert pg_server.execute("SHOW work_mem", name) == [("4MB",)]
        assert pg_server.rename(name, f"{name}_2")
        name = f"{name}_2"
        pg_server.execute("CREATE TABLE public.things (id int)", name)
    pg_server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.postgres
def test_own_server_survives_a_crash_with_its_rows(own_pg_server: PgServer) -> None:
    own_pg_server.execute("CREATE TABLE kept (id int)")
    own_pg_server.execute("INSERT INTO kept VALUES (7)")
    own_pg_server.kill9()
    own_pg_server.start()
    assert own_pg_server.execute("SELECT id FROM kept") == [(7,)]


@pytest.mark.postgres
def test_server_goes_when_its_process_is_killed() -> None:
    script = (
        "from tests.support.pg_server import PgServer; import time;"
        "s = PgServer.create(); print(s.base, s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        base, pid = owner.stdout.readline().split()
        owner.kill()
    deadline = time.monotonic() + 15
    while (Path(base).exists() or psutil.pid_exists(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(base).exists()
    assert not psutil.pid_exists(int(pid))


def test_a_failure_prints_the_seed_that_brings_it_back(tmp_path: Path) -> None:
    test = tmp_path / "test_chance.py"
    test.write_text("def test_chance(rng):\n    assert not rng.random(), 'is it so?'\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", "/dev/null", str(test)],
        cwd=ROOT,
        env={**os.environ, "CROWDSAFE_TEST_SEED": "71", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "replay with CROWDSAFE_TEST_SEED=71" in done.stdout
