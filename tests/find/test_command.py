"""The command line: what it takes, what it writes, and how it ends."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.command import add_find, add_replay
from crowdsafe.find.model import Anomaly, Finding, Verdict
from crowdsafe.find.supervise import Outcome

RACE = Finding(("POST /a", "POST /a"), Verdict.RACE, Anomaly.LOST_UPDATE, summary="lost")
PROVEN = Finding(("POST /a", "POST /a"), Verdict.PROVEN, reason="all")
UNSURE = Finding(("POST /a", "POST /a"), Verdict.INCONCLUSIVE, reason="it died")


class FakeSupervisor:
    """Takes the place of the processes; ``outcomes`` are given out in turn."""

    jobs: ClassVar[list[dict[str, Any]]] = []
    outcomes: ClassVar[list[Outcome]] = []

    def __init__(self, job: dict[str, Any], **_: Any) -> None:
        self.jobs.append(job)

    def run(self) -> Outcome:
        return self.outcomes.pop(0)


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> type[FakeSupervisor]:
    monkeypatch.setattr("crowdsafe.find.supervise.Supervisor", FakeSupervisor)
    FakeSupervisor.jobs.clear()
    FakeSupervisor.outcomes.clear()
    return FakeSupervisor


def outcome(finding: Finding = PROVEN, **more: Any) -> Outcome:
    return Outcome("shop", "sqlite:///x", ["POST /a"], {(0, 0): replace(finding)}, **more)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="crowdsafe")
    commands = parser.add_subparsers(required=True)
    add_find(commands)
    add_replay(commands)
    options = parser.parse_args(words)
    code: int = options.run(options)
    return code


def test_what_is_asked_for_reaches_the_worker(supervisor: type[FakeSupervisor]) -> None:
    supervisor.outcomes.append(outcome())
    words = ["shop.main:app", "--database", "sqlite:///x", "--header=A:1", "--setup=s:f", "--login"]
    code = run(
        "find",
        *words,
        "POST /login a=1",
        "--request",
        "POST /a",
        "--call",
        "shop:buy",
        "--budget-s=5",
        "--schedules=7",
        "--triples",
        "--only=1,2",
        "--isolation=all",
    )
    assert code == 0
    (job,) = supervisor.jobs
    assert job == {
        "target": "shop.main:app",
        "operations": ["POST /a", "call shop:buy"],
        "database": "sqlite:///x",
        "setup": "s:f",
        "login": "POST /login a=1",
        "headers": ["A:1"],
        "budget_s": 5.0,
        "schedules": 7,
        "triples": True,
        "in_place": False,
        "hang_s": 10.0,
        "self_only": False,
        "isolation": True,
        "only": [(0, 1)],
    }


@pytest.mark.parametrize(
    ("finding", "interrupted", "code"),
    [(PROVEN, False, 0), (RACE, False, 1), (UNSURE, False, 2), (PROVEN, True, 2), (RACE, True, 1)],
    ids=["nothing", "race", "unsure", "cut", "cut-race"],
)
def test_exit_codes(
    supervisor: type[FakeSupervisor], finding: Finding, interrupted: bool, code: int
) -> None:
    supervisor.outcomes.append(outcome(finding, interrupted=interrupted))
    assert run("find", "a:app", "--database=sqlite:///x", "--request=POST /a") == code


def test_files_and_the_report_on_stdout(
    supervisor: type[FakeSupervisor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor.outcomes.append(outcome(RACE))
    files = {
        name: tmp_path / "out" / f"found.{name}" for name in ("json", "html", "sarif", "junit")
    }
    run("find", "a:app", "--quiet", *(f"--{name}={path}" for name, path in files.items()))
    said = capsys.readouterr()
    assert "Lost update" in said.out
    assert said.err == ""
    (found,) = json.loads(files["json"].read_text())
    assert (found["verdict"], found["anomaly"]) == ("race", "lost update")
    assert "<html" in files["html"].read_text()
    assert "2.1.0" in files["sarif"].read_text()
    assert "<testsuite" in files["junit"].read_text()


def test_a_file_that_cannot_be_written(supervisor: type[FakeSupervisor], tmp_path: Path) -> None:
    supervisor.outcomes.append(outcome())
    with pytest.raises(ConfigError, match="cannot be written"):
        run("find", "a:app", f"--json={tmp_path}")


def test_the_mended_variant_is_tried_with_what_was_found(
    supervisor: type[FakeSupervisor], tmp_path: Path
) -> None:
    first = outcome(RACE)
    supervisor.outcomes += [first, outcome(PROVEN)]
    assert run("find", "a:app", "--request=POST /a", "--fixed=a:mended") == 1
    assert supervisor.jobs[1]["target"] == "a:mended"
    assert supervisor.jobs[1]["only"] == [(0, 0)]
    assert first.findings[0, 0].matrix == (("a:mended", "proven", "all"),)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name the app"),
        (["a:app", "--request=POST /a", "--only=1"], "two or three numbers"),
        (["a:app", "--request=POST /a", "--only=1,2"], "two or three numbers"),
        (["a:app", "--only=0,1"], "two or three numbers"),
    ],
    ids=["nothing", "one", "beyond", "zero"],
)
def test_wrong_use_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        run("find", *words)


@pytest.mark.parametrize("word", ["--budget-s=0", "--budget-s=x", "--schedules=0"])
def test_wrong_numbers_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("find", "a:app", word)
    assert "is not a number" in capsys.readouterr().err


def test_replay(supervisor: type[FakeSupervisor], capsys: pytest.CaptureFixture[str]) -> None:
    supervisor.outcomes.append(outcome(RACE))
    assert run("replay", "cs1.abc", "--database=sqlite:///y") == 1
    assert supervisor.jobs[0]["token"] == "cs1.abc"
    assert "Lost update" in capsys.readouterr().out


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("find", "replay"):
        with pytest.raises(SystemExit):
            run(command, "--help")
        assert "example:" in capsys.readouterr().out


def test_a_mended_variant_that_does_not_start_costs_no_finding(
    supervisor: type[FakeSupervisor], capsys: pytest.CaptureFixture[str]
) -> None:
    class Once(supervisor):  # type: ignore[misc, valid-type]
        def run(self) -> Outcome:
            if self.jobs[1:]:
                raise ConfigError("no such module")
            return super().run()

    supervisor.outcomes.append(outcome(RACE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crowdsafe.find.supervise.Supervisor", Once)
        assert run("find", "a:app", "--request=POST /a", "--fixed=a:mended") == 1
    assert "a:mended could not be tried: no such module" in " ".join(
        capsys.readouterr().out.split()
    )
