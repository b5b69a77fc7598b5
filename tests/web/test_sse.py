"""Server-sent events from a real server: headers, resume, the end of a stream, limits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_S_MAX = 20.0


class Server:
    """tests/web/sse_app.py under uvicorn, as a process of its own."""

    def __init__(self, url: str, **environ: str) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "tests.web.sse_app:app",
             "--port", str(self.port), "--log-level", "warning"],
            cwd=ROOT, env={**os.environ, "SSE_TEST_URL": url, **environ},
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.base_url, timeout=WAIT_S_MAX)
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.http.get("/stats").status_code == 200
        except httpx.TransportError:
            return False

    def say(self, n: int, pad: int = 0) -> None:
        assert self.http.post(f"/say/{n}", params={"pad": pad}).status_code == 200

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self.http.get("/stats").json()
        return found

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def wait_until(done: Any, within_s: float = WAIT_S_MAX) -> None:
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


@pytest.fixture
def server(db_url: str) -> Iterator[Server]:
    server = Server(db_url)
    yield server
    server.close()


@contextmanager
def stream(server: Server, **kwargs: Any) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    with (
        httpx.Client(base_url=server.base_url, timeout=WAIT_S_MAX) as client,
        client.stream("GET", "/events", **kwargs) as response,
    ):
        yield response, response.iter_lines()


def blocks(lines: Iterator[str], count: int) -> list[dict[str, str]]:
    """The next so many blocks."""
    found: list[dict[str, str]] = []
    block: dict[str, str] = {}
    while len(found) < count:
        line = next(lines)
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        else:
            found.append(block)
            block = {}
    return found


def test_headers_and_first_blocks(server: Server) -> None:
    with stream(server) as (response, lines):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        assert blocks(lines, 2) == [{"retry": "1000"}, {"id": "0"}]
        server.say(1)
        assert blocks(lines, 1) == [{"id": "1", "event": "said", "data": '{"n":1,"pad":""}'}]


def test_resume_by_header_which_wins_over_the_query(server: Server) -> None:
    for n in range(1, 5):
        server.say(n)
    with stream(server, headers={"Last-Event-ID": "2"}) as (_, lines):
        assert [block.get("id") for block in blocks(lines, 3)[1:]] == ["3", "4"]
    with stream(server, params={"last_event_id": "1"}) as (_, lines):
        assert [block.get("id") for block in blocks(lines, 4)[1:]] == ["2", "3", "4"]
    both: Any = {"params": {"last_event_id": "1"}, "headers": {"Last-Event-ID": "3"}}
    with stream(server, **both) as (_, lines):
        assert [block.get("id") for block in blocks(lines, 2)[1:]] == ["4"]
    with stream(server, params={"last_event_id": "no-id"}) as (_, lines):
        assert blocks(lines, 2)[1]["event"] == "resync"


def test_a_client_that_leaves_is_forgotten_at_once(server: Server) -> None:
    for _ in range(3):
        with stream(server) as (_, lines):
            blocks(lines, 2)
            assert server.stats()["subscribers"] == 1
        wait_until(lambda: server.stats()["subscribers"] == 0, within_s=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_stops_ends_its_streams(sqlite_url: str, number: signal.Signals) -> None:
    server = Server(sqlite_url)
    try:
        with stream(server) as (_, lines):
            blocks(lines, 2)
            began = time.monotonic()
            server.process.send_signal(number)
            assert list(lines) == []  # ends cleanly: a cut connection would raise
            assert time.monotonic() - began < 3
        # uvicorn raises the signal again once it has shut down.
        assert server.process.wait(5) in (0, -number, 130)
        assert time.monotonic() - began < 6
    finally:
        server.close()


def test_one_stream_too_many_is_a_503_problem(sqlite_url: str) -> None:
    server = Server(sqlite_url, SSE_TEST_MAX="1")
    try:
        with stream(server) as (_, lines):
            blocks(lines, 2)
            with stream(server) as (response, _):
                assert response.status_code == 503
                assert response.headers["content-type"] == "application/problem+json"
                assert response.headers["retry-after"] == "5"
                assert "1 event streams" in response.read().decode()
            assert server.stats()["subscribers"] == 1
        wait_until(lambda: server.stats()["subscribers"] == 0)
        with stream(server) as (response, _):
            assert response.status_code == 200
    finally:
        server.close()


def test_a_client_that_does_not_read_is_dropped_and_the_others_are_served(server: Server) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port))) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stuck.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: server.stats()["subscribers"] == 1)
        with stream(server) as (_, lines):
            blocks(lines, 2)
            n = 0
            while server.stats()["dropped"] == 0:
                n += 1
                assert n < 400
                server.say(n, pad=60_000)
                assert blocks(lines, 1)[0]["id"] == str(n)
            assert server.stats()["subscribers"] == 1
        data = bytearray()
        stuck.settimeout(WAIT_S_MAX)
        while not data.endswith(b"0\r\n\r\n"):
            data += stuck.recv(1_000_000)
        assert b"event: resync" in data[-400:]


def test_a_client_that_changes_servers_misses_nothing(server: Server, db_url: str) -> None:
    """Two server processes on one database, as behind a load balancer."""
    turns, each = 6, 8
    other = Server(db_url)
    seen: list[int] = []
    last = "0"
    try:
        for turn in range(turns):
            at = (server, other)[turn % 2]
            with stream(at, headers={"Last-Event-ID": last}) as (_, lines):
                for n in range(turn * each, (turn + 1) * each):
                    (server, other)[n % 2].say(n)
                leaves_at = turns * each if turn == turns - 1 else turn * each + 5
                while len(seen) < leaves_at:
                    (block,) = blocks(lines, 1)
                    last = block.get("id", last)
                    assert block.get("event") in (None, "said")
                    if "data" in block:
                        seen.append(json.loads(block["data"])["n"])
    finally:
        other.close()
    assert seen == [*range(turns * each)]
