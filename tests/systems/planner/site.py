"""The planner over HTTP: server processes on one database, users of the test's own, a crowd."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, text

from crowdsafe.identity.tables import UserRow
from crowdsafe.identity.tokens import Tokens, signing_secret
from crowdsafe.store import Store
from crowdsafe.systems.planner.models import Profile
from tests.support.servers import Server, start_server

API = "/planner/api"
TIMEOUT_S = 60.0
CONNECTIONS_MAX = 128
SECRET = "the tests' payment secret"


@dataclass(frozen=True)
class Person:
    """A login of the test's own, and its access token."""

    id: int
    username: str
    token: str


@dataclass
class Ask:
    """One request, and whose."""

    person: Person | None
    method: str = "POST"
    path: str = "/plans"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def idea(text: str = "", **changes: Any) -> dict[str, Any]:
    """A request for a plan; by itself one that nobody has made before."""
    return {
        "idea": text or f"A shop for second-hand instruments, number {uuid.uuid4().hex}",
        "location": "Hobart, Tasmania",
        "budget": "25k-50k",
        "timeline": "1-year",
        "business_type": "Music shop",
        "currency": "AUD",
        **changes,
    }


class Site:
    """Servers on one database; everything goes to them in turn."""

    def __init__(self, url: str, servers: Sequence[Server], start: Callable[[int], Server]) -> None:
        self.url = url
        self._start = start
        self.behind_proxy = False
        self._people: dict[str, Person] = {}
        self.servers = list(servers)
        self.client = httpx.Client(timeout=TIMEOUT_S)
        self.store = Store(url)
        self._tokens = Tokens(self.store.write(signing_secret))
        self._count = itertools.count(1)

    def close(self) -> None:
        self.client.close()
        self.store.close()

    def start_again(self, number: int) -> None:
        """Start a server in the place of one that has ended."""
        self.servers[number] = self._start(number)
        self.servers[number].wait_ready()

    def person(self, tier: str = "free", roles: Sequence[str] = ("employee",)) -> Person:
        """Somebody new."""
        name = f"p{uuid.uuid4().hex[:12]}"

        def add(session: Any) -> int:
            user = UserRow(username=name, name=name, roles=list(roles), password_hash="none")
            session.add(user)
            session.flush()
            if tier != "free":
                session.add(Profile(user_id=user.id, tier=tier))
            return int(user.id)

        user_id = self.store.write(add)
        person = Person(user_id, name, self._tokens.issue(user_id))
        self._people[str(user_id)] = person
        return person

    def request(self, ask: Ask, server: int | None = None) -> tuple[str, str, dict[str, Any]]:
        """Method, address and the rest of a request."""
        n = next(self._count)
        base = self.servers[n % len(self.servers) if server is None else server].base_url
        headers = dict(ask.headers)
        if self.behind_proxy:
            headers.setdefault("X-Forwarded-For", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}")
        if ask.person is not None:
            headers["Authorization"] = f"Bearer {ask.person.token}"
        rest: dict[str, Any] = {"headers": headers}
        if ask.body is not None:
            rest["json"] = ask.body
        return ask.method, f"{base}{API}{ask.path}", rest

    def send(
        self,
        person: Person | None,
        method: str,
        path: str,
        body: Any = None,
        *,
        server: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request."""
        made = self.request(Ask(person, method, path, body, dict(headers or {})), server)
        return self.client.request(made[0], made[1], **made[2])

    def ask(self, person: Person, body: Any = None, **more: Any) -> httpx.Response:
        """Ask for a plan."""
        return self.send(person, "POST", "/plans", body or idea(), **more)

    def queued(self, person: Person, body: Any = None, **more: Any) -> str:
        """Ask for a plan without waiting for it; the job's id."""
        answer = self.ask(person, body, headers={"Prefer": "respond-async"}, **more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def get(self, person: Person, path: str) -> Any:
        """What a GET answers with 200."""
        answer = self.send(person, "GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def at_once(self, asks: Sequence[Ask]) -> list[httpx.Response]:
        """Send all at the same moment, to the servers in turn."""
        made = [self.request(ask, index % len(self.servers)) for index, ask in enumerate(asks)]

        async def run() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
            async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
                return await asyncio.gather(
                    *(client.request(method, url, **rest) for method, url, rest in made)
                )

        answers = asyncio.run(run())
        for answer in answers:
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
        return answers

    @contextmanager
    def following(self, person: Person, job_id: str, last: int = 0) -> Iterator[Iterator[Any]]:
        """The live events of a job, as {id, event, data}."""
        method, url, rest = self.request(Ask(person, "GET", f"/jobs/{job_id}/events"))
        rest["headers"]["Last-Event-ID"] = str(last)
        with self.client.stream(method, url, timeout=20, **rest) as stream:
            assert stream.status_code == 200
            yield _events(stream.iter_lines())

    def rows(self, query: str, **values: Any) -> list[Any]:
        """Rows by plain SQL."""
        return rows(self.url, query, **values)

    def broken(self) -> list[str]:
        """What is wrong in the database."""
        return broken(self.url)

    def active(self) -> int:
        """Jobs that wait or run."""
        query = """SELECT COUNT(*) FROM crowdsafe_jobs
            WHERE state IN ('queued', 'delayed', 'running')"""
        return int(self.rows(query)[0][0])

    def cancel_all(self) -> None:
        """Cancel what a test has left waiting or running."""
        query = """SELECT public_id, user_key FROM crowdsafe_jobs
            WHERE state IN ('queued', 'delayed', 'running')"""
        for job_id, user in self.rows(query):
            self.send(self._people[user], "DELETE", f"/jobs/{job_id}")

    def quiet(self, within_s: float = 30.0) -> None:
        """Wait until no job waits or runs; AssertionError when that takes too long."""
        until(lambda: self.active() == 0, within_s, "jobs still wait or run")

    def wait_for(self, person: Person, job_id: str, *states: str, within_s: float = 30.0) -> Any:
        """The job once it is in one of these states."""
        seen: list[Any] = []

        def there() -> bool:
            seen.append(self.get(person, f"/jobs/{job_id}"))
            return seen[-1]["state"] in states

        until(there, within_s, f"the job did not become {' or '.join(states)}")
        return seen[-1]

    def charged(self, person: Person) -> int:
        """Units that a user's quota has used, over all days."""
        key = f"planner:plans:{person.id}"
        query = "SELECT COALESCE(SUM(used), 0) FROM crowdsafe_quotas WHERE key = :key"
        return int(self.rows(query, key=key)[0][0])

    def plans(self, person: Person) -> int:
        """Plans that are stored for a user."""
        query = "SELECT COUNT(*) FROM planner_plans WHERE user_id = :id"
        return int(self.rows(query, id=person.id)[0][0])


def until(true: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until it is true; AssertionError after ``within_s`` seconds."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"{what} after {within_s} s"
        time.sleep(0.05)


def together(todo: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the calls give, each from a thread of its own, all released at once."""
    barrier = threading.Barrier(len(todo), timeout=30)

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(todo)) as pool:
        return list(pool.map(one, todo))


def rows(url: str, query: str, **values: Any) -> list[Any]:
    """Rows by plain SQL."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(query), values).all())
    finally:
        engine.dispose()


def statuses(answers: Sequence[httpx.Response]) -> dict[int, int]:
    """How many answers had which status."""
    return dict(Counter(answer.status_code for answer in answers))


_INVARIANTS = {
    "a job that is done has no plan": """
        SELECT j.public_id FROM crowdsafe_jobs j
        LEFT JOIN planner_plans p ON p.job_id = j.public_id
        WHERE j.queue = 'planner' AND j.state = 'done' AND p.id IS NULL""",
    "a plan of a job that is not done": """
        SELECT p.job_id FROM planner_plans p JOIN crowdsafe_jobs j ON p.job_id = j.public_id
        WHERE j.state <> 'done'""",
    "a plan whose unit was not charged": """
        SELECT p.job_id FROM planner_plans p
        LEFT JOIN crowdsafe_quota_reservations r ON r.id = p.job_id
        WHERE r.state IS NULL OR r.state <> 'charged'""",
    "a charge without a plan": """
        SELECT r.id FROM crowdsafe_quota_reservations r
        LEFT JOIN planner_plans p ON p.job_id = r.id
        WHERE r.state = 'charged' AND p.id IS NULL""",
    "plans stored are not units charged": """
        SELECT u.user_id FROM (
            SELECT user_id, COUNT(*) AS plans FROM planner_plans GROUP BY user_id) u
        LEFT JOIN (
            SELECT key, SUM(used) AS used FROM crowdsafe_quotas GROUP BY key) q
        ON q.key = 'planner:plans:' || CAST(u.user_id AS TEXT)
        WHERE q.used IS NULL OR q.used <> u.plans""",
    "a unit held for no job": """
        SELECT r.id FROM crowdsafe_quota_reservations r
        LEFT JOIN crowdsafe_jobs j ON j.public_id = r.id
        WHERE r.state = 'held'
        AND (j.state IS NULL OR j.state NOT IN ('queued', 'delayed', 'running'))""",
    "what is reserved is not what is held": """
        SELECT q.key FROM crowdsafe_quotas q WHERE q.reserved <> (
            SELECT COALESCE(SUM(r.amount), 0) FROM crowdsafe_quota_reservations r
            WHERE r.key = q.key AND r.period = q.period AND r.state = 'held')""",
    "sections saved for a job that has ended": """
        SELECT s.job_id FROM planner_saved_sections s
        JOIN crowdsafe_jobs j ON j.public_id = s.job_id
        WHERE j.state IN ('done', 'failed', 'cancelled')""",
}


def broken(url: str) -> list[str]:
    """What is wrong in the database, by plain SQL that knows nothing of the code under test."""
    level = {} if url.startswith("sqlite") else {"isolation_level": "REPEATABLE READ"}
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), **level)
    try:
        with engine.connect() as connection:
            return [
                f"{name}: {found}"
                for name, query in _INVARIANTS.items()
                if (found := connection.execute(text(query)).scalars().all())
            ]
    finally:
        engine.dispose()


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
def running_site(
    url: str,
    folder: Path,
    *,
    servers: int = 2,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
) -> Iterator[Site]:
    """That many servers on one database; those that a test starts in their place end too."""
    settings = {"CROWDSAFE_PLANNER_PAYMENT_SECRET": SECRET, **(env or {})}
    started: list[Server] = []
    site: Site | None = None

    def start(number: int) -> Server:
        name = f"server-{len(started)}-{number}"
        server = start_server(url, folder / name, env=settings, args=args, demo=False, wait=False)
        started.append(server)
        return server

    try:
        for number in range(servers):
            start(number)
        for server in started:
            server.wait_ready()
        site = Site(url, started, start)
        yield site
    except BaseException:
        for server in started:
            print(f"--- output of the server on port {server.port}\n{server.output()}")
        raise
    finally:
        if site is not None:
            site.close()
        for server in started:
            server.stop()
