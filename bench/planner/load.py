"""The planner's own table: so many users at once, on a real server with a simulated upstream."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import jain, quantile
from bench.findings import Findings, Table
from bench.goals import Verdict
from bench.measure import Plan
from bench.place import Place
from bench.planner.site import Memory, Site, running_site, simulated, stats
from bench.traffic.children import children

ROWS = (("1–5", 5), ("6–15", 15), ("16–30", 30), ("30–100", 100), ("500", 500))
QUICK_ROWS, POSTGRES_ROWS = ROWS[:2], ROWS[:4]
CALL_S, SIGMA, TIMES_FASTER = 0.06, 0.5, 50
"""A call of the upstream: its median and spread, and how many times faster than a real one."""
EQUAL_USERS, PLANS_EACH = 15, 8
ROW_S_MAX = 180.0
MEMORY_MIB_MAX = 300
SEED = 20_26
HEADERS = [
    "users at once", "first answer p50 s", "p95 s", "plan p50 s", "p95 s", "slowest s", "success",
    "by the upstream", "plans per second", "server memory MiB", "CPU s", "note",
]  # fmt: skip
KINDS = ("Bakery", "Bicycle repair", "Language school", "Music shop", "Garden design", "Tea room")


@dataclass(slots=True)
class Row:
    """What a crowd met; times in seconds."""

    met: list[dict[str, Any]]
    began: float
    memory_mib: float
    cpu_s: float

    @property
    def well(self) -> list[dict[str, Any]]:
        """Those who got their plan."""
        return [one for one in self.met if one["source"]]

    @property
    def success(self) -> float:
        """Their share."""
        return len(self.well) / len(self.met)

    def quantile(self, figure: str, share: float) -> float:
        """Of those who got a plan; 0 when nobody did."""
        return quantile([one[figure] for one in self.well], share)

    def cells(self, users: str) -> list[str]:
        """The line of the table."""
        took_s = max((one["done_at"] for one in self.well), default=self.began) - self.began
        of_upstream = sum(one["source"] == "upstream" for one in self.met)
        problems = sorted({one["problem"] for one in self.met if one["problem"]})
        return [
            users,
            *(f"{self.quantile('first_s', share):.2f}" for share in (0.5, 0.95)),
            *(f"{self.quantile('plan_s', share):.1f}" for share in (0.5, 0.95, 1.0)),
            f"{self.success:.1%}",
            f"{of_upstream / len(self.met):.1%}",
            f"{len(self.well) / took_s:.1f}" if took_s else "",
            f"{self.memory_mib:.0f}",
            f"{self.cpu_s:.1f}",
            "; ".join(problems)[:120],
        ]


def compare(place: Place, plan: Plan) -> Findings:
    """The table on SQLite, which is what `serve` uses by itself; on PostgreSQL up to 100 users."""
    tables, verdicts = [], []
    engines: list[tuple[str, str, Sequence[tuple[str, int]]]]
    engines = [("SQLite", place.sqlite_url(), QUICK_ROWS if plan.quick else ROWS)]
    if not plan.quick:
        engines.append(("PostgreSQL", place.postgres_url(), POSTGRES_ROWS))
    for engine, url, crowds in engines:
        try:
            rows, index = _measured(place, url, crowds, EQUAL_USERS // (3 if plan.quick else 1))
        except Exception as error:  # the others' figures stand
            said = f"not run: {type(error).__name__}: {error}"[:160]
            tables.append(Table(HEADERS, [["", *[""] * (len(HEADERS) - 2), said]], engine))
            verdicts.append(Verdict(f"planner on {engine}", "runs", "not run", False))
            continue
        tables.append(Table(HEADERS, [row.cells(users) for users, row in rows], engine))
        verdicts += _verdicts(engine, [row for _, row in rows], index)
    about = (
        "One server process, `crowdsafe serve` with its default limits (8 plans at a time, 3 calls "
        "of each), and a crowd in another process. Each user asks for a plan of their own, all at "
        "once; whoever is told to come back (202) does so when Retry-After says, until the plan "
        "is there: the times are theirs. Making a plan takes about 15 calls of a simulated "
        f"upstream in a third process, lognormal with a median of {CALL_S:g} s, {TIMES_FASTER} "
        "times faster than a language model that takes "
        f"{CALL_S * TIMES_FASTER:g} s: the waits of the larger crowds scale with it. Users and "
        "their tokens are made beforehand, since 500 argon2 logins would be measured otherwise. "
        "Memory: the most that the server and its children had. Jain's index: of "
        f"{EQUAL_USERS} users who ask for {PLANS_EACH} plans each at once, over the plans that "
        "each has when half of all are made."
    )
    return Findings("planner", "Planner, users at once", about, tables, verdicts)


def _measured(
    place: Place, url: str, crowds: Sequence[tuple[str, int]], equal_users: int
) -> tuple[list[tuple[str, Row]], float]:
    rng = random.Random(SEED)
    folder = place.folder / f"planner-{url.partition(':')[0]}"
    rows = []
    with simulated(CALL_S, SIGMA, SEED) as upstream, running_site(url, folder, upstream) as site:
        for users, count in crowds:
            rows.append((users, _row(site, count, 1, rng)))
            if not rows[-1][1].well:
                raise RuntimeError(f"nobody got a plan: {rows[-1][1].met[0]['problem']}")
        equal = _row(site, equal_users, PLANS_EACH, rng)
        if not stats(upstream)["calls"]:
            raise RuntimeError("nobody asked the upstream")
    return rows, _jain(equal)


def _row(site: Site, users: int, plans_each: int, rng: random.Random) -> Row:
    tokens = site.people(users)
    asks = [
        {"user": user, "token": token, "body": _body(rng)}
        for user, token in enumerate(tokens)
        for _ in range(plans_each)
    ]
    words = ["bench.planner.crowd", str(site.server.port), "--within-s", str(ROW_S_MAX)]
    with children([words]) as (crowd,), Memory(site.server.pid) as memory:
        crowd.go(json.dumps(asks))
        crowd.wait_for("ready")
        crowd.go()
        found = crowd.result(ROW_S_MAX + 30)
    return Row(found["met"], found["began"], memory.most_mib, memory.cpu_s)


def _body(rng: random.Random) -> dict[str, str]:
    kind = rng.choice(KINDS)
    return {
        "idea": f"A {kind.lower()} for the neighbourhood, number {rng.randrange(10**12)}",
        "location": "Hobart, Tasmania",
        "budget": rng.choice(("5k-10k", "10k-25k", "25k-50k")),
        "timeline": rng.choice(("6-months", "1-year")),
        "business_type": kind,
        "currency": "AUD",
    }


def _jain(row: Row) -> float:
    """Over what each user has when half of all plans are made."""
    done = sorted(row.well, key=lambda one: float(one["done_at"]))[: len(row.met) // 2]
    users = {one["user"] for one in row.met}
    return jain([sum(one["user"] == user for one in done) for user in users])


def _verdicts(engine: str, rows: Sequence[Row], index: float) -> list[Verdict]:
    success = min(row.success for row in rows)
    memory = max(row.memory_mib for row in rows)
    most = max(len(row.met) for row in rows)
    return [
        Verdict(f"planner on {engine}: success, at every row", "100%", f"{success:.1%}",
                success == 1),
        Verdict(f"planner on {engine}: server memory, up to {most} users at once",
                f"< {MEMORY_MIB_MAX} MiB", f"{memory:.0f} MiB", memory < MEMORY_MIB_MAX),
        Verdict(f"planner on {engine}: Jain's index over equal users", "≥ 0.95", f"{index:.3f}",
                index >= 0.95),
    ]  # fmt: skip
