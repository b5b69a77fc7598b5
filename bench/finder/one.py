"""`python -m bench.finder.one CASE TOOL ROUNDS SECONDS`: one case by one tool, figures as a line
of JSON. FINDER_URL names the database, which is there and empty."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from bench.finder.cases import CASES, Case
from crowdsafe.find import Verdict, replay
from crowdsafe.find.model import Finding

REPLAYS = 10
SLOW_S = 2.0
"""A tool that takes longer than this is measured once only."""

Figures = dict[str, Any]


def crowdsafe(case: Case, module: Any, rounds: int, _seconds: float) -> Figures:
    """The finding about as many users as the case has, and its token tried again."""
    run, operation = getattr(module, case.ours), getattr(module, case.operation)
    reports, took = _timed(lambda: run(operation, case.users), rounds)
    findings = [_of(report.findings, case.users) for report in reports]
    last = findings[-1]
    again = None
    if last.verdict is Verdict.RACE:
        again = sum(_recurs(last) for _ in range(REPLAYS))
    return {
        "verdict": str(last.verdict),
        "reason": last.reason,
        "schedules": last.schedules,
        "seconds": took,
        "search_s": statistics.median(finding.seconds for finding in findings),
        "lines": _lines(run),
        "replayed": again,
    }


def _of(findings: list[Finding], users: int) -> Finding:
    return next(finding for finding in findings if len(finding.operations) == users)


def _recurs(finding: Finding) -> bool:
    assert finding.token is not None
    report = replay(finding.token, database=os.environ["FINDER_URL"])
    return report.findings[0].verdict is Verdict.RACE


def frontrun(case: Case, module: Any, rounds: int, seconds: float) -> Figures:
    """What it says; timed without its replays, which are made once more for what it found."""
    run, operation = getattr(module, case.peer), getattr(module, case.operation)

    def explore(replays: int) -> Any:
        return run(operation, case.users, reproduce_on_failure=replays, total_timeout=seconds)

    results, took = _timed(lambda: explore(0), rounds)
    last = results[-1]
    again = None
    if last.property_holds is False:
        again = explore(REPLAYS).reproduction_successes
    cut = took >= seconds
    said = {True: "holds, though cut" if cut else "holds", False: "race", None: "inconclusive"}
    return {
        "verdict": said[last.property_holds],
        "reason": last.inconclusive_reason or "",
        "schedules": last.num_explored,
        "seconds": took,
        "search_s": took,
        "lines": _lines(run),
        "replayed": again,
    }


def _timed(run: Callable[[], Any], rounds: int) -> tuple[list[Any], float]:
    results, times = [], []
    while len(results) < rounds and (not times or times[-1] < SLOW_S):
        began = time.perf_counter()
        results.append(run())
        times.append(time.perf_counter() - began)
    return results, statistics.median(times)


def _lines(function: Callable[..., Any]) -> int:
    return sum(bool(line.strip()) for line in inspect.getsource(function).splitlines())


def main() -> None:
    """One line of JSON, also about what went wrong."""
    name, tool, rounds, seconds = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    case = CASES[name]
    module = importlib.import_module(f"bench.finder.{case.module}")
    module.fill()
    try:
        figures = globals()[tool](case, module, int(rounds), float(seconds))
    except Exception as error:
        figures = {"verdict": "failed", "reason": f"{type(error).__name__}: {error}"}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
