"""Both finders on the same programs, side by side: verdicts, schedules, time, lines, replays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.pg_server import ROOT

from bench.finder.cases import CASES, Case
from bench.finder.one import REPLAYS
from bench.findings import Findings, Table
from bench.goals import Verdict
from bench.measure import Plan
from bench.place import Place

LIMIT_S, QUICK_LIMIT_S = 60.0, 20.0
SPARE_S = 10.0
"""What a process may take besides: to start, to make its tables, and to replay."""
SAID_CHARS_MAX = 90
OURS, PEER = "crowdsafe", "frontrun"
HEADERS = ["case", "tool", "verdict", "", "schedules", "seconds", "of that, search",
           "schedules/s", "lines", f"replays of {REPLAYS}"]  # fmt: skip
ABOUT = (
    "The same programs for `crowdsafe find` and for frontrun 0.7.0, each case in a process of its "
    "own. *seconds* is the whole call as its user waits for it, the median of the rounds, without "
    "replays: crowdsafe's holds the copy of the database; *search* is the looking for a race, "
    "with resets, runs and judging (for frontrun the two are one). ×3 is three users at once, for "
    "which crowdsafe tries two as well: its schedules and its search are those of the three. "
    "*lines* are those of the function that the user of the tool writes for that case, without "
    "imports and tables; frontrun's hold the reset and the invariant. *replays*: how often what "
    "was found shows again, by the token of crowdsafe and by frontrun's own "
    "`reproduce_on_failure`. frontrun runs under its `frontrun` command, with its helpers for "
    "Django and SQLAlchemy and its default preemption bound of 2, so what *holds* for it holds for "
    "schedules with at most two preemptions; *proven* is all schedules. A search is cut after "
    "{limit:g} seconds."
)

SPEED = "The search of crowdsafe alone, over and over: reset, run and judgement of each schedule"
Figures = dict[str, Any]
Results = dict[tuple[str, str], Figures]
FAST = {"psycopg, guarded ×3": 100, "psycopg, FOR UPDATE ×3": 100, "SQLite, racy ×2": 200,
        "SQLite, guarded ×3": 200}  # fmt: skip
"""Schedules per second that are wanted of the search of ours."""


def compare(place: Place, plan: Plan) -> Findings:
    """Every case with both tools, one after the other."""
    limit_s, rounds = (QUICK_LIMIT_S, 1) if plan.quick else (LIMIT_S, plan.rounds)
    results: Results = {}
    for case in CASES.values():
        for tool in (OURS, PEER):
            print(f"{case.name}: {tool}", file=sys.stderr, flush=True)
            results[case.name, tool] = _run(case, tool, _database(case, place), rounds, limit_s)
    speed = _speed(place, plan)
    return Findings(
        "finder",
        "Race finders",
        ABOUT.format(limit=_search_s(limit_s)),
        [
            Table(HEADERS, [_line(case, tool, results[case.name, tool])
                            for case in CASES.values() for tool in (OURS, PEER)]),
            _fast(speed),
            *_said(results),
        ],
        [*_verdicts(results), *_speed_verdicts(speed)],
    )  # fmt: skip


def _database(case: Case, place: Place) -> str:
    if case.database == "postgresql":
        return place.postgres_url()
    url = place.sqlite_url()
    Path(url.removeprefix("sqlite:///")).touch()
    return url


def _run(case: Case, tool: str, url: str, rounds: int, limit_s: float) -> Figures:
    """One case by one tool in a process of its own, which is ended when it takes too long."""
    words = ["bench.finder.one", case.name, tool, str(rounds), str(_search_s(limit_s))]
    wrapper = [str(Path(sys.executable).with_name("frontrun"))] if tool == PEER else []
    figures = _figures(wrapper, words, url, limit_s)
    return figures or {"verdict": "cut", "seconds": limit_s}


def _search_s(limit_s: float) -> float:
    return limit_s - SPARE_S


def _figures(wrapper: list[str], words: list[str], url: str, seconds: float) -> Figures | None:
    """What such a process says; None when it is not done in time."""
    environment = os.environ | {"FINDER_URL": url.replace("postgresql+psycopg:", "postgresql:")}
    try:
        done = subprocess.run(
            [*wrapper, sys.executable, "-m", *words], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return {"verdict": "failed", "reason": last}
    figures: Figures = json.loads(lines[-1])
    return figures


def _speed(place: Place, plan: Plan) -> dict[str, Figures]:
    """How fast the search of ours goes, on each database."""
    seconds = str(plan.cell_s * plan.rounds)
    found = {}
    for name in FAST:
        words = ["bench.finder.speed", name, seconds]
        found[name] = _figures([], words, _database(CASES[name], place), LIMIT_S) or {}
    return found


def is_right(case: Case, figures: Figures) -> bool:
    """A race is found where there is one; where there is none, that is what is said."""
    return figures["verdict"] in ({"race"} if case.racy else {"proven", "holds"})


def _line(case: Case, tool: str, found: Figures) -> list[str]:
    mark = "right" if is_right(case, found) else "WRONG" if _is_wrong(case, found) else "open"
    rate = _rate(found)
    replayed = found.get("replayed")
    return [
        case.name, tool, found["verdict"], mark, str(found.get("schedules", "")),
        _seconds(found, "seconds"), _seconds(found, "search_s"),
        "" if rate is None else f"{rate:.3g}", str(found.get("lines", "")),
        "" if replayed is None else str(replayed),
    ]  # fmt: skip


def _is_wrong(case: Case, found: Figures) -> bool:
    """Whether it says what is not so; what is cut or inconclusive says nothing."""
    told = {"proven", "holds", "holds, though cut", "not-found"} if case.racy else {"race"}
    return found["verdict"] in told


def _seconds(found: dict[str, Any], figure: str) -> str:
    return f"{found[figure]:.2f}" if figure in found else ""


def _rate(found: Figures) -> float | None:
    return found["schedules"] / found["search_s"] if found.get("search_s") else None


def _said(results: Results) -> Iterable[Table]:
    """Why a tool gave no verdict, where it gave none."""
    rows = [[name, tool, " ".join(found["reason"].split())[:SAID_CHARS_MAX]]
            for (name, tool), found in results.items()
            if found.get("reason") and found["verdict"] not in {"proven", "race"}]  # fmt: skip
    return [Table(["case", "tool", "note"], rows, "What they say of it")] if rows else []


def _verdicts(results: Results) -> list[Verdict]:
    mine = {case: results[case.name, OURS] for case in CASES.values()}
    right = sum(is_right(case, found) for case, found in mine.items())
    races = [found.get("replayed") or 0 for case, found in mine.items() if case.racy]
    return [
        Verdict("finder: programs told right", f"all {len(mine)}", str(right), right == len(mine)),
        Verdict("finder: replays of what was found, each race", f"{REPLAYS} of {REPLAYS}",
                f"{min(races)} of {REPLAYS}", min(races) == REPLAYS),
        *(_at_most(f"finder: {name}, search", mine[CASES[name]], seconds)
          for name, seconds in (("psycopg, racy ×2", 0.2), ("psycopg, guarded ×3", 1.5),
                                ("psycopg, FOR UPDATE ×3", 1.5))),
    ]  # fmt: skip


def _at_most(text: str, found: dict[str, Any], seconds: float) -> Verdict:
    value = found.get("search_s")
    shown = "not run" if value is None else f"{value:.3f} s"
    return Verdict(text, f"≤ {seconds:g} s", shown, value is not None and value <= seconds)


def _fast(speed: dict[str, Figures]) -> Table:
    rows = [[name, *(f"{found[key]:.4g}" if key in found else "" for key in ("per_s", "cpu_ms"))]
            for name, found in speed.items()]  # fmt: skip
    return Table(["case", "schedules/s", "processor ms each"], rows, SPEED)


def _speed_verdicts(speed: dict[str, Figures]) -> list[Verdict]:
    return [
        Verdict(f"finder: schedules/s, {name}", f"≥ {FAST[name]}",
                f"{found.get('per_s', 0):.0f}", found.get("per_s", 0) >= FAST[name])
        for name, found in speed.items()
    ]  # fmt: skip
