"""Gives a race its name: from what was read before what was written, and from what came out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.events import Analyse, Event, analyse_for, events_of
from crowdsafe.find.judge.oracle import Judgement
from crowdsafe.find.judge.patterns import Pattern, letter, patterns_in
from crowdsafe.find.model import Anomaly, Run, Severity

__all__ = ["Named", "explanation", "marks_of", "name", "pattern_of"]


@dataclass(frozen=True, slots=True)
class Named:
    """A race by its name. ``summary`` is one sentence with the names of tables and columns;
    ``pattern`` the shape that it was told by, None where it was told by its outcome alone."""

    anomaly: Anomaly
    severity: Severity
    tables: tuple[str, ...]
    sources: tuple[str, ...]
    summary: str
    pattern: Pattern | None = None


_EXPLANATIONS = {
    Anomaly.LOST_UPDATE: "Two operations read the same value and each wrote its own result; "
    "the one that came last knew nothing of the other.",
    Anomaly.WRITE_SKEW: "Each operation checked something that the other then changed; they wrote "
    "different rows, so neither noticed the other.",
    Anomaly.PHANTOM_INSERT: "An operation looked at a set of rows and decided, while another was "
    "adding a row that belongs to that set.",
    Anomaly.DUPLICATE_CREATE: "Both operations looked whether a row exists, both found none, and "
    "both made one.",
    Anomaly.DUPLICATE_NUMBER: "Both operations asked for the highest number so far, got the same, "
    "and gave the same next one away.",
    Anomaly.DOUBLE_TRANSITION: "Both operations saw the row in the state before the move, and both "
    "moved it: what should happen once happened twice.",
    Anomaly.TORN_STEPS: "One operation works in several transactions; another came between them "
    "and saw, or changed, a half-finished piece of work.",
    Anomaly.NON_REPEATABLE_READ: "An operation read twice, and another committed in between: what "
    "it put together was never true at any one moment.",
    Anomaly.DIRTY_READ: "An operation read what another had written and not committed.",
    Anomaly.STALE_ANSWER: "An operation answered with something that was no longer so when it "
    "answered.",
    Anomaly.INVARIANT: "A rule that was given holds after every serial order, and not here.",
    Anomaly.DEADLOCK: "Each operation held a row that the other waited for; the database ended "
    "one of them, and nobody tried it again.",
    Anomaly.ABORTS: "The database refused one of the operations because of the other, and nobody "
    "tried it again: the user gets an error.",
    Anomaly.ERROR: "One of the operations failed with an error that it never gives alone.",
    Anomaly.UNSERIALIZABLE: "The outcome is one that no order of the operations, one after the "
    "other, can give.",
}


def explanation(anomaly: Anomaly) -> str:
    """One sentence on an anomaly, for who has never heard of it."""
    return _EXPLANATIONS[anomaly]


_OUTCOMES = {
    Anomaly.DIRTY_READ: "An operation read rows that another had written and not yet committed.",
    Anomaly.STALE_ANSWER: "The rows are right, but an answer is one that no order gives.",
    Anomaly.UNSERIALIZABLE: "It left rows that no order of the operations leaves.",
}
_DEADLOCK_STATE = "40P01"
_READ_UNCOMMITTED = re.compile(
    r"^\s*pragma\s+read_uncommitted\s*=\s*(1|on|true|yes)", re.IGNORECASE
)
_WRITTEN = frozenset(
    {
        Anomaly.LOST_UPDATE,
        Anomaly.DOUBLE_TRANSITION,
        Anomaly.DUPLICATE_CREATE,
        Anomaly.DUPLICATE_NUMBER,
        Anomaly.PHANTOM_INSERT,
        Anomaly.WRITE_SKEW,
    }
)


def name(
    run: Run,
    judgement: Judgement,
    serial: Sequence[Run],
    analyse: Analyse | None = None,
    schema: Schema | None = None,
) -> Named:
    """Name what went wrong in a run, and say how bad it is.

    ``serial`` are the runs of the serial orders (for what their states hold), ``analyse`` tells
    what a text of SQL does (by default from the driver of the run), ``schema`` which of the names
    in it are tables. Where several shapes fit, one in which something was written wins, then one
    on a table that differs, then the most telling. A name is only given where the database can do
    that: no dirty read on PostgreSQL. The same run always gets the same name. Never raises for
    what a run holds: a shape that nothing fits is "not serializable".
    """
    named = _name(run, judgement, serial, analyse or analyse_for(run), _flags(schema))
    if schema is None or not schema.tables:
        return named
    return replace(named, tables=tuple(t for t in named.tables if t in schema.tables))


def _flags(schema: Schema | None) -> frozenset[tuple[str, str]]:
    """The columns that are declared to hold yes or no."""
    return frozenset(
        (table.name, column.name.lower())
        for table in schema or ()
        for column in table.columns
        if column.type.lower().startswith("bool")
    )


def _name(
    run: Run,
    judgement: Judgement,
    serial: Sequence[Run],
    analyse: Analyse,
    flags: frozenset[tuple[str, str]],
) -> Named:
    events = events_of(run, analyse)
    states = [each.state for each in serial if each.state is not None]
    patterns = [
        pattern
        for pattern in patterns_in(run, events, states, flags)
        if pattern.anomaly is not Anomaly.STALE_ANSWER or not judgement.rows_differ
    ]
    pattern = _best(patterns, judgement.tables)
    if judgement.kind in {"aborts", "error"}:
        return _failed(run, judgement, pattern, events, analyse)
    if _dirty(run, events):
        return _plain(Anomaly.DIRTY_READ, Severity.HIGH, events, judgement)
    if judgement.broken and not judgement.rows_differ and not judgement.answers_differ:
        return _plain(Anomaly.INVARIANT, Severity.HIGH, events, judgement, pattern)
    only_answers = not judgement.rows_differ
    if pattern is None:
        anomaly = Anomaly.STALE_ANSWER if only_answers else Anomaly.UNSERIALIZABLE
        severity = Severity.LOW if only_answers else Severity.MEDIUM
        return _plain(anomaly, severity, events, judgement)
    return Named(
        pattern.anomaly,
        _severity(pattern, only_answers),
        _tables(pattern, judgement.tables),
        _sources(pattern.read, pattern.missed, pattern.acted),
        _summary(pattern),
        pattern,
    )


def pattern_of(
    run: Run, anomaly: Anomaly | None, serial: Sequence[Run], tables: Sequence[str] = ()
) -> Pattern | None:
    """The shape by which a run got that name; None where it was named by its outcome alone."""
    return _best(_fitting(run, anomaly, serial), tables)


def marks_of(
    run: Run, anomaly: Anomaly | None, serial: Sequence[Run], tables: Sequence[str] = ()
) -> dict[int, str]:
    """What is wrong with single steps of a run of that name: place of the step → a few words."""
    fitting = _fitting(run, anomaly, serial)
    best = _best(fitting, tables)
    if best is None:
        return {}
    marks: dict[int, str] = {}
    if len(run.answers) > 2:  # the others went wrong in the same way
        for each in sorted(fitting, key=lambda each: each.missed.number):
            if (each.table, each.column) == (best.table, best.column):
                marks |= dict(each.marks)
    return marks | dict(best.marks)


def _fitting(run: Run, anomaly: Anomaly | None, serial: Sequence[Run]) -> list[Pattern]:
    states = [each.state for each in serial if each.state is not None]
    events = events_of(run)
    found = [each for each in patterns_in(run, events, states) if each.anomaly is anomaly]
    if found or anomaly is not Anomaly.DOUBLE_TRANSITION:
        return found
    return [each for each in patterns_in(run, events, states, None) if each.anomaly is anomaly]


def _best(patterns: Sequence[Pattern], tables: Sequence[str]) -> Pattern | None:
    """Where no rows differ, a move that happened twice says more than a value written twice."""

    def off(pattern: Pattern) -> tuple[bool, bool, bool, bool]:
        return (
            pattern.anomaly not in _WRITTEN,
            pattern.table not in tables,
            pattern.acted.number < pattern.missed.number,
            not tables and pattern.anomaly is not Anomaly.DOUBLE_TRANSITION,
        )

    return min(patterns, key=off, default=None)


def _dirty(run: Run, events: Sequence[Event]) -> bool:
    """Whether a connection of SQLite that asked for uncommitted data may have read some."""
    if not any(_READ_UNCOMMITTED.match(step.sql) for step in run.steps):
        return False
    return any(
        write.operation != read.operation
        and write.writes & read.looks
        and write.number < read.number
        and (write.seen_from is None or read.number < write.seen_from)
        for write in events
        for read in events
        if write.writes and read.looks
    )


def _failed(
    run: Run,
    judgement: Judgement,
    pattern: Pattern | None,
    events: Sequence[Event],
    analyse: Analyse,
) -> Named:
    """An operation that ended in an error which it does not give alone."""
    broken = [step for step in run.steps if step.error is not None]
    states = {step.sqlstate for step in broken}
    states |= {reply.sqlstate for answer in run.answers for reply in answer.replies}
    if judgement.kind == "error":
        anomaly, how = Anomaly.ERROR, "failed"
    elif run.deadlocked or _DEADLOCK_STATE in states:
        anomaly, how = Anomaly.DEADLOCK, "was ended by the database, to end a deadlock,"
    else:
        anomaly, how = Anomaly.ABORTS, "was refused by the database"
    who = sorted({step.operation for step in broken} or _failing(run))
    by = " and ".join(map(letter, who)) or "An operation"
    what = _first_error(run)
    summary = f"{by} {how}{f' with {what}' if what else ''}, and nobody tried it again."
    if anomaly is Anomaly.ERROR:
        summary = f"{by} {how}{f' with {what}' if what else ''}, which it never does alone."
    sources = _places([step.source for step in broken if step.source])
    tables: tuple[str, ...] = _tables(pattern) if pattern else _contended(events)
    tables = tables or tuple(sorted({t for step in broken for t in analyse(step.sql).writes}))
    if not sources and pattern:
        sources = _sources(pattern.read, pattern.acted)
    return Named(anomaly, Severity.LOW, tables, sources, summary, pattern)


def _failing(run: Run) -> set[int]:
    return {
        number
        for number, answer in enumerate(run.answers)
        if any(reply.error or (reply.status or 0) >= 500 for reply in answer.replies)
    }


def _first_error(run: Run) -> str:
    for answer in run.answers:
        for reply in answer.replies:
            if reply.error:
                return f"{reply.error} ({reply.sqlstate})" if reply.sqlstate else reply.error
    return next((step.error.splitlines()[0][:80] for step in run.steps if step.error), "")


def _severity(pattern: Pattern, only_answers: bool) -> Severity:
    if pattern.anomaly in {Anomaly.LOST_UPDATE, Anomaly.DOUBLE_TRANSITION}:
        if only_answers and not pattern.numeric:
            return Severity.MEDIUM
        return Severity.HIGH
    if pattern.anomaly in _WRITTEN:
        return Severity.MEDIUM if only_answers else Severity.HIGH
    return Severity.LOW if only_answers else Severity.MEDIUM


def _summary(pattern: Pattern) -> str:
    a, b = letter(pattern.first), letter(pattern.second)
    table = pattern.table
    where = f"{table}.{pattern.column}" if pattern.column else table
    both = " and ".join(sorted((a, b)))
    sentences = {
        Anomaly.LOST_UPDATE: f"{b} wrote {where} over {a}'s write, from what it had read before "
        "that write.",
        Anomaly.DOUBLE_TRANSITION: f"{both} both moved {where} from the state in which each had "
        "read it.",
        Anomaly.DUPLICATE_CREATE: f"{both} both looked for a row in {table}, found none, and "
        "inserted one each.",
        Anomaly.DUPLICATE_NUMBER: f"{both} read the same last number and both inserted the same "
        f"{where}.",
        Anomaly.PHANTOM_INSERT: f"{b} looked at rows of {table} and decided without the row that "
        f"{a} inserted.",
        Anomaly.WRITE_SKEW: f"{both} each read what the other then changed in {table}, in other "
        "rows.",
        Anomaly.TORN_STEPS: f"{b} came between two transactions of {a} that belong together "
        f"({table}).",
        Anomaly.NON_REPEATABLE_READ: f"{b} read {table} before and after {a}'s write of it, as if "
        "it were one moment.",
        Anomaly.STALE_ANSWER: f"{b} read {table} after its own COMMIT, when {a} had changed it.",
    }
    if pattern.anomaly is Anomaly.LOST_UPDATE and pattern.acted.in_place:
        return f"{b} changed {where} on the strength of a value that it read before {a}'s write."
    if pattern.anomaly is Anomaly.DOUBLE_TRANSITION and pattern.column is None:
        return f"{both} both removed the same row of {table}, which each had found there."
    return sentences[pattern.anomaly]


def _plain(
    anomaly: Anomaly,
    severity: Severity,
    events: Sequence[Event],
    judgement: Judgement,
    pattern: Pattern | None = None,
) -> Named:
    """A name from the outcome alone: where the operations met, and what came of it."""
    tables = _tables(pattern) if pattern else _contended(events) or judgement.tables
    met = [event for event in events if event.statement.tables & set(tables)]
    sources = _places([event.step.source for event in met if event.step.source])
    summary = judgement.broken[0] if anomaly is Anomaly.INVARIANT else _OUTCOMES[anomaly]
    return Named(anomaly, severity, tables, sources[:6], summary, pattern)


def _contended(events: Sequence[Event]) -> tuple[str, ...]:
    """The tables that one operation wrote and another touched."""
    return tuple(
        sorted(
            {
                table
                for write in events
                for other in events
                if write.operation != other.operation
                for table in write.writes & other.statement.tables
            }
        )
    )


def _tables(pattern: Pattern, differing: Sequence[str] = ()) -> tuple[str, ...]:
    """The table that the race is on first, then those that came out wrong because of it."""
    other = {*differing, *(pattern.acted.writes & pattern.missed.statement.tables)}
    return (pattern.table, *sorted(other - {pattern.table}))


def _sources(*events: Event) -> tuple[str, ...]:
    ordered = sorted(events, key=lambda event: (event is not events[0], event.number))
    return _places([event.step.source for event in ordered if event.step.source])


def _places(sources: Sequence[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(source) for source in sources))
