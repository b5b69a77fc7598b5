"""`python -m bench.finder.speed CASE SECONDS`: how many schedules a second the search goes
through, each with its reset, its run and its judgement, over and over from the start."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from typing import Any

from bench.finder.cases import CASES, Case
from crowdsafe.find.engine import Budget, Search
from crowdsafe.find.outcomes import SerialOutcomes
from crowdsafe.find.session import Session
from crowdsafe.find.stage import Job

SCHEDULES_MAX = 2000


def measure(case: Case, module: Any, seconds: float) -> dict[str, float]:
    """Whole searches for that long; the processor's time is that of the finder and the target."""
    job = Job(
        target=None,
        operations=(getattr(module, case.operation),),
        database=os.environ["FINDER_URL"],
    )
    with Session(job) as session:
        operations = list(session.operations) * case.users
        serial = SerialOutcomes(session, operations)
        _search(session, operations, serial)
        schedules = 0
        began, used = time.perf_counter(), time.process_time()
        while time.perf_counter() < began + seconds:
            schedules += _search(session, operations, serial)
        took, used = time.perf_counter() - began, time.process_time() - used
    return {"per_s": schedules / took, "cpu_ms": 1000 * used / schedules}


def _search(session: Session, operations: list[Any], serial: SerialOutcomes) -> int:
    search = Search(
        session.controller,
        operations,
        reset=session.reset,
        after=session.after,
        budget=Budget(schedules=SCHEDULES_MAX, seconds=60.0),
        analyse=session.analyse,
    )
    for run in search:
        if run.problem is None:
            serial.judge(run)
    return search.schedules


def main() -> None:
    """One line of JSON."""
    name, seconds = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    case = CASES[name]
    module = importlib.import_module(f"bench.finder.{case.module}")
    module.fill()
    print(json.dumps(measure(case, module, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
