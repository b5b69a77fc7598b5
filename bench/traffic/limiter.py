"""Rate limiters: decisions a second, and how much too much the worst window lets through."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.figures import worst_window
from bench.findings import Findings, Table, always, at_least_times, cells
from bench.measure import Plan
from bench.place import Place
from bench.rounds import Figures, Outcomes, Trial, interleaved, within
from bench.traffic import limiter_contenders as by
from bench.traffic.limiter_contenders import Ask, AskAsync, Opened, OpenedAsync

LIMIT = 100
KEYS = 50_000
"""So many that hardly one of them reaches its limit: what it costs to say yes."""
CALLERS, CALLS_A_LOOK = 32, 20
SECONDS_MAX = 60.0
HAMMERS = 2
"""Clients, each with connections of its own, that hammer a shared limiter."""
PAUSE_S_MAX, BURST = 0.3, 60
SEED = 20_26

OURS, OURS_CHECK = "crowdsafe: InProcessLimiter.allow", "crowdsafe: InProcessLimiter.check"
GCRA, LIMITS, PYRATE = "bare GCRA (reference)", "limits, moving window", "pyrate-limiter, log"
OURS_VALKEY, OURS_SQLITE = "crowdsafe: ValkeyLimiter", "crowdsafe: DatabaseLimiter, SQLite"
OURS_POSTGRES = "crowdsafe: DatabaseLimiter, PostgreSQL"
GCRA_VALKEY = "GCRA in Lua (reference), Valkey"
LIMITS_VALKEY, PYRATE_VALKEY = "limits, moving window, Valkey", "pyrate-limiter, log, Valkey"

Spans = list[tuple[float, float]]
"""Of each accepted call: when it was asked, when it was answered; it was decided in between."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A limiter in the process: its label, how to open it, whether it knows keys."""

    name: str
    open: Callable[[int], Opened]
    keyed: bool = True


@dataclass(frozen=True, slots=True)
class Shared:
    """A limiter on a server."""

    name: str
    open: Callable[[int, str], OpenedAsync]
    where: str = "valkey"
    keyed: bool = True

    def url(self, place: Place) -> str:
        """Somewhere that holds nothing yet."""
        if self.where == "sqlite":
            return place.sqlite_url()
        return place.postgres_url() if self.where == "postgres" else place.valkey_url()


IN_MEMORY = (
    Memory(OURS, by.ours_allow),
    Memory(OURS_CHECK, by.ours_check),
    Memory(GCRA, by.bare_gcra),
    Memory(LIMITS, by.limits_memory),
    Memory(PYRATE, by.pyrate_memory, keyed=False),
)
SHARED = (
    Shared(OURS_VALKEY, by.ours_valkey),
    Shared(GCRA_VALKEY, by.lua_gcra),
    Shared(LIMITS_VALKEY, by.limits_valkey),
    Shared(PYRATE_VALKEY, by.pyrate_valkey, keyed=False),
    Shared(OURS_SQLITE, by.ours_database, "sqlite"),
    Shared(OURS_POSTGRES, by.ours_database, "postgres"),
)
COLUMNS = [("refused", ",.0f"), ("accepted", ",.0f"), ("worst", ".0f")]


def compare(place: Place, plan: Plan) -> Findings:
    """In process and on the servers."""
    memory = interleaved([_memory(kind, plan) for kind in IN_MEMORY], plan.rounds)
    shared = interleaved([_shared(kind, place, plan) for kind in SHARED], plan.rounds)
    rng = random.Random(SEED)
    hammer_s = 1.2 if plan.quick else 2.0
    _merge(memory, interleaved([_hammer(kind, hammer_s, rng) for kind in IN_MEMORY], 1))
    _merge(shared, interleaved([_hammer_shared(kind, place, hammer_s, rng) for kind in SHARED], 1))
    headers = ["contender", "most refused, per second", "all accepted, per second",
               f"worst second (limit {LIMIT})", "crowdsafe is", "note"]  # fmt: skip
    about = (
        f"Decisions of a limit of {LIMIT} a second: one key that is far over it, so that nearly "
        f"all are refusals, and {KEYS:,} keys in turn that are under it (in process each has been "
        f"asked for once before); one caller in process, {CALLERS} on the servers. Worst second: "
        "how many calls of one key were accepted within one second, wherever that begins, while it "
        "was hammered without a pause and then in bursts with pauses (seeded), on the servers by "
        f"{HAMMERS} clients; a call counts only if it was both asked and answered within that "
        "second, so that none is counted wrongly. GCRA lets a burst and a refill through by "
        "design. “crowdsafe is” compares refusals (crowdsafe's shared limiters remember a refusal "
        "in the process, for as long as it must hold); a blank cell: that library was given one "
        "bucket, which knows no keys."
    )
    return Findings(
        "limiter", "Rate limits", about,
        [
            Table(headers, cells(memory, COLUMNS, dict.fromkeys((GCRA, LIMITS, PYRATE), OURS),
                                 "refused"), "In process"),
            Table(headers, cells(shared, COLUMNS, dict.fromkeys((GCRA_VALKEY, LIMITS_VALKEY,
                                 PYRATE_VALKEY), OURS_VALKEY), "refused"), "On a server"),
        ],
        [
            *(at_least_times(f"limiter {where}, {words}: against a bare GCRA", found, ours, gcra,
                             figure, 0.5)
              for where, found, ours, gcra in (("in process", memory, OURS, GCRA),
                                               ("on Valkey", shared, OURS_VALKEY, GCRA_VALKEY))
              for figure, words in (("refused", "most refused"), ("accepted", "all accepted"))),
            always("limiter: overshoot in the worst window of any of ours", memory | shared,
                   (OURS, OURS_CHECK, OURS_VALKEY, OURS_SQLITE, OURS_POSTGRES), "overshoot", 0),
        ],
    )  # fmt: skip


