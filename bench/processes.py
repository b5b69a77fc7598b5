"""Several processes on one SQLite file: the lane's turns against SQLite's own waiting."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.pg_server import ROOT

from bench.databases import fill
from bench.goals import Comparison, Goal, Row, Verdict, counted
from bench.hand_sqlite import TOTAL
from bench.measure import Cell, Plan, Results, ratio

CALLERS = 16
PROCESSES = (2, 4)
LONGER = 1.5
"""Times a cell's usual seconds, since a wait of SQLite's can be long."""
END_S_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to write: its label, and what `bench.writer` is told."""

    name: str
    arguments: Sequence[str]


OURS = Kind("crowdsafe: take, FULL", ("crowdsafe",))
KINDS = (
    OURS,
    Kind("Core, BEGIN IMMEDIATE, busy_timeout 5 s", ("plain", "--busy-timeout", "5")),
    Kind("Core, BEGIN IMMEDIATE, busy_timeout 30 s", ("plain", "--busy-timeout", "30")),
)


@dataclass(slots=True)
class _File:
    path: Path
    answered: int = 0

    def missing(self) -> tuple[int, int]:
        """Answered calls that the counter lacks, and that the ledger lacks."""
        with contextlib.closing(sqlite3.connect(self.path)) as raw:
            counter = raw.execute(TOTAL).fetchone()[0]
            ledger = raw.execute("SELECT count(*) FROM bench_movements").fetchone()[0]
        return self.answered - counter, self.answered - ledger


def compare(folder: Path, plan: Plan) -> Comparison:
    """Two and four processes, each with 16 callers."""
    files = {}
    for number, kind in enumerate(KINDS):
        files[kind.name] = _File(folder / f"processes-{number}.db")
        fill(f"sqlite:///{files[kind.name].path}")
    results: Results = {}
    for processes in PROCESSES:
        for turn in range(plan.rounds):
            for kind in [*KINDS[turn % len(KINDS) :], *KINDS[: turn % len(KINDS)]]:
                cell = results.setdefault((kind.name, processes), Cell())
                _round(kind, files[kind.name], processes, plan, cell)
    lost = {}
    for name, file in files.items():
        counter, ledger = file.missing()
        if counter or ledger:
            lost[f"{name} (counter)"], lost[f"{name} (ledger)"] = counter, ledger
    goals = [
        Goal(f"{processes} processes on one SQLite file: against BEGIN IMMEDIATE", OURS.name,
             KINDS[1].name, processes, 1)
        for processes in PROCESSES
    ]  # fmt: skip
    verdicts = [verdict for goal in goals if (verdict := goal.judge(results))]
    for processes in PROCESSES:
        errors = results[OURS.name, processes].errors.total()
        missing = sum(map(abs, files[OURS.name].missing()))
        text = f"{processes} processes on one SQLite file: failed or lost writes"
        verdicts.append(Verdict(text, "0", str(errors + missing), not errors + missing))
    about = (
        f"Processes that take from one row of one file, with a ledger row, {CALLERS} callers in "
        "each: asyncio tasks for crowdsafe, threads with a connection each for the peers. The "
        "column callers counts processes × callers."
    )
    return Comparison(
        "sqlite-processes", "SQLite, several processes on one file", about,
        _rows(results), verdicts,
        ["slowest ms", "errors"], lost,
    )  # fmt: skip


def _rows(results: Results) -> list[Row]:
    rows = []
    for processes in PROCESSES:
        for kind in KINDS:
            cell = results[kind.name, processes]
            ours_is = None if kind is OURS else ratio(results, OURS.name, kind.name, processes)
            slowest_ms = 1000 * max(cell.latencies_s, default=0)
            rows.append(
                Row(f"{processes} × {CALLERS}", kind.name, cell.rate,
                    (min(cell.rates), max(cell.rates)), cell.quantile_ms(0.5),
                    cell.quantile_ms(0.99), ours_is,
                    [f"{slowest_ms:,.0f}", counted(cell.errors)])
            )  # fmt: skip
    return rows


def _round(kind: Kind, file: _File, processes: int, plan: Plan, cell: Cell) -> None:
    seconds = plan.cell_s * LONGER
    command = [
        sys.executable, "-m", "bench.writer", *kind.arguments, str(file.path),
        "--callers", str(CALLERS), "--seconds", str(seconds), "--warm", str(plan.warm_s),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(_writer(command)) for _ in range(processes)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n", "a writer did not start"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        done: list[dict[str, Any]] = [
            json.loads(writer.communicate(timeout=END_S_MAX)[0]) for writer in writers
        ]
    answered = sum(each["answered"] for each in done)
    cell.rates.append(answered / max(each["took_s"] for each in done))
    for each in done:
        cell.latencies_s += each["latencies_s"]
        cell.errors.update(each["errors"])
        file.answered += each["answered"] + each["in_warm_up"]


@contextlib.contextmanager
def _writer(command: Sequence[str]) -> Any:
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
