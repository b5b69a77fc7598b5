"""``crowdsafe find`` on targets that hang, crash and misbehave: it says what happened, finds the
races that are there all the same, and ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[3]
BAD, SPEND, OTHER = "POST /bad", "POST /spend", "POST /other"
TIMEOUT_S = 110
# Where something may hang, a hang is soon called one; elsewhere a busy machine is no hang.
SOON_S, LATE_S = 1.5, 10.0


class Told:
    """What the command said of a target."""

    def __init__(self, done: subprocess.CompletedProcess[str], findings: list[Any]) -> None:
        self.code = done.returncode
        self.output = done.stdout + done.stderr
        self.of = {tuple(finding["operations"]): finding for finding in findings}

    def verdict(self, *operations: str) -> str:
        return str(self._finding(operations)["verdict"])

    def reason(self, *operations: str) -> str:
        return str(self._finding(operations)["reason"])

    def _finding(self, operations: tuple[str, ...]) -> Any:
        """The finding of these operations; of an operation with itself, however it is numbered."""
        for named, finding in self.of.items():
            bare = tuple(re.sub(r" [#(].*", "", name) for name in named)
            if operations in (named, bare):
                return finding
        raise AssertionError(f"nothing is said of {operations}: {self.of.keys()} {self.output}")


def ask(url: str, folder: Path, target: str, *requests: str, hang_s: float = SOON_S) -> Told:
    """Run the command on one of the targets, on that database."""
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    written = folder / "findings.json"
    command = [sys.executable, "-m", "crowdsafe", "find", f"tests.find.hostile.targets:{target}()"]
    command += ["--database", url, "--setup", "tests.find.hostile.targets:setup"]
    command += ["--budget-s", "30", "--hang-s", str(hang_s), "--json", str(written)]
    for request in requests:
        command += ["--request", request]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"HOSTILE_DATABASE": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    findings = json.loads(written.read_text()) if written.exists() else []
    return Told(done, findings)


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("hangs_in_python", "hang|hung|no progress|did not"),
        slow("spins_in_python", "hang|hung|no progress|did not"),
        slow("hangs_in_sql", "hang|hung|no progress|did not"),
        ("exits", "exit|died|ended|crash"),
        ("segfaults", "SIGSEGV|signal|crash|segmentation"),
        ("raises", "RuntimeError: the printer is on fire"),
        ("calls_sys_exit", "SystemExit"),
        ("interrupts", "KeyboardInterrupt"),
        ("asks_for_ever", "statements"),
    ],
)
def test_an_operation_that_fails_alone_is_inconclusive_and_does_not_hide_the_race_of_another(
    sqlite_url: str, tmp_path: Path, target: str, reason: str
) -> None:
    told = ask(sqlite_url, tmp_path, target, BAD, SPEND)
    assert told.verdict(BAD, BAD) == "inconclusive"
    assert re.search(reason, told.reason(BAD, BAD), re.IGNORECASE), told.reason(BAD, BAD)
    assert told.verdict(SPEND, SPEND) == "race"
    assert told.code == 1


@pytest.mark.postgres
@pytest.mark.parametrize("target", ["hangs_in_sql", "exits"])
def test_the_same_on_postgresql(pg_url: str, tmp_path: Path, target: str) -> None:
    told = ask(pg_url, tmp_path, target, BAD, SPEND)
    assert told.verdict(BAD, BAD) == "inconclusive"
    assert told.verdict(SPEND, SPEND) == "race"


@pytest.mark.slow
def test_a_deadlock_of_two_locks_in_the_target_is_told_and_ends(
    sqlite_url: str, tmp_path: Path
) -> None:
    told = ask(sqlite_url, tmp_path, "hangs_when_two_come", BAD, OTHER, SPEND)
    assert told.verdict(BAD, OTHER) in {"inconclusive", "race"}
    assert told.verdict(SPEND, SPEND) == "race"


def test_a_crash_that_only_some_schedules_show_is_told(sqlite_url: str, tmp_path: Path) -> None:
    told = ask(sqlite_url, tmp_path, "exits_when_two_come", BAD, SPEND, hang_s=LATE_S)
    assert told.verdict(BAD, SPEND) == "inconclusive"
    assert told.verdict(BAD, BAD) == "proven"
    assert told.verdict(SPEND, SPEND) == "race"


@pytest.mark.parametrize("target", ["prints", "changes_directory", "sleeps", slow("never_stops")])
def test_an_odd_operation_does_not_hide_its_race(
    sqlite_url: str, tmp_path: Path, target: str
) -> None:
    told = ask(sqlite_url, tmp_path, target, BAD, hang_s=LATE_S)
    assert told.verdict(BAD, BAD) == "race", told.output
    assert told.code == 1


@pytest.mark.parametrize(
    "target",
    [
        "uses_background_tasks",
        "pools_connections",
        "uses_two_connections",
        "nests_savepoints",
        "starts_threads",
        "answers_much",
        "streams",
    ],
)
def test_an_odd_way_to_the_database_does_not_hide_a_race(
    db_url: str, tmp_path: Path, target: str
) -> None:
    told = ask(db_url, tmp_path, target, BAD, hang_s=LATE_S)
    assert told.verdict(BAD, BAD) == "race", told.output
    assert told.code == 1


@pytest.mark.parametrize("target", ["fires_and_forgets", "blocks_the_loop"])
def test_what_cannot_be_controlled_stops_nothing(
    sqlite_url: str, tmp_path: Path, target: str
) -> None:
    told = ask(sqlite_url, tmp_path, target, BAD)
    assert told.verdict(BAD, BAD) in {"race", "proven", "not-found", "inconclusive"}
    assert "Traceback" not in told.output


@pytest.mark.postgres
def test_a_transaction_that_is_left_open_is_no_end_and_other_databases_are_left_alone(
    pg_url: str, pg_server_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(pg_server_url) as bystander:
        bystander.execute("SELECT 1")
        told = ask(pg_url, tmp_path, "leaks_transaction", BAD, SPEND)
        bystander.execute("SELECT 1")
    assert told.verdict(BAD, BAD) == "inconclusive"
    assert told.verdict(SPEND, SPEND) == "race"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cannot_be_made", "the settings are missing"),
        ("exits_at_import", "usage: hostile PORT"),
        ("never_starts", "no licence found"),
    ],
)
def test_an_app_that_does_not_come_up_is_a_clear_sentence(
    sqlite_url: str, tmp_path: Path, target: str, said: str
) -> None:
    told = ask(sqlite_url, tmp_path, target, BAD)
    assert told.code == 2
    assert said in told.output
