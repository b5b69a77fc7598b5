"""Caches: hits a second, executions for identical misses, and who survives a lost leader."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.findings import Findings, Table, always, at_least_times, cells
from bench.goals import Verdict
from bench.measure import Plan
from bench.place import Place
from bench.rounds import Figures, Outcomes, Trial, interleaved, within
from bench.traffic.cache_contenders import CACHES, TTL_S, Make
from bench.traffic.children import children

LIMIT_S = 30.0
HIT_CALLERS, CALLS_A_LOOK = 16, 20
MISSES = 1000
WORK_S = 0.1
FOLLOWERS = 20
LEADER_DIES_AFTER_S, LEADER_WORK_S = 0.1, 20.0
KILLED_AT_ONCE = 3
WAIT_S_MAX = 45.0
"""For followers of a leader that was killed: longer than anybody's lease or lock."""

OURS, DECORATED = "crowdsafe: InProcessCache.get_or_run", "crowdsafe: InProcessCache, decorator"
LRU, MEM, BARE = "async-lru", "cashews, mem", "bare dict (reference)"
OURS_VALKEY, OURS_SQLITE = "crowdsafe: ValkeyCache", "crowdsafe: DatabaseCache, SQLite"
OURS_POSTGRES = "crowdsafe: DatabaseCache, PostgreSQL"
CASHEWS_VALKEY, CASHEWS_LOCKED = "cashews, Valkey", "cashews lock=True, Valkey"
NAIVE = "GET, else run and SET, Valkey"


@dataclass(frozen=True, slots=True)
class Kind:
    """A contender: its label, its name among `CACHES`, where it keeps what it holds."""

    name: str
    cache: str
    where: str = "memory"

    def url(self, place: Place) -> str:
        """Somewhere of its own that holds nothing yet."""
        if self.where == "memory":
            return "mem://"
        if self.where == "sqlite":
            return place.sqlite_url()
        return place.postgres_url() if self.where == "postgres" else place.valkey_url()


IN_PROCESS = (
    Kind(OURS, "ours-in-process"),
    Kind(DECORATED, "ours-decorated"),
    Kind(LRU, "async-lru"),
    Kind(MEM, "cashews"),
    Kind(BARE, "bare-dict"),
)
SHARED = (
    Kind(OURS_VALKEY, "ours-valkey", "valkey"),
    Kind(CASHEWS_VALKEY, "cashews", "valkey"),
    Kind(OURS_SQLITE, "ours-database", "sqlite"),
    Kind(OURS_POSTGRES, "ours-database", "postgres"),
)
MISSING = (
    Kind(OURS, "ours-in-process"),
    Kind(OURS_VALKEY, "ours-valkey", "valkey"),
    Kind(OURS_SQLITE, "ours-database", "sqlite"),
    Kind(OURS_POSTGRES, "ours-database", "postgres"),
    Kind(LRU, "async-lru"),
    Kind(CASHEWS_LOCKED, "cashews-locked", "valkey"),
    Kind(NAIVE, "naive-valkey", "valkey"),
)
OURS_SHARED = (OURS_VALKEY, OURS_SQLITE, OURS_POSTGRES)


def compare(place: Place, plan: Plan) -> Findings:
    """All three questions."""
    hits = interleaved([_hits(kind, place, plan) for kind in IN_PROCESS], plan.rounds)
    shared = interleaved([_hits(kind, place, plan) for kind in SHARED], plan.rounds)
    misses = interleaved([_misses(kind, place) for kind in MISSING], 1 if plan.quick else 2)
    killed = _killed(place)
    for name, outcome in misses.items():
        if name in killed and outcome.not_run is None:
            outcome.rounds += killed[name].rounds
            outcome.not_run = killed[name].not_run
    rate = [("per_s", ",.0f")]
    about = (
        "Hits: keys that are there; one caller in process; on the backends one, and then "
        f"{HIT_CALLERS} with a key each. "
        f"Misses: {MISSES:,} calls of one key at once, over work of {WORK_S:g} s, and how often "
        f"the work was done: in one process, and in two with half of the calls each; what lives "
        f"in a process's memory cannot do better than 2 there. Cancelled: of {FOLLOWERS} "
        "followers, how many get the value when the caller who began is cancelled; killed: the "
        "same when the process that began is killed with -9, and after how long (leases and "
        f"locks of {TTL_S:g} s)."
    )
    return Findings(
        "cache", "Caches and single-flight", about,
        [
            Table(["contender", "hits per second", "crowdsafe is", "note"],
                  cells(hits, rate, dict.fromkeys((LRU, MEM, BARE), OURS), "per_s"),
                  "Hits in process"),
            Table(["contender", "one caller, hits per second", f"{HIT_CALLERS} callers",
                   "crowdsafe is", "note"],
                  cells(shared, [("one_per_s", ",.0f"), ("many_per_s", ",.0f")],
                        {CASHEWS_VALKEY: OURS_VALKEY}, "many_per_s"), "Hits on a backend"),
            Table(["contender", "executions, one process", "two processes",
                   f"cancelled: of {FOLLOWERS}", f"killed: of {FOLLOWERS}", "after s", "note"],
                  cells(misses, [("one", ".0f"), ("two", ".0f"), ("cancelled", ".0f"),
                                 ("killed", ".0f"), ("killed_s", ".1f")]),
                  f"{MISSES:,} identical misses at once, and lost leaders"),
        ],
        _verdicts(hits, shared, misses),
    )  # fmt: skip


