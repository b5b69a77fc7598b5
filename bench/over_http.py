"""POST /stock/allocate on the real server against the endpoint that everybody writes first."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from sqlalchemy import make_url
from tests.support.pg_server import ROOT
from tests.support.servers import free_port, running_server

from bench.databases import Postgres, fill
from bench.goals import Comparison, Goal, Row, counted
from bench.measure import Cell, Plan, Results, ratio

PASSWORD = "crowd"
LONGER, LEAST_S = 1.5, 1.0
"""Times a cell's usual seconds, and no less than so many: an answer can take half of one."""
RECEIVED = 50_000_000
BODY = {"product_id": 1, "client_id": 1, "quantity": 1}
ENGINES = ("PostgreSQL", "SQLite")


class Target(Protocol):
    """One endpoint of one running server."""

    name: str
    peer_of: str | None
    port: int
    path: str
    token: str

    def on_hand(self) -> int: ...


@dataclass(slots=True)
class Factory:
    """crowdsafe's own."""

    name: str
    port: int
    token: str
    peer_of: str | None = None
    path: str = "/factory/api/stock/allocate"

    def on_hand(self) -> int:
        """What the server says is left."""
        query = f"client_id={BODY['client_id']}&product_id={BODY['product_id']}"
        page = _get(self.port, f"/factory/api/stock?{query}", self.token)
        return int(page["items"][0]["on_hand"])


@dataclass(slots=True)
class Plain:
    """An endpoint of `bench.naive_app`."""

    name: str
    port: int
    path: str
    peer_of: str | None
    token: str = ""

    def on_hand(self) -> int:
        """What its table says is left."""
        return int(_get(self.port, f"/on-hand/{BODY['product_id']}", ""))


def compare(postgres: Postgres, folder: Path, plan: Plan) -> Comparison:
    """Both databases; all servers up at once, one crowd at a time."""
    results: Results = {}
    oversold: dict[tuple[str, int], int] = {}
    with contextlib.ExitStack() as stack:
        targets: list[Target] = []
        for engine in ENGINES:
            targets += _targets(engine, postgres, folder, stack)
        for users in plan.callers:
            for turn in range(plan.rounds):
                shift = turn % len(targets)
                for target in [*targets[shift:], *targets[:shift]]:
                    cell = results.setdefault((target.name, users), Cell())
                    key = (target.name, users)
                    oversold[key] = oversold.get(key, 0) + _crowd(target, users, plan, cell)
    goals = [
        Goal(f"POST /stock/allocate on {engine}, 64 users: against naive read-then-write",
             _ours(engine), _naive(engine), 64, 1)
        for engine in ENGINES
    ]  # fmt: skip
    about = (
        "One worker process, users on kept-alive connections from another process, all after one "
        "stock row. crowdsafe checks the token and the role and writes the movement, the "
        "reservation and the feed event; the naive endpoint does none of that and reads, then "
        "writes back; the one by hand uses a conditional UPDATE and writes a movement. Oversold: "
        "pieces handed out that the stock still has."
    )
    return Comparison(
        "http", "HTTP, POST /stock/allocate", about, _rows(targets, results, oversold, plan),
        [verdict for goal in goals if (verdict := goal.judge(results))], ["errors", "oversold"],
        counts_lost=False,
    )  # fmt: skip


def _ours(engine: str) -> str:
    return f"{engine}: crowdsafe serve"


def _naive(engine: str) -> str:
    return f"{engine}: plain FastAPI, naive"


def _targets(
    engine: str, postgres: Postgres, folder: Path, stack: contextlib.ExitStack
) -> list[Target]:
    if engine == "PostgreSQL":
        postgres.server.execute("CREATE DATABASE bench_factory")
        factory_url, plain_url = postgres.server.url("bench_factory"), postgres.database()
        driver = "postgresql+psycopg"
    else:
        factory_url = f"sqlite:///{folder / 'factory.db'}"
        plain_url = f"sqlite:///{folder / 'plain.db'}"
        fill(plain_url)
        driver = "sqlite+aiosqlite"
    environment = {"CROWDSAFE_DEMO_PASSWORD": PASSWORD}
    data = folder / f"data-{engine}"
    server = stack.enter_context(running_server(factory_url, data, env=environment))
    token = _stocked(server.port)
    async_url = make_url(plain_url).set(drivername=driver)
    port = stack.enter_context(_plain_server(async_url.render_as_string(hide_password=False)))
    ours = _ours(engine)
    return [
        Factory(ours, server.port, token),
        Plain(_naive(engine), port, "/naive/stock/allocate", ours),
        Plain(f"{engine}: plain FastAPI, right by hand", port, "/right/stock/allocate", ours),
    ]


def _stocked(port: int) -> str:
    """Log in and receive stock; the token."""
    login = {"username": "admin", "password": PASSWORD}
    token = str(_post(port, "/auth/login", login, "")["access_token"])
    _post(port, "/factory/api/stock/receive", BODY | {"quantity": RECEIVED}, token)
    return token


@contextlib.contextmanager
def _plain_server(url: str) -> Iterator[int]:
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "bench.naive_app:app", "--host", "127.0.0.1",
        "--port", str(port), "--no-access-log", "--log-level", "error", "--backlog", "2048",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"BENCH_DATABASE": url}) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            _get(port, "/on-hand/1", "")
        except httpx.TransportError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the plain server did not start") from error
            time.sleep(0.05)
        else:
            return


def _crowd(target: Target, users: int, plan: Plan, cell: Cell) -> int:
    """One round of one cell; how many pieces were handed out that are still there."""
    before = target.on_hand()
    command = [
        sys.executable, "-m", "bench.http_client", str(target.port), target.path,
        json.dumps(BODY), "--token", target.token, "--users", str(users),
        "--seconds", str(max(LEAST_S, plan.cell_s * LONGER)), "--warm", str(plan.warm_s),
    ]  # fmt: skip
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True)
    done: dict[str, Any] = json.loads(output.stdout)
    answered = len(done["latencies_s"])
    cell.rates.append(answered / done["took_s"])
    cell.latencies_s += done["latencies_s"]
    cell.errors.update(done["errors"])
    return answered + int(done["in_warm_up"]) - (before - target.on_hand())


def _rows(
    targets: Sequence[Target], results: Results, oversold: dict[tuple[str, int], int], plan: Plan
) -> list[Row]:
    rows = []
    for users in plan.callers:
        for each in targets:
            cell = results[each.name, users]
            ours_is = ratio(results, each.peer_of, each.name, users) if each.peer_of else None
            rows.append(
                Row(str(users), each.name, cell.rate, (min(cell.rates), max(cell.rates)),
                    cell.quantile_ms(0.5), cell.quantile_ms(0.99), ours_is,
                    [counted(cell.errors), f"{oversold[each.name, users]:,}"])
            )  # fmt: skip
    return rows


def _post(port: int, path: str, body: dict[str, Any], token: str) -> Any:
    answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, headers=_bearer(token))
    answer.raise_for_status()
    return answer.json()


def _get(port: int, path: str, token: str) -> Any:
    answer = httpx.get(f"http://127.0.0.1:{port}{path}", headers=_bearer(token))
    answer.raise_for_status()
    return answer.json()


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
