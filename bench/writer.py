"""One process that writes a SQLite file with others: `python -m bench.writer KIND FILE ...`.

Says "ready" when it has warmed up, starts at a line on standard input, prints what it did as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import event

from bench import ours
from bench.hand_sqlite import core_update_with_ledger, tuned_engine
from bench.measure import Cell, measure

KINDS = ("crowdsafe", "plain")


def main() -> None:
    """Run one kind of writer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm", type=float, required=True)
    parser.add_argument("--busy-timeout", type=float, default=5.0)
    options = parser.parse_args()
    if options.kind == "crowdsafe":
        asyncio.run(_ours(options))
    else:
        _plain(options)


def _report(warm: int, answered: int, took_s: float, cell: Cell) -> None:
    done = {
        "answered": answered,
        "took_s": took_s,
        "in_warm_up": warm,
        "latencies_s": cell.latencies_s,
        "errors": cell.errors,
    }
    print(json.dumps(done), flush=True)


def _wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


async def _ours(options: argparse.Namespace) -> None:
    store = ours.Take("crowdsafe", f"sqlite:///{options.file}")
    await store.open()
    warm = await measure(store, options.callers, options.warm, Cell())
    cell = Cell()
    _wait_for_start()
    began = time.perf_counter()
    answered = await measure(store, options.callers, options.seconds, cell)
    took_s = time.perf_counter() - began
    await store.close()
    _report(warm, answered, took_s, cell)


def _plain(options: argparse.Namespace) -> None:
    """Threads with a connection each, BEGIN IMMEDIATE, and SQLite's own waiting."""
    engine = tuned_engine(
        options.file, "FULL", pool_size=options.callers, max_overflow=0,
        connect_args={"timeout": options.busy_timeout, "isolation_level": None},
    )  # fmt: skip
    event.listen(engine, "begin", lambda raw: raw.exec_driver_sql("BEGIN IMMEDIATE"))
    cell = Cell()
    lock = threading.Lock()

    def caller(until: float, into: Cell) -> None:
        latencies_s: list[float] = []
        errors: Counter[str] = Counter()
        while (began := time.perf_counter()) < until:
            try:
                with engine.begin() as connection:
                    core_update_with_ledger(connection)
            except Exception as error:
                errors[str(getattr(error, "orig", error))] += 1
            else:
                latencies_s.append(time.perf_counter() - began)
        with lock:
            into.latencies_s += latencies_s
            into.errors += errors

    def crowd(seconds: float, into: Cell) -> int:
        until = time.perf_counter() + seconds
        threads = [threading.Thread(target=caller, args=(until, into))
                   for _ in range(options.callers)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(into.latencies_s)

    warm_cell = Cell()
    warm = crowd(options.warm, warm_cell)
    cell.errors += warm_cell.errors
    _wait_for_start()
    began = time.perf_counter()
    answered = crowd(options.seconds, cell)
    took_s = time.perf_counter() - began
    engine.dispose()
    _report(warm, answered, took_s, cell)


if __name__ == "__main__":
    main()