def _verdicts(hits: Outcomes, shared: Outcomes, misses: Outcomes) -> list[Verdict]:
    of = f"of {FOLLOWERS} followers"
    return [
        at_least_times("cache hits in process: against async-lru", hits, OURS, LRU, "per_s", 0.5),
        at_least_times("cache hits on Valkey, one caller: against cashews", shared, OURS_VALKEY,
                       CASHEWS_VALKEY, "one_per_s", 1),
        at_least_times(f"cache hits on Valkey, {HIT_CALLERS} callers: against cashews", shared,
                       OURS_VALKEY, CASHEWS_VALKEY, "many_per_s", 1),
        always(f"cache: executions for {MISSES:,} identical misses, one process", misses,
               (OURS, *OURS_SHARED), "one", 1),
        always(f"cache: executions for {MISSES:,} identical misses, two processes, on each "
               "backend", misses, OURS_SHARED, "two", 1),
        always(f"cache: {of}, how many survive a cancelled leader", misses,
               (OURS, *OURS_SHARED), "cancelled", FOLLOWERS),
        always(f"cache: {of}, how many survive a killed leader, on each backend", misses,
               OURS_SHARED, "killed", FOLLOWERS),
    ]  # fmt: skip


def _hits(kind: Kind, place: Place, plan: Plan) -> Trial:
    url = kind.url(place)

    async def hits() -> Figures:
        async def make(_key: str) -> str:
            return "value"

        async with CACHES[kind.cache](make, url) as call:
            if kind.where == "memory":
                await _hit(call, 1, plan.warm_s / 2)
                return {"per_s": await _hit(call, 1, plan.cell_s / 2)}
            await _hit(call, HIT_CALLERS, plan.warm_s / 2)
            return {
                "one_per_s": await _hit(call, 1, plan.cell_s / 3),
                "many_per_s": await _hit(call, HIT_CALLERS, plan.cell_s / 3),
            }

    return Trial(kind.name, within(LIMIT_S, hits))


async def _hit(call: Make, callers: int, seconds: float) -> float:
    """Hits per second of so many callers with a key each; they look at the clock now and then."""
    began = time.perf_counter()
    until = began + seconds

    async def caller(number: int) -> int:
        done, key = 0, f"key-{number}"
        while time.perf_counter() < until:
            for _ in range(CALLS_A_LOOK):
                await call(key)
            done += CALLS_A_LOOK
        return done

    done = sum(await asyncio.gather(*(caller(number) for number in range(callers))))
    return done / (time.perf_counter() - began)


def _misses(kind: Kind, place: Place) -> Trial:
    def run() -> Figures:
        one = within(LIMIT_S, lambda: _one_process(kind, kind.url(place)))()
        return one | {"two": _two_processes(kind, kind.url(place))}

    return Trial(kind.name, run)


async def _one_process(kind: Kind, url: str) -> Figures:
    made = 0

    async def make(_key: str) -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(WORK_S)
        return "value"

    async with CACHES[kind.cache](make, url) as call:
        answers = await asyncio.gather(*(call("key") for _ in range(MISSES)))
        assert answers == ["value"] * MISSES
        executions = made
        leader = asyncio.create_task(call("other"))
        await asyncio.sleep(WORK_S / 4)
        followers = [asyncio.create_task(call("other")) for _ in range(FOLLOWERS)]
        await asyncio.sleep(WORK_S / 4)
        leader.cancel()
        done, late = await asyncio.wait(followers, timeout=WAIT_S_MAX / 3)
        for task in late:
            task.cancel()
        await asyncio.gather(leader, *late, return_exceptions=True)
    well = sum(not task.cancelled() and task.exception() is None for task in done)
    return {"one": executions, "cancelled": well}


def _two_processes(kind: Kind, url: str) -> float:
    words = ["bench.traffic.cache_process", kind.cache, url, "--calls", str(MISSES // 2),
             "--work-s", str(WORK_S), "--wait-s", str(LIMIT_S)]  # fmt: skip
    with children([words, words]) as pair:
        for child in pair:
            child.wait_for("ready")
        for child in pair:
            child.go()
        done = [child.result(LIMIT_S * 2) for child in pair]
    failed = [error for each in done for error in each["failed"]]
    if failed:
        raise RuntimeError(f"calls failed: {failed[0]}")
    return float(sum(each["made"] for each in done))


def _killed(place: Place) -> Outcomes:
    """A few at once: they only wait."""
    kinds = [kind for kind in MISSING if kind.where != "memory"]
    urls = {kind.name: kind.url(place) for kind in kinds}
    with ThreadPoolExecutor(KILLED_AT_ONCE) as pool:
        done = pool.map(
            lambda kind: interleaved(
                [Trial(kind.name, lambda: _kill_leader(kind, urls[kind.name]))], 1
            ),
            kinds,
        )
        return {name: outcome for each in done for name, outcome in each.items()}


def _kill_leader(kind: Kind, url: str) -> Figures:
    leader_words = ["bench.traffic.cache_process", kind.cache, url, "--calls", "1",
                    "--work-s", str(LEADER_WORK_S), "--wait-s", str(WAIT_S_MAX)]  # fmt: skip
    words = ["bench.traffic.cache_process", kind.cache, url, "--calls", str(FOLLOWERS),
             "--work-s", str(WORK_S), "--wait-s", str(WAIT_S_MAX)]  # fmt: skip
    with children([words, leader_words]) as (followers, leader):
        followers.wait_for("ready")
        leader.wait_for("ready")
        leader.go()
        leader.wait_for("leading")
        followers.go()
        time.sleep(LEADER_DIES_AFTER_S)
        leader.kill()
        done = followers.result(WAIT_S_MAX + LIMIT_S)
    return {"killed": done["right"], "killed_s": done["took_s"]}
