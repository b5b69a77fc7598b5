"""The pytest plugin: ``pytest --find-races`` tries at once what the tests do one after another.

Each request that a test sends through a test client, and each call of a function marked with
:func:`crowdsafe.find.operation`, is tried with itself and with what the same test did before it,
on the test's own database, which is put back before the test goes on. Races fail the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from crowdsafe.find.recording.recorder import Recorder
    from crowdsafe.find.report import Report

_KEY = pytest.StashKey["_Plugin"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crowdsafe", "races (crowdsafe)")
    group.addoption(
        "--find-races",
        action="store_true",
        help="try the requests that the tests make with themselves and with each other",
    )
    group.addoption(
        "--find-races-budget-s",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds for each request (5)",
    )
    group.addoption(
        "--find-races-database",
        metavar="URL",
        help="the tests' database (default: the one that was connected to last)",
    )
    group.addoption("--find-races-html", type=Path, metavar="FILE", help="write the report there")
    group.addoption("--find-races-json", type=Path, metavar="FILE", help="the findings as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Patch the drivers before any conftest imports them by name."""
    if not early_config.known_args_namespace.find_races:
        return
    if getattr(early_config.known_args_namespace, "numprocesses", None):
        raise pytest.UsageError("--find-races runs in one process: leave -n out")
    for needed in ("sqlglot", "rich"):
        if find_spec(needed) is None:
            raise pytest.UsageError(f"--find-races needs {needed}: pip install 'crowdsafe[find]'")
    from crowdsafe.find.recording.clients import watch_clients
    from crowdsafe.find.recording.recorder import Recorder

    options = early_config.known_args_namespace
    recorder = Recorder(budget_s=options.find_races_budget_s, database=options.find_races_database)
    stop = recorder.start()
    unwatch = watch_clients(recorder)
    early_config.add_cleanup(stop)
    early_config.add_cleanup(unwatch)
    early_config.stash[_KEY] = plugin = _Plugin(recorder)
    early_config.pluginmanager.register(plugin, "crowdsafe-find-races")


class _Plugin:
    """The hooks of a run with ``--find-races``."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.recorder.begin(item.nodeid)
        try:
            return (yield)
        finally:
            self.recorder.begin("")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.report().races and exitstatus in {
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        from crowdsafe.find.report import html, json, terminal

        report = self.report()
        terminalreporter.section("races (crowdsafe)")
        if report.findings:
            terminalreporter.write_line(terminal.render(report))
        for request, why in sorted(self.recorder.declined.items()):
            terminalreporter.write_line(f"not tried: {request}: {why}")
        if not report.findings and not self.recorder.declined:
            terminalreporter.write_line("no request that writes was made through a test client")
        for option, write in (("html", html.render), ("json", json.render)):
            path = config.getoption(f"find_races_{option}")
            if path is not None:
                path.write_text(write(report), encoding="utf-8")

    def report(self) -> Report:
        from importlib.metadata import version

        from crowdsafe.find.report import Report

        findings = self.recorder.findings
        return Report(
            target="pytest",
            database="the tests' own",
            findings=findings,
            seconds=sum(finding.seconds for finding in findings),
            version=version("crowdsafe"),
        )