def _merge(into: Outcomes, more: Outcomes) -> None:
    for name, outcome in more.items():
        into[name].rounds += outcome.rounds
        into[name].not_run = into[name].not_run or outcome.not_run


def _keys() -> list[str]:
    return [f"key-{number}" for number in range(KEYS)]


def _memory(kind: Memory, plan: Plan) -> Trial:
    seconds = plan.cell_s / 3

    def run() -> Figures:
        with kind.open(LIMIT) as ask:
            figures = {"refused": _rate(ask, itertools.repeat("hot").__next__, seconds)}
        if kind.keyed:
            with kind.open(LIMIT) as ask:
                keys = _keys()
                for key in keys:
                    ask(key)
                figures["accepted"] = _rate(ask, itertools.cycle(keys).__next__, seconds)
        return figures

    return Trial(kind.name, run)


def _rate(ask: Ask, next_key: Callable[[], str], seconds: float) -> float:
    done = 0
    began = time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        for _ in range(1000):
            ask(next_key())
        done += 1000
    return done / (time.perf_counter() - began)


def _shared(kind: Shared, place: Place, plan: Plan) -> Trial:
    url = kind.url(place)
    keys = itertools.cycle(_keys())

    async def run() -> Figures:
        figures = {}
        async with kind.open(LIMIT, url) as ask:
            await _rate_async(ask, itertools.repeat("hot").__next__, plan.warm_s / 2)
            figures["refused"] = await _rate_async(
                ask, itertools.repeat("hot").__next__, plan.cell_s / 2
            )
            if kind.keyed:
                figures["accepted"] = await _rate_async(ask, keys.__next__, plan.cell_s / 2)
        return figures

    return Trial(kind.name, within(SECONDS_MAX, run))


async def _rate_async(ask: AskAsync, next_key: Callable[[], str], seconds: float) -> float:
    began = time.perf_counter()
    until = began + seconds

    async def caller() -> int:
        done = 0
        while time.perf_counter() < until:
            for _ in range(CALLS_A_LOOK):
                await ask(next_key())
            done += CALLS_A_LOOK
        return done

    done = sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))
    return done / (time.perf_counter() - began)


def _hammer(kind: Memory, seconds: float, rng: random.Random) -> Trial:
    pauses = [rng.uniform(0, PAUSE_S_MAX) for _ in range(1000)]

    def run() -> Figures:
        spans: Spans = []
        with kind.open(LIMIT) as ask:
            began = time.monotonic()
            for calls in itertools.count(1):
                asked = time.monotonic()
                if ask("hot"):
                    spans.append((asked, time.monotonic()))
                if asked > began + seconds:
                    break
                if asked > began + seconds / 2 and calls % BURST == 0:
                    time.sleep(pauses[calls // BURST % len(pauses)])
        return _overshoot(spans)

    return Trial(kind.name, run)


def _hammer_shared(kind: Shared, place: Place, seconds: float, rng: random.Random) -> Trial:
    pauses = itertools.cycle([rng.uniform(0, PAUSE_S_MAX) for _ in range(1000)])

    async def run() -> Figures:
        spans: Spans = []
        url = kind.url(place)
        async with AsyncExitStack() as stack:
            asks = [await stack.enter_async_context(kind.open(LIMIT, url)) for _ in range(HAMMERS)]
            began = time.monotonic()

            async def caller(ask: AskAsync) -> None:
                for calls in itertools.count(1):
                    asked = time.monotonic()
                    if asked > began + seconds:
                        return
                    if await ask("hot"):
                        spans.append((asked, time.monotonic()))
                    if asked > began + seconds / 2 and calls % (BURST // 10) == 0:
                        await asyncio.sleep(next(pauses))

            await asyncio.gather(*(caller(ask) for ask in asks for _ in range(CALLERS // HAMMERS)))
        return _overshoot(spans)

    return Trial(kind.name, within(SECONDS_MAX, run))


def _overshoot(spans: Spans) -> Figures:
    worst = worst_window(spans, 1.0)
    return {"worst": worst, "overshoot": max(0, worst - LIMIT)}
