"""A guarantee names the test that shows it; the test must be there."""

from __future__ import annotations

import re
from pathlib import Path

import crowdsafe.systems.factory

SOURCE = Path(crowdsafe.systems.factory.__file__).parent
TESTS = Path(__file__).parent


def test_every_test_that_a_docstring_names_exists() -> None:
    named = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"\btest_[a-z0-9_]+", path.read_text())
    }
    written = {
        name
        for path in TESTS.glob("test_*.py")
        for name in re.findall(r"def (test_[a-z0-9_]+)\(", path.read_text())
    }
    assert len(named) > 15
    assert named <= written
