"""Several processes on one database: nothing fails, nothing is lost, a killed one harms nobody."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.store.conftest import prepare
from tests.store.models import notes

from crowdsafe import Store

WAIT_S_MAX = 90


def start_writer(
    url: str, name: str, count: int, folder: Path
) -> tuple[subprocess.Popen[str], Path]:
    acknowledged = folder / f"{name}.txt"
    with acknowledged.open("w") as output:
        command = [sys.executable, "-m", "tests.store.writer", url, name, str(count)]
        return subprocess.Popen(command, stdout=output, text=True), acknowledged


def whole_lines(path: Path) -> list[str]:
    """What was printed; a line that the kill cut off was not acknowledged."""
    text = path.read_text()
    return text[: text.rfind("\n") + 1].split()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_on_one_database_lose_nothing(url: str, tmp_path: Path, processes: int) -> None:
    count = 150
    writers = [start_writer(url, f"w{number}", count, tmp_path)[0] for number in range(processes)]
    assert [writer.wait(WAIT_S_MAX) for writer in writers] == [0] * processes
    with Store(url) as store:
        written = store.read(notes)
    assert sorted(written) == sorted(
        f"w{process}-{number}" for process in range(processes) for number in range(count)
    )


def kill_and_check(url: str, folder: Path, rng: random.Random, kills: int) -> None:
    survivor, survived = start_writer(url, "survivor", 40 * kills, folder)
    acknowledged: list[str] = []
    for number in range(kills):
        victim, printed = start_writer(url, f"victim{number}", 100_000, folder)
        deadline = time.monotonic() + WAIT_S_MAX
        while not whole_lines(printed) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        victim.send_signal(signal.SIGKILL)
        victim.wait(WAIT_S_MAX)
        assert whole_lines(printed), "the victim was killed before it wrote: nothing was tested"
        acknowledged += whole_lines(printed)
    assert survivor.wait(WAIT_S_MAX + kills * 5) == 0
    acknowledged += whole_lines(survived)
    with Store(url) as store:
        written = store.read(notes)
    assert len(written) == len(set(written))
    assert set(acknowledged) <= set(written)
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_killed_process_loses_nothing_it_acknowledged(
    url: str, tmp_path: Path, rng: random.Random
) -> None:
    kill_and_check(url, tmp_path, rng, 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_killed_processes_lose_nothing_they_acknowledged(
    url: str, tmp_path: Path, rng: random.Random
) -> None:
    kill_and_check(url, tmp_path, rng, 50)


def test_a_naive_writer_does_lose_under_the_same_load(sqlite_url: str) -> None:
    """The load is real: two plain connections that read, then write, run into each other."""
    prepare(sqlite_url)
    path = sqlite_url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as one, sqlite3.connect(path) as two:
        seen = [c.execute("SELECT n FROM counted").fetchone()[0] for c in (one, two)]
        for connection, n in zip((one, two), seen, strict=True):
            connection.execute("UPDATE counted SET n = ?", (n + 1,))
            connection.commit()
        assert one.execute("SELECT n FROM counted").fetchone() == (1,)
