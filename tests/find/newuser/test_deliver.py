"""What was found is shown, whatever comes of the files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find import command
from crowdsafe.find.report import Report


def test_the_report_is_shown_before_a_file_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("shop:app", "sqlite:///shop.db", [], 1.0, "1", ["a note to be seen"])
    args = argparse.Namespace(
        json=None, html=tmp_path, sarif=None, junit=None, write_test=None, quiet=True
    )
    with pytest.raises(ConfigError, match="cannot be written"):
        command._deliver(report, args)
    assert "a note to be seen" in capsys.readouterr().out
