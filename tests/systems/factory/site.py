"""The factory over HTTP: two server processes on one database, and a crowd that calls both."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.servers import Server, start_server
from tests.systems.factory.plant import broken

API = "/factory/api"
TIMEOUT_S = 30.0
CONNECTIONS_MAX = 64


@dataclass
class Call:
    """One request, and whose."""

    method: str
    path: str
    body: Any = None
    user: str = "admin"
    headers: dict[str, str] = field(default_factory=dict)


class Site:
    """Two servers on one database; everything goes to them in turn."""

    def __init__(self, url: str, servers: Sequence[Server]) -> None:
        self.url = url
        self.servers = list(servers)
        self._tokens: dict[str, str] = {}
        self._count = itertools.count(1)
        self._turn = itertools.cycle(range(len(self.servers)))
        self.client = httpx.Client(timeout=TIMEOUT_S)

    def token(self, user: str) -> str:
        """An access token of a demo login."""
        if user not in self._tokens:
            answer = self.client.post(
                f"{self.servers[0].base_url}/auth/login",
                json={"username": user, "password": "crowd"},
            )
            self._tokens[user] = answer.raise_for_status().json()["access_token"]
        return self._tokens[user]

    def request(self, call: Call, server: int | None = None) -> tuple[str, str, dict[str, Any]]:
        """Method, address and the rest of a request."""
        base = self.servers[next(self._turn) if server is None else server].base_url
        headers = {"Authorization": f"Bearer {self.token(call.user)}", **call.headers}
        rest: dict[str, Any] = {"headers": headers}
        if call.body is not None:
            rest["json"] = call.body
        return call.method, f"{base}{API}{call.path}", rest

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: str = "admin",
        server: int | None = None,
        **headers: str,
    ) -> httpx.Response:
        """Send one request; header names with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        made = self.request(Call(method, path, body, user, named), server)
        return self.client.request(made[0], made[1], **made[2])

    def get(self, path: str) -> Any:
        """What a GET answers with 200."""
        answer = self.send("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        """What a POST answers with success."""
        answer = self.send("POST", path, body, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def at_once(self, calls: Sequence[Call]) -> list[httpx.Response]:
        """Send all at the same moment, to the two servers in turn; no answer may be a 5xx."""
        made = [self.request(call, index % len(self.servers)) for index, call in enumerate(calls)]

        async def run() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
            async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
                return await asyncio.gather(
                    *(client.request(method, url, **rest) for method, url, rest in made)
                )

        answers = asyncio.run(run())
        assert not [a.text for a in answers if a.status_code >= 500]
        for answer in answers:
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
        return answers

    def fresh_pair(self) -> dict[str, int]:
        """A new client and a new product, as the ids that stock operations take."""
        number = next(self._count)
        client = self.post("/clients", {"name": f"Client {number}", "contact_name": "Jane Roe"})
        product = self.post(
            "/products", {"code": f"T-{number}", "name": "Core", "unit_price_cents": 74}
        )
        return {"client_id": client["id"], "product_id": product["id"]}

    def order(self, quantity: int = 4000) -> dict[str, Any]:
        """A new order with one item."""
        pair = self.fresh_pair()
        body = {
            "client_id": pair["client_id"],
            "items": [{"product_id": pair["product_id"], "quantity": quantity}],
        }
        return dict(self.post("/orders", body))

    def employee(self, **balances: int) -> int:
        """A new employee."""
        body = {"name": "Liam Foster", "hourly_rate_cents": 3000, **balances}
        return int(self.post("/employees", body)["id"])

    def leave(self, employee_id: int, hours: float, kind: str = "annual") -> int:
        """A new request for leave."""
        body = {
            "employee_id": employee_id,
            "kind": kind,
            "start_date": "2026-11-16",
            "end_date": "2026-11-27",
            "hours": hours,
        }
        return int(self.post("/leave", body)["id"])

    def submitted_week(self) -> int:
        """A timesheet of a new employee that waits for approval."""
        body = {
            "employee_id": self.employee(),
            "week_start": "2026-11-16",
            "minutes": [456] * 5 + [0, 0],
        }
        sheet = self.post("/timesheets", body)["id"]
        self.post(f"/timesheets/{sheet}/submit")
        return int(sheet)

    def broken(self) -> list[str]:
        """What is wrong in the database."""
        return broken(self.url)

    @contextmanager
    def following(self, server: int, user: str = "admin") -> Iterator[Iterator[dict[str, Any]]]:
        """The live feed of one server, as events {id, event, data}."""
        url = f"{self.servers[server].base_url}{API}/events"
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        with self.client.stream("GET", url, headers=headers, timeout=10) as stream:
            assert stream.status_code == 200
            yield _events(stream.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "event"):
            event[name] = value
        elif name == "data":
            event["data"] = json.loads(value)
        elif not line and "event" in event:
            yield event
            event = {}


@contextmanager
def running_site(url: str, folder: Path, servers: int = 2) -> Iterator[Site]:
    """That many servers on one database, with demo logins."""
    started: list[Server] = []
    try:
        started.extend(start_server(url, folder / f"server-{n}") for n in range(servers))
        site = Site(url, started)
        yield site
        site.client.close()
    except BaseException:
        for server in started:
            print(f"--- output of the server on port {server.port}\n{server.output()}")
        raise
    finally:
        for server in started:
            server.stop()
