"""Job queues: how many no-op jobs a second, and what one busy user does to the others."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg

from bench.figures import jain, quantile
from bench.findings import Findings, Table, at_least, at_least_times, cells
from bench.measure import Plan
from bench.place import Place
from bench.rounds import Figures, Trial, interleaved
from bench.traffic.children import Child, children
from bench.traffic.queue_process import BIG, CALLERS, USERS

CONCURRENCY = 32
DONE_S_MAX, POLL_S = 60.0, 0.01
COUNTED_FROM = 0.05
"""The rate of working off is taken after this share of the jobs, when all workers are up."""
GOAL_PER_S = 2000
FLOOD_CONCURRENCY, FLOOD_WORK_S = 8, 0.01
FLOOD_BIG, FLOOD_SMALL = 1000, 50

OURS_SQLITE, OURS_POSTGRES = "crowdsafe, SQLite", "crowdsafe, PostgreSQL"
FIRST_SQLITE, FIRST_POSTGRES = "first come, SQLite", "first come, PostgreSQL"
PROCRASTINATE, PGQUEUER = "procrastinate, PostgreSQL", "pgqueuer, PostgreSQL"
DBOS_POSTGRES, DBOS_SQLITE = "DBOS, PostgreSQL", "DBOS, SQLite"

OUR_DONE = "SELECT count(*) FROM crowdsafe_jobs WHERE state = 'done'"


@dataclass(frozen=True, slots=True)
class Kind:
    """A queue: its label, its name among `QUEUES`, and how the database counts what is done."""

    name: str
    queue: str
    on_sqlite: bool
    done: str
    jobs: int
    """How many a round: about a second's worth."""

    def url(self, place: Place) -> str:
        """A new database."""
        return place.sqlite_url() if self.on_sqlite else place.postgres_url()


KINDS = (
    Kind(OURS_SQLITE, "ours", True, OUR_DONE, 3000),
    Kind(OURS_POSTGRES, "ours", False, OUR_DONE, 3000),
    Kind(FIRST_SQLITE, "first-come", True, OUR_DONE, 3000),
    Kind(FIRST_POSTGRES, "first-come", False, OUR_DONE, 3000),
    Kind(PGQUEUER, "pgqueuer", False,
         "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'", 1500),
    Kind(PROCRASTINATE, "procrastinate", False,
         "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'", 250),
    Kind(DBOS_POSTGRES, "dbos", False,
         "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'", 100),
    Kind(DBOS_SQLITE, "dbos", True,
         "SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'", 40),
)  # fmt: skip
FLOODED = (OURS_SQLITE, OURS_POSTGRES, FIRST_SQLITE, FIRST_POSTGRES, PROCRASTINATE, PGQUEUER)
OURS = {kind.name: OURS_SQLITE if kind.on_sqlite else OURS_POSTGRES for kind in KINDS[2:]}
"""Whom each peer is compared with."""
COLUMNS = [("enqueued", ",.0f"), ("worked", ",.0f"), ("through", ",.0f")]


def compare(place: Place, plan: Plan) -> Findings:
    """No-op jobs in one process and in two."""
    tables, verdicts = [], []
    for processes, words in ((1, "one process"), (2, "two processes")):
        trials = [_no_ops(kind, place, processes, plan) for kind in KINDS]
        found = interleaved(trials, 1 if plan.quick else 2)
        tables.append(
            Table(["contender", "enqueued per second", "worked off per second",
                   "both at once, jobs per second", "crowdsafe is", "note"],
                  cells(found, COLUMNS, OURS, "worked"), words.capitalize())
        )  # fmt: skip
        for ours in (OURS_SQLITE, OURS_POSTGRES):
            for figure, what in (("worked", "worked off"), ("through", "enqueued to done")):
                text = f"queue on {ours.rpartition(' ')[2]}, {words}: jobs {what} per second"
                verdicts.append(at_least(text, found, ours, figure, GOAL_PER_S))
    about = (
        f"No-op jobs of {USERS} users in turn, {CONCURRENCY} at a time in each process. Enqueued: "
        f"{CALLERS} callers, one job a call, committed before the call returns. Worked off: from a "
        "full queue, no one enqueueing, until the database says done. Both at once: from the first "
        "call to enqueue until the last job is done, the worker of the same process running. "
        "crowdsafe claims turn by turn over the users; “first come” is a hand-written worker on "
        "crowdsafe's own table that claims by id and renews no leases. “crowdsafe is” compares "
        "what is worked off, on the same database."
    )
    return Findings("queue", "Job queue, no-op jobs", about, tables, verdicts)


