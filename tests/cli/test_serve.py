"""`crowdsafe serve` as real processes: how it starts, how it ends, how it says what is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import make_url
from tests.support.pg_server import PgServer
from tests.support.ports import free_port
from tests.support.servers import Server, start_server

from crowdsafe.cli import main
from crowdsafe.server.data import database_url
from crowdsafe.store import Store

LOGIN = {"username": "mara", "password": "crowd"}


@contextmanager
def serving(url: str, folder: Path, *, workers: int = 1, demo: bool = True) -> Iterator[Server]:
    server = start_server(url, folder, workers=workers, demo=demo)
    try:
        yield server
    finally:
        server.stop()


def crowdsafe(
    *arguments: str, within_s: float = 30, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "crowdsafe", *arguments],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which is faster."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(str(end.code))
    said = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, code, said.out, said.err)


def runs(process: psutil.Process) -> bool:
    """Whether it is still running; one that only waits to be noticed by its parent is not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.startswith("crowdsafe: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_and_ends_with_code_0(db_url: str, tmp_path: Path, workers: int) -> None:
    with serving(db_url, tmp_path, workers=workers) as server:
        with httpx.Client(base_url=server.base_url, timeout=10) as client:
            assert client.get("/healthz").json() == {"status": "alive"}
            assert client.get("/readyz").json()["status"] == "ready"
            home = client.get("/")
            assert home.status_code == 200
            assert "Misty Manufacturing" in home.text
            assert client.get("/nowhere").json()["type"] == "/problems/not-found"
            document = client.get("/openapi.json").json()
            assert "/factory/api/stock/allocate" in document["paths"]
            login = client.post("/auth/login", json=LOGIN)
            assert login.json()["user"]["name"] == "Mara Lindqvist"
        assert f"http://127.0.0.1:{server.port}" in server.output()
        assert "Mara Lindqvist" in server.output()
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in server.output()


@pytest.mark.parametrize(("workers", "how"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_what_is_in_flight_is_answered(
    sqlite_url: str, tmp_path: Path, workers: int, how: signal.Signals
) -> None:
    async def run(server: Server) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=10, limits=limits) as client:
            calls = [asyncio.create_task(client.post("/auth/login", json=LOGIN)) for _ in range(16)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert sum(call.done() for call in calls) < 12, "too few are still in flight"
            os.kill(server.pid, how)
            return await asyncio.gather(*calls)

    with serving(sqlite_url, tmp_path, workers=workers) as server:
        answers = asyncio.run(run(server))
        assert {answer.status_code for answer in answers} == {200}
        assert server.process.wait(5) == 0
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("released", [True, False])
def test_a_write_that_waits_for_the_database_is_answered(
    sqlite_url: str, tmp_path: Path, released: bool
) -> None:
    """Another process holds the file's write lock while the server is told to stop."""

    async def run(server: Server) -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=10) as client:
            login = await client.post("/auth/login", json={**LOGIN, "username": "admin"})
            client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            stock = (await client.get("/factory/api/stock")).json()["items"][0]
            with closing(
                sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
            ) as lock:
                lock.execute("BEGIN IMMEDIATE")
                body = {
                    "product_id": stock["product_id"],
                    "client_id": stock["client_id"],
                    "quantity": 1,
                }
                call = asyncio.create_task(client.post("/factory/api/stock/receive", json=body))
                await asyncio.sleep(0.3)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.5)
                assert not call.done()
                if released:
                    lock.execute("ROLLBACK")
                return await call

    with serving(sqlite_url, tmp_path) as server:
        began = time.monotonic()
        answer = asyncio.run(run(server))
        if released:
            assert answer.status_code in (200, 201), answer.text
        else:
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/shutting-down"
        assert server.process.wait(6) == 0
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("workers", [1, 2])
def test_a_live_stream_does_not_hold_it_up(sqlite_url: str, tmp_path: Path, workers: int) -> None:
    with serving(sqlite_url, tmp_path, workers=workers) as server:
        with httpx.Client(base_url=server.base_url, timeout=10) as client:
            token = client.post("/auth/login", json=LOGIN).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            with client.stream("GET", "/factory/api/events", headers=headers) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                chunks = stream.iter_raw()
                assert next(chunks)
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                for _ in chunks:
                    pass
        assert server.process.wait(5) == 0
        assert time.monotonic() - began < 5


def test_connections_that_send_no_request_are_closed(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path) as server, ExitStack() as stack:
        silent, slow, stuck = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            for _ in range(3)
        ]
        head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
        slow.sendall(head)
        stuck.sendall(head + b"\r\n")
        assert b"200 OK" in stuck.recv(4096)
        stuck.sendall(head)
        for each in (silent, slow, stuck):
            while each.recv(4096):  # a timeout here is the failure: nobody closed it
                pass
        assert _answer_to_a_head_of(50_000, server.port).startswith(b"HTTP/1.1 200 ")
        assert not _answer_to_a_head_of(8_000_000, server.port).startswith(b"HTTP/1.1 2")
        assert httpx.get(f"{server.base_url}/healthz", timeout=30).status_code == 200


