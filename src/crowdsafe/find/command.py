"""``crowdsafe find`` and ``crowdsafe replay``: what they take, what they print, how they end."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.report import EXIT_UNSURE, Report, exit_code

__all__ = ["add_find", "add_replay", "run_find", "run_replay"]

_EXAMPLE = """\
example:
  crowdsafe find shop.main:app --database sqlite:///dev.db \\
      --request 'POST /stock/allocate {"product_id": 1, "quantity": 80}'

Each request is tried with itself and with each other one, on a copy of the database.
Several requests of one user: 'GET /cart && POST /order {"cart": {{body.id}}}'.
exit code: 0 nothing found, 1 a race, 2 inconclusive or not set up"""

_REPLAY_EXAMPLE = """\
example:
  crowdsafe replay cs1.eNq... --database postgresql://joe:password@localhost/shop"""

_FORMATS = {
    "json": "the findings as JSON",
    "html": "the report as one HTML file",
    "sarif": "for code hosts (SARIF 2.1.0)",
    "junit": "for CI (JUnit XML)",
}
"""The modules of ``report`` that render a file each."""

Parsers = Any
"""What ``argparse`` gives for ``add_subparsers()``."""


def add_find(subparsers: Parsers) -> None:
    """Add the command ``find``."""
    parser = subparsers.add_parser(
        "find",
        help="find the races of an app, on a copy of its database",
        description="Finds the races of an app, on a copy of its database.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "target",
        nargs="?",
        metavar="TARGET",
        help="the app (module:app, file.py:app, module:create_app()) or a scenario file",
    )
    _add_database(parser)
    add(
        "--request",
        action="append",
        default=[],
        metavar="TEXT",
        help="one operation: 'POST /a {...}'; may be given several times",
    )
    add(
        "--call",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="one that is a function",
    )
    add("--header", action="append", default=[], metavar="'Name: value'", help="for all requests")
    add("--setup", metavar="MODULE:FUNCTION", help="runs once, before the copy is kept")
    add("--login", metavar="TEXT", help="a request that logs in: 'POST /login {...}'")
    add("--budget-s", type=_seconds, default=60.0, metavar="S", help="seconds for all (60)")
    add("--schedules", type=_count, default=2000, metavar="N", help="most for each pair (2000)")
    add("--hang-s", type=_seconds, default=10.0, metavar="S", help="without progress = hang (10)")
    add("--triples", action="store_true", help="three operations at a time, too")
    add("--self-only", action="store_true", help="each operation with itself only")
    add("--only", action="append", default=[], metavar="1,2", help="these operations (by number)")
    add("--isolation", choices=["all"], help="try what is found at each isolation level")
    add("--fixed", metavar="TARGET", help="try what is found on this mended variant too")
    _add_outputs(parser)
    add("--write-test", type=Path, metavar="FILE", help="a test that fails until it is mended")
    parser.set_defaults(run=run_find)