def fairness(place: Place, plan: Plan) -> Findings:
    """One user floods; fifty others want one job each."""
    kinds = [kind for kind in KINDS if kind.name in FLOODED]
    big = FLOOD_BIG // 2 if plan.quick else FLOOD_BIG
    trials = [_flood(kind, place, big) for kind in kinds]
    found = interleaved(trials, 1 if plan.quick else 2)
    columns = [("jain", ".3f"), ("p50_ms", ",.0f"), ("p95_ms", ",.0f"), ("done_s", ".1f")]
    about = (
        f"One user has {big:,} jobs in the queue and is being served; then {FLOOD_SMALL} "
        f"users enqueue one job each. Jobs of {FLOOD_WORK_S * 1000:g} ms, {FLOOD_CONCURRENCY} at "
        "a time, one process, and no limit per user, so that it is the order alone that is fair "
        "or not. Wait: from the commit of a small user's job to its start. Jain's index is taken "
        "over normalised service as in his paper, what a user got over what max-min fairness gives "
        f"them ({FLOOD_SMALL} users one job each, the big one the rest), among the jobs that were "
        "begun after the small users' came, as many as make two turns for everybody "
        f"({2 * (FLOOD_SMALL + 1)}). 1 is fair; 1/{FLOOD_SMALL + 1} is one user having it all. All "
        "done: until the last of all jobs."
    )
    verdicts = []
    for ours, first in ((OURS_SQLITE, FIRST_SQLITE), (OURS_POSTGRES, FIRST_POSTGRES)):
        where = ours.rpartition(" ")[2]
        verdicts += [
            at_least(f"fairness on {where}: Jain's index", found, ours, "jain", 0.95),
            at_least_times(f"fairness on {where}: the small users' p95 wait, how many times "
                           "shorter than first come", found, first, ours, "p95_ms", 10),
        ]  # fmt: skip
    return Findings(
        "fairness", "Job queue, one busy user", about,
        [Table(["contender", "Jain's index", "small users' wait p50 ms", "p95 ms", "all done s",
                "note"], cells(found, columns))],
        verdicts,
    )  # fmt: skip


def _no_ops(kind: Kind, place: Place, processes: int, plan: Plan) -> Trial:
    jobs = kind.jobs // 10 if plan.quick else kind.jobs

    def run() -> Figures:
        url = kind.url(place)
        with _queues(kind, url, processes, CONCURRENCY) as workers, _counter(kind, url) as count:
            share = jobs // processes
            total = share * processes
            took = _fill(workers, share)
            for worker in workers:
                worker.go("work")
            worked = _rate(count, 0, total)
            for worker in workers:
                worker.wait_for("working")
            began = time.monotonic()
            for worker in workers:
                worker.go(f"fill {share}")
            _wait(count, 2 * total)
            through = total / (time.monotonic() - began)
        return {"enqueued": total / took, "worked": worked, "through": through}

    return Trial(kind.name, run)


def _fill(workers: Sequence[Child], share: int) -> float:
    for worker in workers:
        worker.go(f"fill {share}")
    return max(float(worker.wait_for("filled").split()[1]) for worker in workers)


def _flood(kind: Kind, place: Place, big: int) -> Trial:
    def run() -> Figures:
        with _queues(kind, kind.url(place), 1, FLOOD_CONCURRENCY, FLOOD_WORK_S) as (worker,):
            worker.go(f"flood {big} {FLOOD_SMALL}")
            found = worker.result(DONE_S_MAX * 2)
        return _fairness(found["served"], found["asked"], found["stored"])

    return Trial(kind.name, run)


def _fairness(served: Sequence[tuple[str, float, float]], asked: float, stored: float) -> Figures:
    begun = sorted((began, user) for user, began, _ in served)
    waits_ms = [1000 * max(0.0, began - stored) for began, user in begun if user != BIG]
    turns = [user for began, user in begun if began > asked][: 2 * (FLOOD_SMALL + 1)]
    small = [float(turns.count(f"small-{number}")) for number in range(FLOOD_SMALL)]
    shares = [*small, turns.count(BIG) / (len(turns) - FLOOD_SMALL)]
    first, last = min(began for _, began, _ in served), max(ended for _, _, ended in served)
    return {
        "jain": jain(shares),
        "p50_ms": quantile(waits_ms, 0.5),
        "p95_ms": quantile(waits_ms, 0.95),
        "done_s": last - first,
    }


@contextlib.contextmanager
def _queues(
    kind: Kind, url: str, processes: int, concurrency: int, work_s: float = 0.0
) -> Iterator[list[Child]]:
    """The processes, one after the other, so that the first one creates the tables."""
    words = ["bench.traffic.queue_process", kind.queue, url, "--concurrency", str(concurrency),
             "--work-s", str(work_s)]  # fmt: skip
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(processes):
            (child,) = stack.enter_context(children([words]))
            child.wait_for("ready")
            started.append(child)
        yield started


@contextlib.contextmanager
def _counter(kind: Kind, url: str) -> Iterator[Callable[[], int]]:
    """Asks the database how many jobs are done."""
    if kind.on_sqlite:
        path = url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            yield lambda: int(connection.execute(kind.done).fetchone()[0])
    else:
        with psycopg.connect(url, autocommit=True) as server:
            yield lambda: int((server.execute(kind.done).fetchone() or (0,))[0])


def _wait(count: Callable[[], int], wanted: int) -> float:
    """Until so many are done; when that was."""
    end = time.monotonic() + DONE_S_MAX
    while (done := count()) < wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"{done} of {wanted} jobs were done in {DONE_S_MAX:g} s")
        time.sleep(POLL_S)
    return time.monotonic()


def _rate(count: Callable[[], int], before: int, total: int) -> float:
    """Jobs per second from the moment that the first few are done."""
    began = _wait(count, before + max(1, int(COUNTED_FROM * total)))
    counted = count() - before
    if counted >= total:
        raise RuntimeError("too few jobs to measure the rate")
    return (total - counted) / (_wait(count, before + total) - began)