def _answer_to_a_head_of(size: int, port: int) -> bytes:
    """What the server says to a whole head of this size; nothing when it just hangs up."""
    line = b"X-Long: " + b"x" * 990 + b"\r\n"
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + line * (size // 1000) + b"\r\n"
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(head)
        return connection.recv(100)
    return b""


def test_a_dead_worker_is_replaced(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path, workers=2) as server:
        before = {child.pid for child in psutil.Process(server.pid).children()}
        assert len(before) == 2
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            now = {child.pid for child in psutil.Process(server.pid).children()}
            if len(now) == 2 and victim not in now:
                break
            time.sleep(0.05)
        assert len(now) == 2
        assert victim not in now
        for _ in range(20):
            assert httpx.get(f"{server.base_url}/healthz", timeout=10).status_code == 200
        assert server.terminate() == 0
        assert f"worker {victim} ended by signal 9; starting another" in server.output()


def test_workers_end_when_their_parent_is_killed(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path, workers=2) as server:
        children = psutil.Process(server.pid).children()
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 6
        while running := [child for child in children if runs(child)]:
            assert time.monotonic() < deadline, running
            time.sleep(0.05)


def test_workers_that_keep_dying_stop_the_server(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path, workers=1 + 1) as server:
        deadline = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < deadline:
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself, or been replaced
                for child in psutil.Process(server.pid).children():
                    child.kill()
            time.sleep(0.02)
        assert server.process.wait(5) == 1
        assert "look for the cause above" in server.output()


def test_two_servers_started_at_once_on_one_database(db_url: str, tmp_path: Path) -> None:
    servers = [start_server(db_url, tmp_path / name, wait=False) for name in ("one", "two")]
    try:
        for server in servers:
            server.wait_ready()
            login = httpx.post(f"{server.base_url}/auth/login", json=LOGIN, timeout=10)
            assert login.status_code == 200
            # A token of the one is good at the other.
            other = servers[1] if server is servers[0] else servers[0]
            other.wait_ready()
            who = {"Authorization": f"Bearer {login.json()['access_token']}"}
            me = httpx.get(f"{other.base_url}/auth/me", headers=who, timeout=10)
            assert me.json()["username"] == "mara"
    finally:
        for server in servers:
            server.stop()


def test_without_demo_there_is_no_login(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path, demo=False) as server:
        for name in ("admin", "mara"):
            body = {"username": name, "password": "crowd"}
            answer = httpx.post(f"{server.base_url}/auth/login", json=body, timeout=10)
            assert answer.status_code == 401
        added = crowdsafe(
            *("user", "add", "wen", "--role", "manager", "--name", "Wen Zhao"),
            *("--database", sqlite_url, "--password-stdin"),
        )
        assert added.returncode == 2
        assert "8 to 256" in added.stderr


def test_the_demo_password_can_be_chosen(sqlite_url: str, tmp_path: Path) -> None:
    env = {"CROWDSAFE_DEMO_PASSWORD": "other words"}
    server = start_server(sqlite_url, tmp_path, env=env)
    try:
        login = {**LOGIN, "password": "other words"}
        assert httpx.post(f"{server.base_url}/auth/login", json=login).status_code == 200
        assert httpx.post(f"{server.base_url}/auth/login", json=LOGIN).status_code == 401
    finally:
        server.stop()


def test_a_port_in_use(sqlite_url: str, tmp_path: Path) -> None:
    with serving(sqlite_url, tmp_path, demo=False) as server:
        done = crowdsafe("serve", "--port", str(server.port), "--database", sqlite_url)
        one_clear_line(done, str(server.port), "in use", f"--port {server.port + 1}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root@localhost/x", ("sqlite:///", "postgresql://")),
        ("nonsense", ("sqlite:///", "postgresql://")),
        ("sqlite://", ("sqlite:///",)),
        ("sqlite:////usr", ("/usr", "folder")),
        ("postgresql://u:pw-to-hide@127.0.0.1:abc/x", ("port",)),
        ("sqlite:////proc/nowhere/x.db", ("/proc/nowhere",)),
        ("postgresql://u:pw-to-hide@127.0.0.1:1/x", ("connect",)),
        ("postgres://u:pw-to-hide@no-such-host.invalid/x", ("connect",)),
    ],
)
def test_a_wrong_database(
    tmp_path: Path, url: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "serve", "--port", "0", "--database", url, "--data", str(tmp_path))
    one_clear_line(done, *words)
    assert "pw-to-hide" not in done.stderr