def add_replay(subparsers: Parsers) -> None:
    """Add the command ``replay``."""
    parser = subparsers.add_parser(
        "replay",
        help="show a race again that `find` has found",
        description="Shows a race again that `crowdsafe find` has found.",
        epilog=_REPLAY_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("token", metavar="TOKEN", help="from the report")
    parser.add_argument("--target", help="another target than the token's, such as a mended one")
    _add_database(parser)
    _add_outputs(parser)
    parser.set_defaults(run=run_replay)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///dev.db or postgresql://user:password@host/name; it is copied, not changed",
    )
    parser.add_argument(
        "--in-place", action="store_true", help="work on the database itself, then put it back"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    for name, what in _FORMATS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run_find(args: argparse.Namespace) -> int:
    """Find, print the report and write the files; the exit code is the report's."""
    operations = [*args.request, *(f"call {name}" for name in args.call)]
    if args.target is None and not operations:
        raise ConfigError("name the app and a request: see crowdsafe find --help")
    job = {
        "target": args.target,
        "operations": operations,
        "database": args.database,
        "setup": args.setup,
        "login": args.login,
        "headers": args.header,
        "budget_s": args.budget_s,
        "schedules": args.schedules,
        "triples": args.triples,
        "in_place": args.in_place,
        "hang_s": args.hang_s,
        "self_only": args.self_only,
        "isolation": args.isolation == "all",
        "only": [_group(text, len(operations)) for text in args.only] or None,
    }
    report, interrupted = _supervised(job, args)
    _deliver(report, args)
    return EXIT_UNSURE if interrupted and not report.races else exit_code(report)


def run_replay(args: argparse.Namespace) -> int:
    """Replay, print, write the files. The exit code is 1 when the race is still there."""
    job = {
        "token": args.token,
        "target": args.target,
        "database": args.database,
        "in_place": args.in_place,
        "hang_s": 10.0,
    }
    report, _ = _supervised(job, args)
    _deliver(report, args)
    return exit_code(report)


def _supervised(job: dict[str, Any], args: argparse.Namespace) -> tuple[Report, bool]:
    from crowdsafe.find.narration import Narrator
    from crowdsafe.find.supervise import Supervisor

    began = time.monotonic()
    with Narrator(quiet=args.quiet) as narrator:
        outcome = Supervisor(job, tell=narrator.tell, hang_s=job["hang_s"]).run()
        found = {group: one for group, one in outcome.findings.items() if _is_race(one)}
        fixed = getattr(args, "fixed", None)
        if fixed and found and not outcome.interrupted:
            outcome.notes += _try_fixed(job, fixed, found, narrator.tell)
    notes = list(outcome.notes)
    if outcome.interrupted:
        notes.append("interrupted: what had been found by then is shown")
    report = Report(
        target=outcome.target,
        database=outcome.database,
        findings=list(outcome.findings.values()),
        seconds=time.monotonic() - began,
        version=version("crowdsafe"),
        notes=notes,
    )
    return report, outcome.interrupted


def _is_race(finding: Finding) -> bool:
    return finding.verdict is Verdict.RACE


def _try_fixed(
    job: dict[str, Any],
    fixed: str,
    found: dict[tuple[int, ...], Finding],
    tell: Callable[[dict[str, Any]], None],
) -> list[str]:
    """What the same operations do on the mended variant, as a line of each finding's matrix.
    Returns the notes on it."""
    from crowdsafe.find.matrix import row_of
    from crowdsafe.find.supervise import Supervisor

    again = job | {"target": fixed, "only": list(found), "isolation": False}
    try:
        outcome = Supervisor(again, tell=tell, hang_s=job["hang_s"]).run()
    except ConfigError as error:
        return [f"{fixed} could not be tried: {error.message}"]
    for group, finding in outcome.findings.items():
        found[group].matrix = (*found[group].matrix, row_of(fixed, finding))
    return []


def _deliver(report: Report, args: argparse.Namespace) -> None:
    from rich.console import Console

    from crowdsafe.find.report import terminal

    terminal.show(report, Console())
    for name in _FORMATS:
        path = getattr(args, name)
        if path is not None:
            _write(path, import_module(f"crowdsafe.find.report.{name}").render(report))
    test = getattr(args, "write_test", None)
    if test is not None and report.races:
        from crowdsafe.find.report import regression

        regression.write_test(report, test)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _group(text: str, count: int) -> tuple[int, ...]:
    """``1,2`` as the operations' places, which are counted from 1."""
    parts = text.replace(" ", "").split(",")
    places = tuple(int(part) - 1 for part in parts if part.isascii() and part.isdigit())
    top = count or max(places, default=0) + 1
    if len(places) != len(parts) or not 2 <= len(places) <= 3 or not _within(places, top):
        raise ConfigError(f"--only {text}: write two or three numbers of operations, such as 1,2")
    return places


def _within(places: Sequence[int], top: int) -> bool:
    return all(0 <= place < top for place in places)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0, at most 86400"
        )
    return seconds


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10000000")
    return int(text)
