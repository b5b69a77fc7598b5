"""What `tools/run-tests` runs a second time, and what not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_TESTS = Path(__file__).parent.parent / "tools" / "run-tests"

FAILS_ONCE = """
from pathlib import Path

def test_{name}():
    seen = Path(__file__).with_name("seen-{name}")
    again = seen.exists()
    seen.touch()
    assert again
"""
FAILS = "def test_it(): assert False"
PASSES = "def test_it(): pass"


def run(folder: Path, tests: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of the tool over these files, and nothing of the run around it."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    for name, text in tests.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    ended = subprocess.run(
        [sys.executable, str(RUN_TESTS), "-q"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_what_fails_once_is_run_alone_and_named(tmp_path: Path) -> None:
    tests = {"test_rare.py": FAILS_ONCE.format(name="rare"), "test_good.py": PASSES}
    code, output = run(tmp_path, tests)
    assert code == 0
    assert "PASSED ALONE:\ntest_rare.py::test_rare\n" in output


@pytest.mark.parametrize(
    ("tests", "twice"),
    [
        pytest.param({"test_bad.py": FAILS}, True, id="again"),
        pytest.param({f"test_{n}.py": FAILS_ONCE.format(name=n) for n in range(4)}, False, id="4"),
        pytest.param(
            {"tests/writes/test_rare.py": FAILS_ONCE.format(name="rare")}, False, id="guarantee"
        ),
    ],
)
def test_other_failures_stay(tmp_path: Path, tests: dict[str, str], twice: bool) -> None:
    code, output = run(tmp_path, tests)
    assert code == 1
    assert ("once more" in output) is twice
    assert "PASSED ALONE" not in output
