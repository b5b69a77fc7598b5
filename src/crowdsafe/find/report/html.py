"""The report as one HTML file that needs nothing else: no script, no request, light and dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

from crowdsafe.errors import ConfigError
from crowdsafe.find.judge.anomalies import explanation
from crowdsafe.find.model import Finding, Source, Step, Verdict
from crowdsafe.find.report import Report
from crowdsafe.find.report.folding import same_races
from crowdsafe.find.report.outcomes import Compared, comparison
from crowdsafe.find.report.scene import Scene, scene_of
from crowdsafe.find.report.svg import described, svg
from crowdsafe.find.report.words import (
    as_text,
    clean,
    count,
    cut,
    duration,
    legend,
    letter,
    said,
    title,
    together,
)
from crowdsafe.find.token import decode

__all__ = ["render"]

_STEPS_MAX = 400
_SQL_MAX = 3000
_VALUES_MAX = 600
_SOURCES_MAX = 12
_FILTERED_FROM = 9
_STYLE = Path(__file__).with_name("report.css")


def render(report: Report) -> str:
    """The whole page. Everything that comes from the target is escaped, and cut where it is long;
    of a run, the first 400 statements are shown with their SQL."""
    races = len(report.races)
    heading = count(races, "race") if races else "No race found"
    style = _STYLE.read_text(encoding="utf-8")
    facts = f"{count(len(report.findings), 'set')} of operations · {duration(report.seconds)}"
    body = [
        '<a class="skip" href="#findings">To the findings</a>',
        f"<header><h1>{heading} in <code>{_safe(report.target, 120)}</code></h1>",
        f'<p class="muted">{_safe(report.database, 200)} · {facts}</p></header>',
        '<main id="findings">',
        _filter(report),
        _overview(report),
        *(f'<p class="muted small">Note: {_safe(note, 500)}</p>' for note in report.notes),
        *("".join(_article(number, group)) for number, group in _told(report)),
        "</main>",
        f"<footer>crowdsafe find {_safe(report.version, 40)}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading} in {_safe(report.target, 80)}</title>"
        f"<style>\n{style}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _told(report: Report) -> Iterator[tuple[int, list[Finding]]]:
    return enumerate(same_races(report.findings), 1)


def _filter(report: Report) -> str:
    """Which verdicts the table shows, where it is long. Works without a script."""
    if len(report.findings) < _FILTERED_FROM:
        return ""
    found = Counter(finding.verdict for finding in report.findings)
    choices = [("all", f"all {len(report.findings)}")]
    choices += [(one.value, f"{found[one]} {one.value}") for one in Verdict if found[one]]
    inputs = "".join(
        f'<label><input type="radio" name="shown" id="show-{name}"'
        f"{' checked' if name == 'all' else ''}> {words}</label>"
        for name, words in choices
    )
    return f'<fieldset class="filter"><legend>Show</legend>{inputs}</fieldset>'


def _safe(text: object, length: int = 4000) -> str:
    return escape(clean(cut(str(text), length)))


def _overview(report: Report) -> str:
    rows = []
    numbers = {id(one): number for number, group in _told(report) for one in group}
    for each in sorted(report.findings, key=lambda one: list(Verdict).index(one.verdict)):
        name = _safe(title(each)) if each.anomaly else _safe(each.reason or "", 300)
        what = f'<a href="#finding-{numbers[id(each)]}">{name}</a>' if each.anomaly else name
        verdict = each.verdict.value
        rows.append(
            f'<tr class="{verdict}"><td><span class="chip {verdict}">{verdict}</span></td>'
            f'<th scope="row"><code>{_safe(together(each.operations, 120))}</code></th>'
            f'<td data-label="what">{what}</td>'
            f'<td class="number" data-label="schedules">{each.schedules}</td>'
            f'<td class="number" data-label="time">{duration(each.seconds)}</td></tr>'
        )
    head = "".join(
        f'<th scope="col"{extra}>{name}</th>'
        for name, extra in (
            ("verdict", ""),
            ("operations", ""),
            ("what", ""),
            ("schedules", ' class="number"'),
            ("time", ' class="number"'),
        )
    )
    return (
        '<table class="card-table" aria-label="All findings">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _article(number: int, group: list[Finding]) -> Iterator[str]:
    finding, *same = group
    assert finding.anomaly is not None
    severity = finding.severity.value if finding.severity else "low"
    found = f"found by schedule {finding.schedules_to_find} of {finding.schedules}"
    tried = found if finding.schedules_to_find else count(finding.schedules, "schedule")
    yield f'<article id="finding-{number}" aria-labelledby="title-{number}">'
    yield f'<h2 id="title-{number}">{_safe(title(finding))}</h2>'
    yield f'<p class="muted"><span class="chip {severity}">severity {severity}</span> '
    yield f"{tried} · {duration(finding.seconds)}"
    yield f" · {_safe(finding.isolation)}</p>" if finding.isolation else "</p>"
    yield '<dl class="operations">'
    for operation, (sign, name) in enumerate(legend(_requests(finding), 400)):
        yield f'<dt class="who-{operation % 3}">{sign}</dt><dd>{_safe(name)}</dd>'
    yield "</dl>"
    yield from _same(same)
    yield f'<div class="what"><p class="told">{_safe(finding.summary)}</p>'
    yield f"<p>{_safe(explanation(finding.anomaly))}</p>"
    if finding.differences:
        items = "".join(f"<li>{_safe(said(each))}</li>" for each in finding.differences[:8])
        yield f"<ul>{items}</ul>"
    yield "</div>"
    scene = scene_of(finding)
    if scene is not None:
        yield from _diagram(scene)
    yield from _outcomes(finding)
    if scene is not None:
        yield from _sources(scene)
    yield from _steps(finding)
    yield from _cures(finding)
    yield from _matrix(finding)
    if finding.token:
        yield "<h3>See it again</h3>"
        yield f"<pre>crowdsafe replay {_safe(finding.token, 20_000)}</pre>"
    yield "</article>"


def _same(findings: list[Finding]) -> Iterator[str]:
    if not findings:
        return
    sets = f"{count(len(findings), 'other set')} of operations"
    yield f"<details><summary>The same race, in the same lines, of {sets}</summary><ul>"
    for finding in findings:
        yield f"<li><code>{_safe(together(finding.operations, 200))}</code>"
        if finding.token:
            yield f"<pre>crowdsafe replay {_safe(finding.token, 20_000)}</pre>"
        yield "</li>"
    yield "</ul></details>"


def _requests(finding: Finding) -> tuple[str, ...]:
    """The operations as they were given, which the token knows; else their names."""
    if not finding.token:
        return finding.operations
    try:
        told = decode(finding.token).operations
    except ConfigError:  # a token of another version: the names will do
        return finding.operations
    return told if len(told) == len(finding.operations) else finding.operations


def _diagram(scene: Scene) -> Iterator[str]:
    yield "<h3>How it happens</h3>"
    yield f'<div class="card diagram">{svg(scene, described(scene.lines))}</div>'


def _outcomes(finding: Finding) -> Iterator[str]:
    compared = comparison(finding)
    if compared is None:
        return
    orders = [f"expected: {order}" for order in compared.orders]
    yield "<h3>Expected and found</h3>"
    yield "<table><thead><tr><td></td>"
    yield "".join(f'<th scope="col">{_safe(each)}</th>' for each in (*orders, "found"))
    yield "</tr></thead><tbody>"
    for line in compared.lines:
        yield _compared(line, orders)
    yield "</tbody></table>"
    if compared.only_together:
        yield '<p class="muted small">Each value occurs after some order, but not all of them '
        yield "together.</p>"


def _compared(line: Compared, orders: list[str]) -> str:
    cells = "".join(
        f'<td data-label="{_safe(order)}"><code>{_safe(value)}</code></td>'
        for order, value in zip(orders, line.serial, strict=True)
    )
    odd, said = (' class="odd"', " (never in any order)") if line.odd else ("", "")
    found = f'<td{odd} data-label="found"><code>{_safe(line.found)}</code>{said}</td>'
    return f'<tr><th scope="row">{_safe(line.what)}</th>{cells}{found}</tr>'


def _sources(scene: Scene) -> Iterator[str]:
    lines: dict[Source, list[int]] = {}
    for line in scene.lines:
        if line.source is not None and line.number:
            lines.setdefault(line.source, []).append(line.number)
    if not lines:
        return
    yield "<h3>Where in the program</h3>"
    yield '<dl class="lines">'
    for source, numbers in list(lines.items())[:_SOURCES_MAX]:
        steps = ", ".join(map(str, numbers[:6])) + (", …" if len(numbers) > 6 else "")
        where = f"{'step' if len(numbers) == 1 else 'steps'} {steps}, in {source.function}"
        yield f"<dt>{_safe(source, 200)}</dt><dd><code>{_safe(source.code.strip(), 200)}</code> "
        yield f'<span class="muted small">{_safe(where, 120)}</span></dd>'
    yield "</dl>"


def _steps(finding: Finding) -> Iterator[str]:
    steps = finding.run.steps if finding.run else []
    if not steps:
        return
    yield f"<details><summary>All {count(len(steps), 'statement')}, with their SQL</summary>"
    yield '<ol class="steps">'
    for number, step in enumerate(steps[:_STEPS_MAX], 1):
        yield _step(number, step)
    yield "</ol>"
    if len(steps) > _STEPS_MAX:
        yield f"<p>… and {len(steps) - _STEPS_MAX} more</p>"
    yield "</details>"


def _step(number: int, step: Step) -> str:
    who = f'<strong class="who-{step.operation % 3}">{letter(step.operation)}</strong>'
    parts = [f"<li><p>{number}. {who}"]
    if step.source is not None:
        parts.append(f" <code>{_safe(step.source, 200)}</code>")
    if step.waited_for:
        parts.append(f" · waited for {_safe(', '.join(map(letter, step.waited_for)))}")
    if step.rows is not None:
        parts.append(f" · gave {count(len(step.rows), 'row')}")
    elif step.rowcount is not None and step.rowcount >= 0:
        parts.append(f" · {count(step.rowcount, 'row')}")
    parts.append(f"</p><pre>{_safe(step.sql.strip(), _SQL_MAX)}</pre>")
    if step.parameters:
        parts.append(f"<p>with <code>{_safe(as_text(step.parameters, _VALUES_MAX))}</code></p>")
    if step.rows:
        parts.append(f"<p>gave <code>{_safe(as_text(step.rows[:5], _VALUES_MAX))}</code></p>")
    if step.error is not None:
        parts.append(f'<p class="odd">failed: {_safe(step.error, _VALUES_MAX)}</p>')
    return "".join([*parts, "</li>"])


def _cures(finding: Finding) -> Iterator[str]:
    if not finding.cures:
        return
    yield "<h3>What fixes it</h3>"
    for heading, plain, part in finding.cures:
        yield f"<h4>{_safe(heading)}</h4><pre>{_safe(plain)}</pre>"
        if part:
            yield f'<p class="small">or, with crowdsafe:</p><pre>{_safe(part)}</pre>'


def _matrix(finding: Finding) -> Iterator[str]:
    if not finding.matrix:
        return
    yield "<h3>What helps</h3>"
    yield '<table><thead><tr><th scope="col">tried</th><th scope="col">verdict</th>'
    yield '<th scope="col">why</th></tr></thead><tbody>'
    for tried, verdict, why in finding.matrix:
        yield f'<tr><th scope="row">{_safe(tried, 200)}</th>'
        chip = f'<span class="chip {_safe(verdict, 40)}">{_safe(verdict, 40)}</span>'
        yield f"<td>{chip if verdict else ''}</td>"
        yield f"<td>{_safe(why, 400)}</td></tr>"
    yield "</tbody></table>"
