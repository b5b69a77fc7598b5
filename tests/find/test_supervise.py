"""A target that ends its process, or hangs it, costs one pair; the others go on."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Verdict
from crowdsafe.find.stacks import where_it_hangs
from crowdsafe.find.supervise import Outcome, Supervisor

WORKER = """
import faulthandler, json, os, signal, sys, time

job = json.loads(sys.stdin.readline())
pairs = [tuple(pair) for pair in job.get("only") or [(0, 0), (1, 1), (0, 1)]]
with open("starts", "a") as file:
    file.write(f"{os.getpid()} {pairs} {job['budget_s']}\\n")
stacks = open(job["stacks"], "w")
faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)

def tell(kind, **event):
    print(json.dumps({"event": kind, **event}), flush=True)

def trouble(name):
    if job.get("at") == name:
        exec(job["do"], globals())

def spin():
    while True:
        time.sleep(0.05)
        tell("alive", moved=[7])

def crawl():
    for number in range(60):
        time.sleep(0.05)
        tell("alive", moved=[7, number])

trouble("start")
os.makedirs("crowdsafe-find-copy", exist_ok=True)
working = "sqlite:///" + os.path.abspath("crowdsafe-find-copy/x.db")
about = {"target": "shop", "database": "sqlite:///x", "operations": ["a", "b"]}
tell("plan", working=working, groups=pairs, **about)
for name in sorted({"ab"[number] for pair in pairs for number in pair}):
    tell("recording", operation=name)
    trouble(name)
for done, pair in enumerate(pairs):
    names = ["ab"[number] for number in pair]
    tell("trying", group=pair, operations=names, done=done, of=len(pairs))
    trouble("".join(names))
    tell("found", group=pair, finding={"operations": names, "verdict": "proven", "seconds": 1.5})
trouble("last")
tell("notes", notes=["a note"])
tell("end")
"""


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake_worker.py").write_text(WORKER)

    def run(at: str = "", do: str = "", **options: Any) -> Outcome:
        job = {"at": at, "do": do, "budget_s": 5.0}
        command = (sys.executable, "fake_worker.py")
        options = {"hang_s": 20.0, "silent_s": 20.0} | options
        return Supervisor(job, command=command, **options).run()

    return run


# The worker says something after each of its own steps, which a busy machine may put off.
IMPATIENT = {"hang_s": 1.0, "silent_s": 0.5}


def said(outcome: Outcome) -> dict[tuple[int, ...], str]:
    return {
        group: finding.reason if finding.verdict is Verdict.INCONCLUSIVE else finding.verdict.value
        for group, finding in outcome.findings.items()
    }


def starts() -> list[str]:
    return Path("starts").read_text().splitlines()


def test_all_in_one_process(supervised: Any) -> None:
    told: list[str] = []
    outcome = supervised(tell=lambda event: told.append(event["event"]))
    assert said(outcome) == {(0, 0): "proven", (1, 1): "proven", (0, 1): "proven"}
    assert (outcome.target, outcome.notes, len(starts())) == ("shop", ["a note"], 1)
    assert told[:3] == ["plan", "recording", "recording"]


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (
            "print('oh no', file=sys.stderr); os._exit(3)",
            "died with exit code 3; its last words: oh no",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died with SIGSEGV"),
        ("sys.exit(0)", "died with exit code 0"),
        ("print('not json'); raise ValueError('x')", "ValueError: x"),
    ],
    ids=["exit", "segv", "quiet", "raises"],
)
def test_a_crash_is_the_pairs_own(supervised: Any, do: str, why: str) -> None:
    found = said(supervised(at="bb", do=do))
    assert why in found.pop((1, 1))
    assert found == {(0, 0): "proven", (0, 1): "proven"}
    assert ["[(0, 1)]" in line for line in starts()] == [False, True]


@pytest.mark.parametrize("do", ["time.sleep(60)", "spin()"], ids=["silent", "idle"])
def test_a_hang_is_ended_and_says_where(supervised: Any, do: str) -> None:
    found = said(supervised(at="bb", do=do, **IMPATIENT))
    why = found.pop((1, 1))
    assert "nothing went on for 1.5 s" in why
    assert found == {(0, 0): "proven", (0, 1): "proven"}
    assert all(_is_gone(int(line.split()[0])) for line in starts())


def test_the_place_of_a_hang_is_the_targets_line(supervised: Any) -> None:
    line = next(n for n, text in enumerate(WORKER.splitlines(), 1) if "exec(job" in text)
    why = said(supervised(at="bb", do="time.sleep(60)", **IMPATIENT))[1, 1]
    assert why.endswith(f"fake_worker.py:{line} in trouble")


def test_slow_is_not_hanging(supervised: Any) -> None:
    found = said(supervised(at="bb", do="crawl()", **IMPATIENT))
    assert found[1, 1] == "proven"
    assert len(starts()) == 1


def test_an_operation_that_crashes_alone_takes_its_pairs(supervised: Any) -> None:
    found = said(supervised(at="b", do="os._exit(9)"))
    assert found.pop((0, 0)) == "proven"
    assert all(why.startswith("b alone: the process died") for why in found.values())
    assert len(starts()) == 2


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("os._exit(4)", "could not be started: the process died with exit code 4"),
        (
            "tell('refused', message='no such database'); tell('end'); os._exit(0)",
            "^no such database$",
        ),
    ],
    ids=["dies", "refused"],
)
def test_a_start_that_fails_is_an_error(supervised: Any, do: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        supervised(at="start", do=do)


def test_the_copy_of_a_dead_process_is_removed(supervised: Any) -> None:
    supervised()
    assert Path("crowdsafe-find-copy").exists()
    supervised(at="last", do="os._exit(1)")
    assert not Path("crowdsafe-find-copy").exists()


def test_the_budget_is_for_what_is_left_of_the_search(supervised: Any) -> None:
    supervised(at="bb", do="time.sleep(60)", **IMPATIENT)
    assert [json.loads(line.rpartition(" ")[2]) for line in starts()] == [5.0, 5.0 - 1.5]


def test_a_death_after_all_was_found_costs_nothing(supervised: Any) -> None:
    assert set(said(supervised(at="last", do="os._exit(1)")).values()) == {"proven"}


def test_an_interrupt_keeps_what_is_known(supervised: Any) -> None:
    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "found":
            raise KeyboardInterrupt

    outcome = supervised(tell=tell)
    assert outcome.interrupted
    assert said(outcome) == {(0, 0): "proven"}
    assert _is_gone(int(starts()[0].split()[0]))


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


STACKS = """
Thread 0x01 (most recent call first):
  File "{lib}/threading.py", line 320 in wait
  File "{find}/gates/control.py", line 30 in enter
  File "/app/shop.py", line 5 in read

Thread 0x02 (most recent call first):
  File "{lib}/socket.py", line 1 in recv
  File "/x/site-packages/redis/client.py", line 1 in get
  File "/app/shop.py", line 9 in lock
  File "{find}/engine/actor.py", line 3 in run
"""


def test_the_thread_that_is_not_held_by_the_finder_tells() -> None:
    import threading

    import crowdsafe.find

    lib = Path(threading.__file__).parent
    find = Path(str(crowdsafe.find.__file__)).parent
    text = STACKS.format(lib=lib, find=find)
    assert where_it_hangs(text) == "/app/shop.py:9 in lock"
    assert where_it_hangs(text.replace('shop.py", line 9', 'site-packages/a.py", line 9')) == (
        "/app/shop.py:5 in read"
    )
    assert where_it_hangs("") is None
