"""Bodies over real sockets: too large with a length and without one, too slow, cut off."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.web.live import live
from tests.web.small import make_app

from crowdsafe.web.fastapi import Limits
from crowdsafe.web.limits import Guard

MEGABYTE = 1_000_000


@pytest.fixture
def server(sqlite_url: str) -> Iterator[str]:
    with live(make_app(sqlite_url, limits=Limits(body_wait_s=0.5))) as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; reads until the server closes."""
    data = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


def pour(connection: socket.socket, chunk: bytes, times: int) -> int:
    """Send a chunk again and again; returns how many bytes went out before the server closed."""
    sent = 0
    for _ in range(times):
        try:
            connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            break
        sent += len(chunk)
    return sent


def is_413(connection: socket.socket) -> None:
    status, headers, body = answer_of(connection)
    assert status == 413
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["type"] == "/problems/body-too-large"
    assert problem["limit_bytes"] == MEGABYTE


def test_50_mb_with_a_length_is_refused_at_once_without_reading_it(server: str) -> None:
    began = time.monotonic()
    with connect(server) as connection:
        connection.sendall(
            b"POST /sales HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 50000000\r\n\r\n"
        )
        is_413(connection)
    assert time.monotonic() - began < 3


def test_50_mb_sent_all_the_same_is_not_read_to_the_end(server: str) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /sales HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 50000000\r\n\r\n"
        )
        assert pour(connection, b" " * 100_000, 500) < 25 * MEGABYTE
        is_413(connection)


def test_50_mb_in_chunks_without_a_length(server: str) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /sales HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
        assert pour(connection, chunk, 500) < 25 * MEGABYTE
        is_413(connection)


def test_a_client_that_asks_first_is_not_told_to_go_on(server: str) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /sales HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 50000000\r\n\r\n"
        )
        is_413(connection)


def test_an_ordinary_client_sees_the_413(server: str) -> None:
    answer = httpx.post(f"{server}/sales", content=b" " * 50 * MEGABYTE, timeout=10)
    assert answer.status_code == 413
    assert httpx.get(f"{server}/slow?seconds=0").status_code == 200


def test_the_limit_itself_is_let_through(server: str) -> None:
    padded = b'{"product": "core"}'.ljust(MEGABYTE)
    json_type = {"content-type": "application/json"}
    answer = httpx.post(f"{server}/sales", content=padded, headers=json_type)
    assert answer.status_code == 401
    answer = httpx.post(f"{server}/sales", content=padded + b" ", headers=json_type)
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(server: str) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /sales HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        status, headers, body = answer_of(connection)
    assert status == 408
    assert headers["connection"] == "close"
    assert json.loads(body)["type"] == "/problems/request-timeout"


def test_a_client_that_leaves_midway_harms_nobody(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(b"POST /sales HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    assert httpx.get(f"{server}/slow?seconds=0").status_code == 200
    assert "Traceback" not in caplog.text


def test_it_reads_on_for_a_moment_so_that_the_sender_sees_the_answer() -> None:
    """Closing at once can reset the connection, and the 413 is lost with it."""
    taken: list[int] = []
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        taken.append(len(sent))
        return {"type": "http.request", "body": b" " * 100_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def nobody(*_: Any) -> None:
        raise AssertionError("the application was called")

    headers = [(b"content-length", b"50000000")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    asyncio.run(Guard(nobody)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert sent[1]["more_body"] is True
    assert sent[-1]["more_body"] is False
    # Ten more pieces were read, after the answer was sent and before it was finished.
    assert taken == [2] * 10
