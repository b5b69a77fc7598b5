"""`python -m bench [--only NAME ...] [--quick] [--write]`: every comparison, side by side."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable

from tests.support.pg_server import PgServer
from tests.support.valkey_server import ValkeyServer

from bench import feed, in_process, machine, over_http, processes, report
from bench.databases import Postgres, file_system, sqlite_folder
from bench.finder import compare as finder
from bench.findings import Findings
from bench.goals import Comparison
from bench.measure import FULL, QUICK, Plan
from bench.place import Place
from bench.planner import load
from bench.traffic import breaker, cache, limiter, queue

Make = Callable[[Place, Plan], Comparison | Findings]

COMPARISONS: dict[str, Make] = {
    "hot-row": lambda at, plan: asyncio.run(in_process.hot_row(at.postgres, plan)),
    "distinct-rows": lambda at, plan: asyncio.run(in_process.distinct_rows(at.postgres, plan)),
    "numbers": lambda at, plan: asyncio.run(in_process.numbers(at.postgres, plan)),
    "sqlite-lane": lambda at, plan: asyncio.run(in_process.sqlite_lane(at.folder, plan)),
    "sqlite-processes": lambda at, plan: processes.compare(at.folder, plan),
    "http": lambda at, plan: over_http.compare(at.postgres, at.folder, plan),
    "feed": feed.compare,
    "cache": cache.compare,
    "limiter": limiter.compare,
    "queue": queue.compare,
    "fairness": queue.fairness,
    "breaker": breaker.compare,
    "planner": load.compare,
    "finder": finder.compare,
}


def main() -> int:
    """Run the comparisons asked for; 0 whatever came out, since a busy machine misses goals."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(COMPARISONS), metavar="NAME",
                        help=f"one of {', '.join(COMPARISONS)}; may be repeated")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="cells of 0.3 s: to try it out")
    parser.add_argument("--write", action="store_true", help=f"write {report.DOCUMENT.name}")
    options = parser.parse_args()
    logging.getLogger("crowdsafe").setLevel(logging.ERROR)  # breakers say that they open
    plan = QUICK if options.quick else FULL
    began = time.monotonic()
    done = []
    with PgServer.create() as server, ValkeyServer.create() as valkey, sqlite_folder() as folder:
        facts = machine.describe(server, valkey, file_system(folder))
        print("\n".join(facts), "\n")
        place = Place(Postgres(server), valkey, folder)
        for name in options.only or COMPARISONS:
            done.append(COMPARISONS[name](place, plan))
            print(report.terminal(done[-1]), flush=True)
            place.postgres.drop_all()
    arguments = " ".join(sys.argv[1:])
    command = f'make bench ARGS="{arguments}"' if arguments else "make bench"
    took = (
        f"Command: `{command}`; writes and HTTP from {plan.rounds} rounds of {plan.cell_s:g} s or "
        f"longer, the others from 1 to {plan.rounds} rounds of their own length; "
        f"{(time.monotonic() - began) / 60:.1f} minutes in all"
    )
    print(f"{report.goals(done)}\n\n{took}")
    if options.write:
        report.write_document(done, facts, took)
    return 0


if __name__ == "__main__":
    sys.exit(main())
