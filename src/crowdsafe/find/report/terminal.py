"""Findings on a terminal: readable without colour, when piped, and in 80 columns."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crowdsafe.find.judge.anomalies import explanation
from crowdsafe.find.model import Finding, Severity, Verdict
from crowdsafe.find.report import Report
from crowdsafe.find.report.diagram import drawn
from crowdsafe.find.report.folding import same_races, same_reasons
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
_LISTED_MAX = 12
_WIDE = 100


def render(report: Report, *, width: int = 80) -> str:
    """What :func:`show` prints, as plain text."""
    out = io.StringIO()
    show(
        report, Console(file=out, width=width, no_color=True, highlight=False, force_terminal=False)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def show(report: Report, console: Console | None = None) -> None:
    """Print each race with all that is needed to understand it, the rest by why it is none, and a
    summary. What says the same of several pairs is said once."""
    console = console or Console(highlight=False)
    for first, *others in same_races(report.findings):
        show_finding(first, console, same=others)
    for group in same_reasons(report.findings):
        _show_others(group, console)
    for note in report.notes:
        _say(console, f"note: {clean(note)}", "dim")
    if len(report.findings) > 1:
        console.print()
        console.print(_table(report, wide=console.width >= _WIDE))
    _say(console, _totals(report), "bold")


def show_finding(finding: Finding, console: Console, *, same: Sequence[Finding] = ()) -> None:
    """The verdict and the whole story of a race, then the other pairs that have the ``same``."""
    _say_verdict(finding, together(finding.operations, 200), console)
    for part in _story(finding, console):
        console.print(part)
    if same:
        _say(console, "\nThe same race, in the same lines:", indent=2)
        _list(same, console)
    if finding.token:
        _say(console, "\nSee it again:", indent=2)
        console.print(Text(f"  crowdsafe replay {finding.token}"), soft_wrap=True)
    console.print()


def _show_others(group: Sequence[Finding], console: Console) -> None:
    """What has one verdict for one reason: a pair with its cost, or how many there are."""
    first = group[0]
    if len(group) == 1:
        _say_verdict(first, together(first.operations, 200), console)
    else:
        _say_verdict(first, f"{len(group)} sets of operations", console)
    schedules = sum(finding.schedules for finding in group)
    facts = f"{count(schedules, 'schedule')}, {duration(sum(one.seconds for one in group))}"
    _say(console, "; ".join(filter(None, [clean(first.reason), facts])), "dim", indent=2)
    if len(group) > 1 and first.verdict is not Verdict.PROVEN:
        _list(group, console)


def _say_verdict(finding: Finding, what: str, console: Console) -> None:
    line = Text()
    line.append(finding.verdict.value.upper(), _STYLES[finding.verdict])
    line.append(f"  {what}")
    console.print(line)


def _list(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings[:_LISTED_MAX]:
        _say(console, f"- {together(finding.operations, 100)}", indent=2)
    if len(findings) > _LISTED_MAX:
        _say(console, f"- and {len(findings) - _LISTED_MAX} more", indent=2)


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


def _table(report: Report, *, wide: bool) -> Table:
    """All findings, races first; what each race is only where there is room for it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("verdict")
    if wide:
        table.add_column("what")
    table.add_column("operations", overflow="fold")
    table.add_column("schedules", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    order = list(Verdict)
    for finding in sorted(report.findings, key=lambda one: order.index(one.verdict)):
        what = title(finding) if finding.anomaly else ""
        table.add_row(
            Text(finding.verdict.value, _STYLES[finding.verdict]),
            *([Text(what)] if wide else []),
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