@pytest.mark.postgres
def test_a_database_that_does_not_exist(pg_server_url: str, tmp_path: Path) -> None:
    url = pg_server_url.replace("/postgres", "/no_such_database", 1)
    assert url != pg_server_url
    one_clear_line(crowdsafe("serve", "--port", "0", "--database", url), "no_such_database")


@pytest.mark.postgres
def test_a_role_that_may_not_create_tables(pg_server: PgServer, pg_url: str) -> None:
    pg_server.execute("DROP ROLE IF EXISTS reader")
    pg_server.execute("CREATE ROLE reader LOGIN")
    url = str(make_url(pg_url).set(username="reader"))
    one_clear_line(crowdsafe("serve", "--port", "0", "--database", url), "permission denied")


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for folder in (str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/proc/nowhere"):
        done = here(capsys, "serve", "--port", "0", "--data", folder)
        one_clear_line(done, folder, "--data")


def test_a_database_of_a_newer_version(db_url: str, tmp_path: Path) -> None:
    with Store(db_url) as store:
        store.create_all()
        store.write(raise_schema_version)
    done = crowdsafe("serve", "--port", "0", "--database", db_url, "--data", str(tmp_path))
    one_clear_line(done, "version", "upgrade crowdsafe")


def raise_schema_version(session: object) -> None:
    from sqlalchemy import text
    from sqlalchemy.orm import Session

    assert isinstance(session, Session)
    session.execute(text("UPDATE crowdsafe_schema SET version = 1000000"))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_ours(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "serve", "--host", host, "--port", "0", "--data", str(tmp_path))
    one_clear_line(done, host, "--host 127.0.0.1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--port", "99999"),
        ("serve", "--port", "http"),
        ("serve", "--workers", "0"),
        ("serve", "--workers", "65"),
        ("serve", "--colour"),
        ("dance",),
        (),
    ],
)
def test_wrong_use_is_exit_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "usage:" in done.stderr


def test_a_new_data_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert database_url(None, folder) == f"sqlite:///{folder}/crowdsafe.db"
    assert folder.stat().st_mode & 0o077 == 0
    assert list(folder.iterdir()) == []


def test_the_port_that_was_asked_for_and_any_port(tmp_path: Path, sqlite_url: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "crowdsafe.cli", "serve", "--port", "0", "--database", sqlite_url],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split(" at ")[1].split()[0]
        assert httpx.get(f"{address}/healthz", timeout=10).status_code == 200
        assert str(port) not in address
    finally:
        process.terminate()
        assert process.wait(6) == 0
        process.stdout.close()
