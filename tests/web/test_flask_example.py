"""The example applications as real processes: one operation, two frameworks, one stock."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_S_MAX = 20.0


@contextmanager
def example(name: str, database: str) -> Iterator[httpx.Client]:
    """`python examples/name.py`, until it answers; ended afterwards."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, f"examples/{name}.py", "--port", str(port), "--database", database],
        cwd=ROOT,
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S_MAX)
    try:
        end = time.monotonic() + WAIT_S_MAX
        while True:
            assert process.poll() is None, "the example ended"
            assert time.monotonic() < end, "the example does not answer"
            try:
                assert client.get("/stock").json() == [{"product_id": 7, "on_hand": 100}]
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield client
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(5)
        finally:
            process.kill()
            process.wait()


def allocate(client: httpx.Client, **more: object) -> httpx.Response:
    return client.post("/stock/allocate", json={"product_id": 7, "quantity": 80, **more})


@pytest.mark.parametrize("name", ["flask_stock", "fastapi_stock"])
def test_two_times_80_of_100_at_once(db_url: str, name: str) -> None:
    with example(name, db_url) as client, ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda _: allocate(client), range(2))]
        yes, no = sorted(answers, key=lambda answer: answer.status_code)
        assert yes.status_code == 200
        assert yes.json()["allocated_quantity"] == 80
        assert yes.json()["remaining_stock"] == 20
        assert no.status_code == 400
        assert no.headers["content-type"] == "application/problem+json"
        assert no.json()["type"] == "/problems/insufficient"
        assert no.json()["available"] == 20
        assert client.get("/stock").json() == [{"product_id": 7, "on_hand": 20}]


def test_both_frameworks_sell_from_one_stock_at_once(db_url: str) -> None:
    with (
        example("flask_stock", db_url) as flask,
        example("fastapi_stock", db_url) as fastapi,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = [
            *pool.map(
                lambda n: allocate((flask, fastapi)[n % 2], quantity=7).status_code, range(40)
            )
        ]
        assert answers.count(200) == 14
        assert answers.count(400) == 26
        assert flask.get("/stock").json() == fastapi.get("/stock").json()
        with fastapi.stream("GET", "/events", params={"last_event_id": "0"}) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            levels = [next(lines) for _ in range(14)]
        assert levels[-1] == 'data: {"product_id":7,"on_hand":2}'


@pytest.mark.parametrize("name", ["flask_stock", "fastapi_stock"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"quantity": 0}, 422),
        ({"quantity": -5}, 422),
        ({"quantity": 10**30}, 422),
        ({"quantity": "80"}, 422),
        ({"quantity": 1.5}, 422),
        ({"quantity": None}, 422),
        ({"product_id": 8}, 404),
        ({"product_id": "x"}, 422),
        ({"product_id": None}, 422),
        ({"product_id": 10**30}, 422),
        ({"product_id": {"a": 1}}, 422),
    ],
)
def test_bad_input_is_a_clear_refusal(
    started: dict[str, httpx.Client], name: str, body: dict[str, object], status: int
) -> None:
    client = started[name]
    answer = allocate(client, **body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    assert client.get("/stock").json() == [{"product_id": 7, "on_hand": 100}]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    database = f"sqlite:///{tmp_path_factory.mktemp('stock') / 'stock.db'}"
    with example("flask_stock", database) as flask, example("fastapi_stock", database) as fastapi:
        yield {"flask_stock": flask, "fastapi_stock": fastapi}
