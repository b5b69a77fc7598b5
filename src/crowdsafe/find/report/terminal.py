"""Findings on a terminal: readable without colour, when piped, and in 80 columns."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crowdsafe.find.judge.anomalies import explanation
from crowdsafe.find.model import Finding, Severity, Verdict
from crowdsafe.find.report import Report
from crowdsafe.find.report.diagram import drawn
from crowdsafe.find.report.outcomes import comparison
from crowdsafe.find.report.scene import scene_of
from crowdsafe.find.report.words import (
    clean,
    count,
    cut,
    duration,
    one_line,
    said,
    title,
    together,
)

__all__ = ["render", "show"]

_STYLES = {
    Verdict.RACE: "bold red",
    Verdict.PROVEN: "green",
    Verdict.NOT_FOUND: "yellow",
    Verdict.INCONCLUSIVE: "bold yellow",
}
_SEVERITIES = {Severity.HIGH: "bold red", Severity.MEDIUM: "yellow", Severity.LOW: ""}
_SOURCES_MAX = 8
_CURES_SHOWN = 1


def render(report: Report, *, width: int = 80) -> str:
    """What :func:`show` prints, as plain text."""
    out = io.StringIO()
    show(
        report, Console(file=out, width=width, no_color=True, highlight=False, force_terminal=False)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def show(report: Report, console: Console | None = None) -> None:
    """Print each finding, races with all that is needed to understand them, and a summary."""
    console = console or Console(highlight=False)
    for finding in report.findings:
        show_finding(finding, console)
    for note in report.notes:
        _say(console, f"note: {clean(note)}", "dim")
    if len(report.findings) > 1:
        console.print()
        console.print(_table(report))
    _say(console, _totals(report), "bold")


def show_finding(finding: Finding, console: Console) -> None:
    """One verdict line; for a race the whole story below it."""
    line = Text()
    line.append(finding.verdict.value.upper(), _STYLES[finding.verdict])
    line.append(f"  {together(finding.operations, 200)}")
    console.print(line)
    if finding.anomaly is None:
        facts = f"{count(finding.schedules, 'schedule')}, {duration(finding.seconds)}"
        _say(console, "; ".join(filter(None, [clean(finding.reason), facts])), "dim", indent=2)
        return
    for part in _story(finding, console):
        console.print(part)
    if finding.token:
        _say(console, "\nSee it again:", indent=2)
        console.print(Text(f"  crowdsafe replay {finding.token}"), soft_wrap=True)
    console.print()


def _story(finding: Finding, console: Console) -> Iterator[Padding | Text]:
    severity = finding.severity or Severity.LOW
    head = Text(title(finding), "bold")
    head.append(f"  severity {severity.value}", _SEVERITIES[severity])
    yield Padding(head, (0, 0, 0, 2), expand=False)
    anomaly = finding.anomaly
    if anomaly is not None:
        yield _indented(explanation(anomaly), "dim")
    yield _indented(clean(finding.summary))
    for difference in finding.differences[:6]:
        yield _indented(f"- {said(difference)}")
    yield from _diagram(finding, console)
    yield from _outcomes(finding)
    yield from _cures(finding)
    yield from _matrix(finding)


def _diagram(finding: Finding, console: Console) -> Iterator[Padding | Text]:
    scene = scene_of(finding)
    if scene is None:
        return
    yield Text("")
    unicode = "utf" in (console.encoding or "").lower()
    for text, wrong in drawn(scene, console.width, unicode=unicode):
        yield Text(text, "red" if wrong else "")
    yield Text("")
    lines: dict[str, list[int]] = {}
    for line in scene.lines:
        if line.source is not None and line.number:
            where = f"{line.source}  {one_line(line.source.code, 60)}".rstrip()
            lines.setdefault(where, []).append(line.number)
    for where, numbers in list(lines.items())[:_SOURCES_MAX]:
        steps = ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
        yield Text(cut(f"  {steps:>10}  {where}", console.width))


def _outcomes(finding: Finding) -> Iterator[Padding | Text]:
    compared = comparison(finding)
    if compared is None:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in (*compared.orders, "found"):
        table.add_column(heading, overflow="fold")
    for line in compared.lines:
        mark = " !" if line.odd else ""
        cells = [escape(cell) for cell in line.serial]
        table.add_row(
            escape(line.what), *cells, Text(line.found + mark, "bold red" if line.odd else "")
        )
    yield Text("")
    yield Padding(table, (0, 0, 0, 2), expand=False)
    if compared.only_together:
        yield _indented("Each value occurs after some order, but not all of them together.", "dim")


def _cures(finding: Finding) -> Iterator[Padding | Text]:
    for heading, plain, part in finding.cures[:_CURES_SHOWN]:
        yield Text("")
        yield _indented(f"What fixes it: {heading}", "bold")
        yield Padding(Text(clean(plain)), (0, 0, 0, 4), expand=False)
        if part:
            yield _indented("or with crowdsafe:")
            yield Padding(Text(clean(part)), (0, 0, 0, 4), expand=False)


def _matrix(finding: Finding) -> Iterator[Padding | Text]:
    if not finding.matrix:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("tried with", "verdict", ""):
        table.add_column(heading)
    for tried, verdict, why in finding.matrix:
        table.add_row(*(Text(one_line(each, 300)) for each in (tried, verdict, why)))
    yield Text("")
    yield Padding(table, (0, 0, 0, 2), expand=False)


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(text, style), (0, 0, 0, 2), expand=False)


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    console.print(Padding(Text(text, style), (0, 0, 0, indent), expand=False))


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("verdict")
    table.add_column("what")
    table.add_column("operations", overflow="fold")
    table.add_column("schedules", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    for finding in report.findings:
        what = title(finding) if finding.anomaly else ""
        table.add_row(
            Text(finding.verdict.value, _STYLES[finding.verdict]),
            Text(what),
            Text(together(finding.operations, 34)),
            str(finding.schedules),
            duration(finding.seconds),
        )
    return table


def _totals(report: Report) -> str:
    found: dict[Verdict, int] = {}
    for finding in report.findings:
        found[finding.verdict] = found.get(finding.verdict, 0) + 1
    words = {Verdict.RACE: "race", Verdict.PROVEN: "proven", Verdict.NOT_FOUND: "not found",
             Verdict.INCONCLUSIVE: "inconclusive"}  # fmt: skip
    parts = [
        count(number, "race") if verdict is Verdict.RACE else f"{number} {words[verdict]}"
        for verdict, number in sorted(found.items(), key=lambda each: list(Verdict).index(each[0]))
    ]
    return f"{', '.join(parts) or 'nothing to try'} in {duration(report.seconds)}"
