"""The outcomes side by side: what each serial order gives, and what was found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from crowdsafe.find.model import Answer, Finding, Reply, Rows, Run
from crowdsafe.find.report.words import as_text, letter, order_words

__all__ = ["Compared", "Comparison", "answer_words", "comparison", "differing_tables"]

_LINES_MAX = 16
_LOOKED_AT_MAX = 2000
_CELL_MAX = 120
_DRAWN = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.+Z-]*"  # a time
    r"|(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{16,}"  # an id, a token, a digest
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One thing that can be looked at after each order; ``odd`` when no order gives what was
    found."""

    what: str
    serial: tuple[str, ...]
    found: str
    odd: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """``orders`` are the headings: the orders that give the same share one."""

    orders: tuple[str, ...]
    lines: tuple[Compared, ...]

    @property
    def only_together(self) -> bool:
        """Whether each value is one that some order gives, and only their combination is not."""
        return not any(line.odd for line in self.lines)


def comparison(finding: Finding) -> Comparison | None:
    """What differs between the serial orders and the run that was found, and all answers.

    What no order gives comes first, of that what is of the finding's own table, then the answers,
    then the rest. Times and texts that look random do not count. At most 16 lines; None without
    both sides.
    """
    if finding.run is None or not finding.serial:
        return None
    runs = [*finding.serial.values(), finding.run]
    table = sorted(
        islice(chain(_answers_compared(runs), _rows_compared(runs)), _LOOKED_AT_MAX),
        key=lambda line: _rank(line[0], line[1], finding.tables),
    )[:_LINES_MAX]
    headings, columns = _grouped(list(finding.serial), table)
    lines = tuple(
        Compared(what, tuple(values[column] for column in columns), values[-1], _odd(values))
        for what, values in table
    )
    return Comparison(tuple(headings), lines)


def differing_tables(finding: Finding) -> list[str]:
    """The tables whose rows are not the same in all outcomes, and those of the finding."""
    if finding.run is None:
        return []
    states = [run.state for run in (*finding.serial.values(), finding.run) if run.state]
    names = sorted({name for state in states for name in state})
    return [
        name
        for name in names
        if name in finding.tables
        or any(not _same_rows(states[0].get(name), state.get(name)) for state in states[1:])
    ]


def answer_words(answer: Answer) -> str:
    """All replies in one line: their statuses, and what the last one says."""
    if not answer.replies:
        return "nothing"
    *before, last = answer.replies
    return ", ".join([*(_status(reply) for reply in before[-5:]), _reply_words(last)])


def _reply_words(reply: Reply) -> str:
    if reply.error:
        said = f"{reply.error}: {reply.message}" if reply.message else reply.error
        said += f" ({reply.sqlstate})" if reply.sqlstate else ""
    else:
        said = "" if reply.body is None else as_text(reply.body, _CELL_MAX)
    return as_text(f"{_status(reply)} {said}".strip(), _CELL_MAX) or "None"


def _status(reply: Reply) -> str:
    return "" if reply.status is None else str(reply.status)


def _grouped(
    orders: Sequence[tuple[int, ...]], table: Sequence[tuple[str, list[str]]]
) -> tuple[list[str], list[int]]:
    """Headings of the orders, with those that give the same put together, and their columns."""
    by_values: dict[tuple[str, ...], list[int]] = {}
    for place in range(len(orders)):
        by_values.setdefault(tuple(values[place] for _, values in table), []).append(place)
    headings = [
        ", or ".join(order_words(orders[place]) for place in places[:3])
        + (f", or {len(places) - 3} more" if len(places) > 3 else "")
        for places in by_values.values()
    ]
    return headings, [places[0] for places in by_values.values()]


def _rank(what: str, values: Sequence[str], tables: Sequence[str]) -> tuple[bool, int]:
    """What matters most in a comparison comes first: (whether some order gives it, of what)."""
    table = re.split(r"[ :]", what, maxsplit=1)[0]
    if what.startswith("answer of "):
        return not _odd(values), 1
    return not _odd(values), 0 if not tables or table == tables[0] else 2


def _odd(values: Sequence[str]) -> bool:
    """Whether no order gives what was found, but for the times and random texts in it."""
    told = [_DRAWN.sub("…", value) for value in values]
    return told[-1] not in told[:-1]


def _answers_compared(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    for operation in range(max(len(run.answers) for run in runs)):
        yield (
            f"answer of {letter(operation)}",
            [
                answer_words(run.answers[operation]) if operation < len(run.answers) else "none"
                for run in runs
            ],
        )


def _rows_compared(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    states = [run.state or {} for run in runs]
    for name in sorted({name for state in states for name in state}):
        versions = [state.get(name) for state in states]
        known = [each for each in versions if each is not None]
        if all(_same_rows(known[0], each) for each in known):
            continue
        counts = [len(each.rows) if each else 0 for each in versions]
        if len(set(counts)) > 1:
            yield f"{name}: rows", [str(number) for number in counts]
        if len(known) == len(versions):
            yield from _cells_compared(name, known)


def _same_rows(one: Rows | None, other: Rows | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.columns == other.columns and one.rows == other.rows


def _cells_compared(name: str, versions: Sequence[Rows]) -> Iterator[tuple[str, list[str]]]:
    """The cells that differ, in the rows that are there after each order and in what was found."""
    if any(each.columns != versions[0].columns or not each.key for each in versions):
        return
    by_key = [_by_key(each) for each in versions]
    everywhere = [key for key in by_key[-1] if all(key in rows for rows in by_key)]
    for key in everywhere:
        if all(rows[key] == by_key[0][key] for rows in by_key):
            continue
        for place, column in enumerate(versions[0].columns):
            values = [rows[key][place] for rows in by_key]
            told = {_DRAWN.sub("…", as_text(value, _CELL_MAX)) for value in values}
            if len(told) > 1:
                row = ", ".join(as_text(part, 40) for part in key)
                yield f"{name} #{row} {column}", [as_text(value, _CELL_MAX) for value in values]


def _by_key(rows: Rows) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    places = [rows.columns.index(column) for column in rows.key if column in rows.columns]
    return {tuple(_hashable(row[place]) for place in places): row for row in map(tuple, rows.rows)}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bytes | None) else repr(value)
