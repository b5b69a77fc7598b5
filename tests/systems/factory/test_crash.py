"""kill -9 of a server in mid-load, again and again; then the database is asked what it holds.

Two servers on one database work for a crowd; one of them, by chance, is killed at a random moment
and started anew. After each kill, plain SQL checks that received + movements = on_hand >= 0, that
numbers have no gap, that an order is invoiced once, that leave is approved if and only if it is
deducted and that approved weeks are paid once. What was answered with success is there, and what
got no answer is repeated under its Idempotency-Key and happens once.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.support.servers import start_server
from tests.systems.factory.site import Call, Site, running_site

CALLERS = 6
STEP_S_MAX = 20.0


@dataclass
class Ground:
    """What the crowd works on, and what it was promised."""

    pair: dict[str, int]
    orders: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    weeks: list[int] = field(default_factory=list)
    allocated: dict[str, int] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    unanswered: list[Call] = field(default_factory=list)
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def working(site: Site, ground: Ground, rng: random.Random) -> Iterator[None]:
    """A crowd at work for the length of a block."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_work, args=(site, ground, random.Random(rng.random()), stop))
        for _ in range(CALLERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(STEP_S_MAX)
            assert not thread.is_alive(), "a call neither was answered nor failed"


def _work(site: Site, ground: Ground, rng: random.Random, stop: threading.Event) -> None:
    with httpx.Client(timeout=STEP_S_MAX) as client:
        while not stop.is_set():
            call = rng.choice(_STEPS)(ground, rng)
            if not _send(site, ground, client, call, rng.randrange(2)):
                time.sleep(0.05)


def _send(site: Site, ground: Ground, client: httpx.Client, call: Call, server: int) -> bool:
    """Send one call; what it got is noted. False when nobody answered."""
    method, url, rest = site.request(call, server)
    try:
        answer = client.request(method, url, **rest)
    except httpx.TransportError:
        with ground.lock:
            ground.unanswered.append(call)
        return False
    with ground.lock:
        ground.answered += 1
        if answer.status_code >= 500 and answer.status_code != 503:
            ground.wrong.append(answer.text)
        if answer.is_success:
            _note(ground, call, answer.json())
    return True


def _note(ground: Ground, call: Call, said: dict[str, Any]) -> None:
    if call.path == "/stock/allocate":
        ground.allocated[call.body["order_reference"]] = said["movement_id"]
    elif call.path == "/orders":
        ground.orders.append(said["id"])
        ground.numbers.add(said["number"])
    elif call.path.endswith("/invoice"):
        ground.numbers.add(said["number"])


def _keyed(path: str, body: Any = None) -> Call:
    return Call("POST", path, body, headers={"Idempotency-Key": uuid.uuid4().hex})


def _allocate(ground: Ground, rng: random.Random) -> Call:
    label = f"job {uuid.uuid4().hex}"
    body = {**ground.pair, "quantity": rng.randint(1, 9), "order_reference": label}
    return _keyed("/stock/allocate", body)


def _receive(ground: Ground, rng: random.Random) -> Call:
    return _keyed("/stock/receive", {**ground.pair, "quantity": rng.randint(1, 20)})


def _enter(ground: Ground, rng: random.Random) -> Call:
    item = {"product_id": ground.pair["product_id"], "quantity": rng.randint(1, 100)}
    return _keyed("/orders", {"client_id": ground.pair["client_id"], "items": [item] * 2})


def _invoice(ground: Ground, rng: random.Random) -> Call:
    return _keyed(f"/orders/{rng.choice(ground.orders[-8:])}/invoice")


def _approve_leave(ground: Ground, rng: random.Random) -> Call:
    return _keyed(f"/leave/{rng.choice(ground.leaves)}/{rng.choice(('approve', 'cancel'))}")


def _approve_week(ground: Ground, rng: random.Random) -> Call:
    verb = rng.choice(("approve", "approve", "reopen", "submit"))
    return _keyed(f"/timesheets/{rng.choice(ground.weeks)}/{verb}")


_STEPS: list[Callable[[Ground, random.Random], Call]] = [
    _allocate,
    _allocate,
    _receive,
    _enter,
    _invoice,
    _invoice,
    _approve_leave,
    _approve_week,
]


def _new_ground(site: Site) -> Ground:
    ground = Ground(site.fresh_pair())
    site.post("/stock/receive", {**ground.pair, "quantity": 500})
    ground.orders = [site.order(10)["id"] for _ in range(2)]
    _more_staff_work(site, ground)
    return ground


def _more_staff_work(site: Site, ground: Ground) -> None:
    """Fresh leave requests and weeks, since those of the last round are decided."""
    employee = site.employee(sick_minutes=2000)
    ground.leaves = [site.leave(employee, 7.6, "sick") for _ in range(8)]
    ground.weeks = [site.submitted_week() for _ in range(2)]


def _kill_and_check(site: Site, folder: Path, rng: random.Random, kills: int) -> None:
    ground = _new_ground(site)
    for kill in range(kills):
        ground.unanswered.clear()
        victim = rng.randrange(2)
        with working(site, ground, rng):
            time.sleep(rng.uniform(0.1, 0.9))
            site.servers[victim].kill9()
            time.sleep(rng.uniform(0.0, 0.1))
        assert ground.wrong == []
        assert site.broken() == [], f"after kill {kill + 1}"
        _check_promises(site, ground)
        old = site.servers[victim]
        site.servers[victim] = start_server(site.url, folder / f"again-{kill}", port=old.port)
        _repeat_unanswered(site, ground)
        assert site.broken() == [], f"after repeating what kill {kill + 1} left unanswered"
        _check_promises(site, ground)
        if kill + 1 < kills:
            _more_staff_work(site, ground)
    assert ground.answered > 10 * kills, "the load was none"


def _repeat_unanswered(site: Site, ground: Ground) -> None:
    """Under the same keys, at either server: each happens once, or already did."""
    with httpx.Client(timeout=STEP_S_MAX) as client:
        for call in list(ground.unanswered):
            assert _send(site, ground, client, call, 0)
            assert _send(site, ground, client, call, 1)


def _check_promises(site: Site, ground: Ground) -> None:
    """What was answered with success is in the database, once."""
    engine = create_engine(site.url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            references = connection.execute(
                text(
                    "SELECT reference, id FROM factory_stock_movements "
                    "WHERE kind = 'allocation' AND reference LIKE 'job %'"
                )
            ).all()
            numbers = set(connection.execute(text("SELECT number FROM factory_orders")).scalars())
            numbers |= set(
                connection.execute(text("SELECT number FROM factory_invoices")).scalars()
            )
            twice = connection.execute(
                text("SELECT order_id FROM factory_invoices GROUP BY order_id HAVING COUNT(*) > 1")
            ).all()
    finally:
        engine.dispose()
        stored = {row.reference: row.id for row in references}
    assert len(stored) == len(references)
    assert {key: stored.get(key) for key in ground.allocated} == ground.allocated
    assert ground.numbers <= numbers
    assert twice == []


def test_nothing_is_lost_or_doubled_by_5_kills(
    db_url: str, tmp_path: Path, rng: random.Random
) -> None:
    with running_site(db_url, tmp_path) as site:
        try:
            _kill_and_check(site, tmp_path, rng, 5)
        finally:
            _stop_all(site)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_is_lost_or_doubled_by_50_kills(
    db_url: str, tmp_path: Path, rng: random.Random
) -> None:
    with running_site(db_url, tmp_path) as site:
        try:
            _kill_and_check(site, tmp_path, rng, 50)
        finally:
            _stop_all(site)


def _stop_all(site: Site) -> None:
    """The servers that were started in place of killed ones, too."""
    for server in site.servers:
        server.stop()
