"""The steps of a race as a sequence diagram: which lines to draw, whatever it is drawn with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from crowdsafe.find.judge.anomalies import marks_of, pattern_of
from crowdsafe.find.judge.events import Event, analyse_for, events_of
from crowdsafe.find.model import Finding, Run, Source, Statement, Step, Verb
from crowdsafe.find.report.words import count, cut, joined, letter, one_line

__all__ = ["Kind", "Line", "Scene", "scene_of"]

_LINES_MAX = 60
_NEAR = 8
_COLUMNS_MAX = 2
_VALUE_MAX = 24
_NUMBERED = re.compile(r"^(max|min|sum|count|avg|coalesce|anon)_\d+$")
_QUIET = {Verb.BEGIN, Verb.SET, Verb.SAVEPOINT, Verb.RELEASE, Verb.ROLLBACK_TO}


class Kind(Enum):
    """What a line of the diagram is: an arrow from the table, one to it, or a mark on a lane."""

    READS = "reads"
    WRITES = "writes"
    MARK = "mark"
    WAITS = "waits"
    FOLDED = "folded"


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``number`` is the step's place from 1 (0: it stands for no single step),
    ``wrong`` what is wrong with it, "" where nothing is."""

    kind: Kind
    operation: int
    text: str
    number: int = 0
    source: Source | None = None
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """A diagram: the operations that take part, what is in the middle, and the lines."""

    operations: tuple[str, ...]
    middle: str
    lines: tuple[Line, ...]


def scene_of(finding: Finding) -> Scene | None:
    """The diagram of a finding; None when it has no run.

    Shown are the statements on the tables that the race is about and the ends of their
    transactions; runs of others are folded into one line, and so is what is far from a marked
    step when there are more than 60 lines.
    """
    run = finding.run
    if run is None or not run.steps:
        return None
    builder = _Builder(run, finding, list(finding.serial.values()))
    lines = _merged(_near_marks(builder.lines()))
    return Scene(finding.operations, builder.middle, tuple(lines))


