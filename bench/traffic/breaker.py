"""Circuit breakers: how many probes half-open lets through, and what a closed one costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import valkey.asyncio

from bench.findings import Findings, Table, always, cells
from bench.measure import Plan
from bench.place import Place
from bench.rounds import Figures, Trial, interleaved, within
from crowdsafe.errors import BreakerOpen
from crowdsafe.store import AsyncStore
from crowdsafe.traffic.breaker import (
    BreakerSettings,
    DatabaseBreaker,
    InProcessBreaker,
    ValkeyBreaker,
)

T = TypeVar("T")

CALLERS, FAILURES = 50, 3
COOLDOWN_S, PROBE_TAKES_S = 0.3, 0.2
SETTLE_S = 1.2
"""From the last failure to the probes: the jittered cool-down, and more than what is known of a
shared breaker may be old."""
LIMIT_S = 30.0
CALLS_A_LOOK = 50


class Breaker(Protocol):
    """What every contender offers."""

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T: ...


@dataclass(slots=True)
class Naive:
    """A counter, a moment, and three states: half-open is whoever comes after the cool-down."""

    failures: int = 0
    opened_s: float | None = None

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        if self.opened_s is not None and time.monotonic() < self.opened_s + COOLDOWN_S:
            raise BreakerOpen("open")
        try:
            value = await fn()
        except Exception:
            self.failures += 1
            if self.failures >= FAILURES:
                self.opened_s = time.monotonic()
            raise
        self.failures, self.opened_s = 0, None
        return value


Opened = AbstractAsyncContextManager[Breaker]


def _settings() -> BreakerSettings:
    return BreakerSettings(failures=FAILURES, cooldown_s=COOLDOWN_S, cooldown_max_s=COOLDOWN_S)


@asynccontextmanager
async def _naive(_url: str) -> AsyncIterator[Breaker]:
    yield Naive()


@asynccontextmanager
async def _in_process(_url: str) -> AsyncIterator[Breaker]:
    yield InProcessBreaker("bench", _settings())


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Breaker]:
    async with AsyncStore(url) as store:
        await store.create_all()
        yield DatabaseBreaker(store, "bench", _settings())


@asynccontextmanager
async def _valkey(url: str) -> AsyncIterator[Breaker]:
    async with valkey.asyncio.Valkey.from_url(url) as client:
        yield ValkeyBreaker(client, "bench", _settings())


@dataclass(frozen=True, slots=True)
class Kind:
    """A breaker: its label, how to open it, and where it is kept."""

    name: str
    open: Callable[[str], Opened]
    where: str = "memory"
    clients: int = field(default=1)

    def url(self, place: Place) -> str:
        """Somewhere that holds nothing yet."""
        if self.where == "sqlite":
            return place.sqlite_url()
        if self.where == "postgres":
            return place.postgres_url()
        return place.valkey_url() if self.where == "valkey" else ""


KINDS = (
    Kind("crowdsafe: InProcessBreaker", _in_process),
    Kind("crowdsafe: DatabaseBreaker, SQLite", _database, "sqlite", 2),
    Kind("crowdsafe: DatabaseBreaker, PostgreSQL", _database, "postgres", 2),
    Kind("crowdsafe: ValkeyBreaker", _valkey, "valkey", 2),
    Kind("naive: open until a moment", _naive),
)
OURS = tuple(kind.name for kind in KINDS if kind.name.startswith("crowdsafe"))


def compare(place: Place, plan: Plan) -> Findings:
    """Each backend, and the naive one."""
    trials = [_trial(kind, place, plan) for kind in KINDS]
    found = interleaved(trials, 1 if plan.quick else 2)
    columns = [("probes", ".0f"), ("refused", ".0f"), ("closed_per_s", ",.0f")]
    about = (
        f"A breaker that {FAILURES} failures opened; after its cool-down {CALLERS} callers come at "
        "once, for a shared one through two clients with connections of their own: how many of "
        "them reach the service that was down. Closed: calls per second of one caller through a "
        "closed breaker, of a function that does nothing."
    )
    return Findings(
        "breaker", "Circuit breaker, half-open", about,
        [Table(["contender", f"probes of {CALLERS}", "refused", "closed, calls per second",
                "note"], cells(found, columns))],
        [always(f"breaker: probes of {CALLERS} callers in half-open, on each backend", found, OURS,
                "probes", 1)],
    )  # fmt: skip


def _trial(kind: Kind, place: Place, plan: Plan) -> Trial:
    async def run() -> Figures:
        url = kind.url(place)
        async with AsyncExitStack() as stack:
            breakers = [
                await stack.enter_async_context(kind.open(url)) for _ in range(kind.clients)
            ]
            closed_per_s = await _closed(breakers[0], plan.cell_s / 4)
            return {"closed_per_s": closed_per_s} | await _half_open(breakers)

    return Trial(kind.name, within(LIMIT_S, run))


async def _closed(breaker: Breaker, seconds: float) -> float:
    async def nothing() -> None:
        return None

    done = 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        for _ in range(CALLS_A_LOOK):
            await breaker.call(nothing)
        done += CALLS_A_LOOK
    return done / (time.perf_counter() - began)


async def _half_open(breakers: list[Breaker]) -> Figures:
    reached = 0

    async def down() -> None:
        raise ConnectionError("down")

    async def back() -> None:
        nonlocal reached
        reached += 1
        await asyncio.sleep(PROBE_TAKES_S)

    for _ in range(FAILURES):
        try:
            await breakers[0].call(down)
        except ConnectionError:
            continue
    await asyncio.sleep(SETTLE_S)
    calls = (breakers[number % len(breakers)].call(back) for number in range(CALLERS))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = sum(isinstance(outcome, BreakerOpen) for outcome in outcomes)
    if refused + reached != CALLERS:
        raise RuntimeError(f"{CALLERS - refused - reached} calls ended some other way")
    return {"probes": reached, "refused": refused}
