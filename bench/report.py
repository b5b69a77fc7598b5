"""Tables for the terminal and for docs/BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.findings import Findings, Table
from bench.goals import Comparison, Row, Verdict

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "BENCHMARKS.md"
BEGIN = "<!-- written by `make bench ARGS=--write`: begin -->"
END = "<!-- written by `make bench ARGS=--write`: end -->"
HEADERS = ["callers", "contender", "per second", "rounds", "p50 ms", "p99 ms", "crowdsafe is"]
WORDS = ("contender", "case", "tool", "verdict", "goal", "errors", "note", "")
"""Headers of the columns that hold words, which begin at the left."""
MACHINE, GOALS = "Machine", "Goals"
GOAL_HEADERS = ["goal", "wanted", "measured", ""]


def _cells(row: Row) -> list[str]:
    ours_is = "" if row.ours_is is None else f"{row.ours_is:.3g}×"
    lowest, highest = row.spread
    return [
        row.callers, row.name, f"{row.rate:,.0f}", f"{lowest:,.0f}–{highest:,.0f}",
        f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", ours_is, *row.more,
    ]  # fmt: skip


def _verdicts(verdicts: Sequence[Verdict]) -> list[list[str]]:
    return [[each.text, each.target, each.value, "met" if each.met else "MISSED"]
            for each in verdicts]  # fmt: skip


def _lost(comparison: Comparison) -> str:
    if not comparison.counts_lost:
        return ""
    if not comparison.lost:
        return "Lost: nothing; every answered call is in the database."
    return "Lost: " + "; ".join(
        f"{name}: {number:,} answered calls are not in the database" if number > 0
        else f"{name}: {-number:,} calls are in the database without an answer"
        for name, number in comparison.lost.items()
    )  # fmt: skip


def terminal(comparison: Comparison | Findings) -> str:
    """A comparison as aligned text."""
    lines = [f"== {comparison.title}", comparison.about]
    for table in _tables(comparison):
        lines += ["", *([table.title] if table.title else [])]
        lines += _aligned([table.headers, *table.rows])
    if isinstance(comparison, Comparison):
        lines += ["", _lost(comparison)]
    if comparison.verdicts:
        lines += ["", *_aligned([GOAL_HEADERS, *_verdicts(comparison.verdicts)])]
    return "\n".join(lines) + "\n"


def goals(comparisons: Sequence[Comparison | Findings]) -> str:
    """All goals as aligned text."""
    rows = [row for each in comparisons for row in _verdicts(each.verdicts)]
    return "\n".join(_aligned([GOAL_HEADERS, *rows])) if rows else ""


def write_document(
    comparisons: Sequence[Comparison | Findings], machine: Sequence[str], took: str
) -> None:
    """Put the figures between the markers of docs/BENCHMARKS.md.

    What was not measured this time is kept, and said to be of the earlier run.
    """
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    earlier = _sections(old)
    for title in (MACHINE, GOALS, *(each.title for each in comparisons)):
        earlier.pop(title, None)
    goals_met = [row for each in comparisons for row in _verdicts(each.verdicts)]
    named = {row[0] for row in goals_met}
    kept = [row for row in _goal_rows(_sections(old).get(GOALS, "")) if row[0] not in named]
    facts = [*machine, took]
    if earlier:
        date = _sections(old).get(MACHINE, "").partition("Date: ")[2].partition("\n")[0]
        facts.append(f"Not measured this time, and kept from {date}: {'; '.join(earlier)}")
    sections = {
        MACHINE: "\n".join(f"- {line}" for line in facts),
        GOALS: "\n".join(_markdown(GOAL_HEADERS, [*kept, *goals_met])),
        **earlier,
        **{each.title: _section(each) for each in comparisons},
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    DOCUMENT.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}{after or chr(10)}")


def _section(each: Comparison | Findings) -> str:
    lines = [each.about, ""]
    for table in _tables(each):
        lines += [f"### {table.title}", ""] if table.title else []
        lines += [*_markdown(table.headers, table.rows), ""]
    if isinstance(each, Comparison):
        lines.append(_lost(each))
    return "\n".join(lines).strip()


def _sections(text: str) -> dict[str, str]:
    parts = [part.partition("\n") for part in ("\n" + text).split("\n## ")[1:]]
    return {title.strip(): body.strip() for title, _, body in parts}


def _goal_rows(table: str) -> list[list[str]]:
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _tables(comparison: Comparison | Findings) -> list[Table]:
    if isinstance(comparison, Findings):
        return comparison.tables
    rows = [_cells(row) for row in comparison.rows]
    return [Table(HEADERS + comparison.more_headers, rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    to_the_left = [header in WORDS for header in rows[0]]
    lines = ["  ".join(cell.ljust(width) if left else cell.rjust(width)
                       for cell, width, left in zip(row, widths, to_the_left, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---" if header in WORDS else "---:"
            for header in headers]  # fmt: skip
    return ["| " + " | ".join(line) + " |" for line in (headers, rule, *rows)]