class _Builder:
    """Turns the steps of one run into lines."""

    def __init__(self, run: Run, finding: Finding, serial: Sequence[Run]) -> None:
        self.run = run
        self.marks = marks_of(run, finding.anomaly, serial, finding.tables[:1])
        pattern = pattern_of(run, finding.anomaly, serial, finding.tables[:1])
        self.column = pattern.column if pattern else None
        analyse = analyse_for(run)
        self.statements = [analyse(step.sql) for step in run.steps]
        self.events = {event.number: event for event in events_of(run, analyse, failed=True)}
        self.main = finding.tables[0] if finding.tables else ""
        self.tables = self._tables(finding)
        self.ends = self._ends_shown()
        shown = [event for event in self.events.values() if self._is_about(event.statement)]
        self.assigned = {column for event in shown for column in event.sets}
        self.one_table = len({t for e in shown for t in e.statement.tables} | self.tables) == 1
        self.middle = self._middle(shown)

    def _tables(self, finding: Finding) -> frozenset[str]:
        marked = {t for number in self.marks for t in self.statements[number].tables}
        if finding.tables or marked:
            return frozenset(finding.tables) | marked
        return frozenset(t for statement in self.statements for t in statement.tables)

    def _is_about(self, statement: Statement) -> bool:
        return statement.opaque or bool(statement.tables & self.tables)

    def _ends_shown(self) -> set[int]:
        """The ends of the transactions in which something is shown."""
        ends: set[int] = set()
        busy: dict[tuple[int, int], bool] = {}
        for number, (step, statement) in enumerate(
            zip(self.run.steps, self.statements, strict=True)
        ):
            key = (step.operation, step.connection)
            if statement.ends_transaction:
                if busy.pop(key, False):
                    ends.add(number)
            elif self._is_about(statement):
                busy[key] = True
        return ends

    def _middle(self, shown: Sequence[Event]) -> str:
        if not self.one_table:
            return "database"
        table = min(self.tables)
        keys = {event.where.get("id") for event in shown if not event.inserts} - {None}
        return f"{table} #{keys.pop()}" if len(keys) == 1 else table

    def lines(self) -> list[Line]:
        lines: list[Line] = []
        for number, step in enumerate(self.run.steps):
            statement = self.statements[number]
            if step.waited_for:
                self._insert_wait(lines, step)
            if statement.ends_transaction:
                if number in self.ends:
                    word = "COMMIT" if statement.verb is Verb.COMMIT else "ROLLBACK"
                    lines.append(self._line(Kind.MARK, number, word))
            elif self._is_about(statement) or step.error is not None or number in self.marks:
                kind = Kind.WRITES if statement.writes else Kind.READS
                if not statement.tables:
                    kind = Kind.MARK
                lines.append(self._line(kind, number, self._words(number)))
            elif statement.verb not in _QUIET:
                lines.append(Line(Kind.FOLDED, step.operation, "", number + 1))
        return lines

    def _line(self, kind: Kind, number: int, text: str) -> Line:
        step = self.run.steps[number]
        wrong = self.marks.get(number, "")
        if step.error is not None:
            wrong = f"fails: {one_line(step.error, 60)}"
        return Line(kind, step.operation, text, number + 1, step.source, wrong)

    def _insert_wait(self, lines: list[Line], step: Step) -> None:
        """Draw the wait where it was: before the transaction that it waited for ended."""
        who = joined([f"{letter(each)}'s lock" for each in step.waited_for])
        wait = Line(Kind.WAITS, step.operation, f"waits for {who}", source=step.source)
        place = len(lines)
        if lines and lines[-1].kind is Kind.MARK and lines[-1].operation in step.waited_for:
            place -= 1
        lines.insert(place, wait)

    def _words(self, number: int) -> str:
        step, statement = self.run.steps[number], self.statements[number]
        event = self.events.get(number)
        if event is None or not statement.tables:
            return one_line(step.sql, 60)
        about = statement.writes & self.tables or statement.tables & self.tables or {"?"}
        table = self.main if self.main in about else min(about)
        prefix = "" if self.one_table else f"{table}."
        match statement.verb:
            case Verb.INSERT:
                values = self._values(event.sets, "", " ") or "a row"
                return f"inserts {values}" if self.one_table else f"inserts {table} ({values})"
            case Verb.UPDATE:
                if step.rowcount == 0:
                    return f"changes no row of {table}"
                return f"writes {self._values(event.sets, prefix, ' ← ') or table}"
            case Verb.DELETE:
                return f"deletes {self._values(event.where, prefix, ' = ') or f'from {table}'}"
            case _:
                return self._read(event, table, prefix)

    def _read(self, event: Event, table: str, prefix: str) -> str:
        rows, verb = event.step.rows, "locks and reads" if event.statement.locks_rows else "reads"
        if rows is None:
            return f"{verb} {table}"
        if not rows:
            return f"{verb} {table}: no row" if not self.one_table else f"{verb}: no row"
        if len(rows) > 1:
            return f"{verb} {count(len(rows), 'row')} of {table}"
        given = event.given[0] if event.given else {}
        wanted = {name: value for name, value in given.items() if name in self.assigned}
        return f"{verb} {self._values(wanted or given, prefix, ' = ') or f'a row of {table}'}"

    def _values(self, values: dict[str, str], prefix: str, between: str) -> str:
        """The column that the race is about, or the first two, with their values."""
        if self.column in values:
            values = {self.column: values[self.column]}
        shown = list(values.items())[:_COLUMNS_MAX]
        parts = [
            f"{prefix}{_label(name)}{between}{cut(one_line(value, 80), _VALUE_MAX)}"
            for name, value in shown
        ]
        return ", ".join(parts) + (", …" if len(values) > len(shown) else "")


def _label(column: str) -> str:
    """The name of a column; ``max`` for what SQLAlchemy calls ``max_1``."""
    return _NUMBERED.sub(r"\1", column)


def _near_marks(lines: list[Line]) -> list[Line]:
    """At most about 60 lines: those far from anything marked are folded."""
    if sum(line.kind is not Kind.FOLDED for line in lines) <= _LINES_MAX:
        return lines
    marked = [place for place, line in enumerate(lines) if line.wrong]
    return [
        line
        if any(abs(place - other) <= _NEAR for other in marked)
        else Line(Kind.FOLDED, line.operation, "", line.number)
        for place, line in enumerate(lines)
    ]


def _merged(lines: Sequence[Line]) -> list[Line]:
    """Runs of folded lines as one line that says how many of whom there are."""
    merged: list[Line] = []
    folded: list[Line] = []
    for line in [*lines, None]:
        if line is not None and line.kind is Kind.FOLDED:
            folded.append(line)
            continue
        if folded:
            merged.append(_folded(folded))
            folded = []
        if line is not None:
            merged.append(line)
    return merged


def _folded(lines: Sequence[Line]) -> Line:
    counts: dict[int, int] = {}
    for line in lines:
        counts[line.operation] = counts.get(line.operation, 0) + 1
    parts = [f"{number} of {letter(who)}" for who, number in sorted(counts.items())]
    if len(counts) == 1:
        text = f"{count(len(lines), 'statement')} of {letter(lines[0].operation)} on other tables"
    else:
        text = f"statements on other tables: {joined(parts)}"
    return Line(Kind.FOLDED, lines[0].operation, f"… {text}")
