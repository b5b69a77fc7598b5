"""The shapes that races have: who read what, before whom wrote what, and then did what.

Each is a cycle of dependencies between two operations in the sense of Adya (2000): A's write came
after B's read (B missed it), and something of B came after, or missed, A's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

from crowdsafe.find.judge.events import Event, may_be_same_row
from crowdsafe.find.judge.moments import may_be_moment
from crowdsafe.find.model import Anomaly, Run, State, Verb

__all__ = ["VERSION_WORDS", "Pattern", "asked_for_null", "letter", "patterns_in"]

_STATE_WORDS = re.compile(r"(^|_)(status|state|stage|phase|step)($|_)")
_FLAG_WORDS = re.compile(r"^(is|has|was)_\w+$|^(?!.*used$)(\w+_)?(\w+ed|done|open|active)$")
_TIME_WORDS = re.compile(r"(_at|_on|_time|_date|^last_\w+|timestamp|^modified|^updated|^changed)$")
VERSION_WORDS = re.compile(r"(^|_)(version|revision|rev|etag)(_|$)")
_COUNTING = re.compile(r"\b(max|count)\s*\(|\bdesc\b(\s+nulls\s+\w+)?\s+limit\b", re.IGNORECASE)
_NUMBER_WORDS = re.compile(
    r"(^|_)(number|no|nr|num|seq|sequence|position|rank|code|index|idx|sort|ordering|revision"
    r"|version|ref|reference)($|_)"
)
_NUMBER = re.compile(r"^-?\d+(\.\d+)?$|^'-?\d+(\.\d+)?'$")
_ENDS_IN_NUMBER = re.compile(r"\d'?$")
_SUM = re.compile(r"\b(sum|avg)\s*\(")
_NOT_THERE = re.compile(r"\bnot\s+exists\s*\(", re.IGNORECASE)
_IS_NULL = re.compile(r'(\w+)["`]?\s+is\s+null')
_COMPARED = re.compile(r'(\w+)["`]?\s*(?<![-=<>])(?:<=?(?!>)|>=?|&&|between\b)(?![>@])')
_COMPARED_TO = re.compile(
    r'(?<![-=<>])(?:<=?(?!>)|>=?|&&)(?![>@])\s*(?:["`]?\w+["`]?\.)?["`]?(\w+)'
)
_TRUTHS = frozenset({"TRUE", "FALSE"})
_TRUTHS_AS_NUMBERS = frozenset({"0", "1"})
_PATTERNS_MAX = 2000
_EVENTS_MAX = 300


Flags = frozenset[tuple[str, str]] | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """One way in which a run went wrong.

    ``first`` is the operation whose write was missed, ``second`` the one that acted on what no
    longer held. ``read``, ``missed`` and ``acted`` are the three events that show it (``acted``
    may be the read again), ``marks`` what to say beside steps, by their number in the run.
    """

    anomaly: Anomaly
    table: str
    column: str | None
    read: Event
    missed: Event
    acted: Event
    marks: tuple[tuple[int, str], ...]

    @property
    def first(self) -> int:
        return self.missed.operation

    @property
    def second(self) -> int:
        return self.read.operation

    @property
    def before(self) -> str | None:
        """The column's value as it was read, in the row that was written or as the only value."""
        given = _row_of(self.read, self.acted)
        if len(given) == 1:
            return next(iter(given.values()))
        return given.get(self.column or "")

    @property
    def numeric(self) -> bool:
        """Whether the column that went wrong is a number."""
        if self.column is None:
            return False
        values = [self.missed.sets.get(self.column, ""), self.acted.sets.get(self.column, "")]
        if self.acted.in_place and self.column in values[1].lower():
            return True
        return any(_NUMBER.match(value) and not _is_time(value) for value in values)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the shapes are looked for in: reads, writes that were kept, and the states."""

    reads: Sequence[Event]
    writes: Sequence[Event]
    found: State | None
    serial: Sequence[State]
    flags: Flags


def _row_of(read: Event, write: Event) -> dict[str, str]:
    """The row that was written as it was read before, where that is sure."""
    if len(read.given) == 1:
        return read.given[0]
    rows = [row for row in read.given if write.where and write.where.items() <= row.items()]
    return rows[0] if len(rows) == 1 else {}


def letter(operation: int) -> str:
    """A, B, C: what reports call the operations of a run."""
    return chr(ord("A") + operation) if 0 <= operation < 26 else f"#{operation}"


def patterns_in(
    run: Run, events: Sequence[Event], serial: Sequence[State], flags: Flags = frozenset()
) -> list[Pattern]:
    """All shapes that a run has, the most telling kind first, each kind in the run's order.

    ``flags`` are the (table, column) known to hold yes or no, which SQLite writes as a number;
    None takes every column for one.
    """
    useful = [event for event in events if event.statement.tables and not event.statement.opaque]
    if len(useful) > _EVENTS_MAX:
        useful = _contended(useful)
    reads = [event for event in useful if event.looks and not _is_retried(event, useful)]
    writes = [event for event in useful if event.writes and event.seen_from is not None]
    seen = _Seen(reads, writes, run.state, serial, flags)
    found: list[Pattern] = []
    for kind in (_overwritten, _inserted, _skewed, _summed, _torn, _reread, _late):
        for pattern in kind(seen):
            found.append(pattern)
            if len(found) >= _PATTERNS_MAX:
                return found
    return found or list(islice(_uncounted(seen), _PATTERNS_MAX))


def _is_retried(read: Event, events: Sequence[Event]) -> bool:
    """Whether its transaction was rolled back, and its operation read the same in a later one."""
    return read.seen_from is None and any(
        later.number > read.number
        and later.operation == read.operation
        and later.transaction != read.transaction
        and later.step.sql == read.step.sql
        for later in events
    )


def _contended(events: Sequence[Event]) -> list[Event]:
    """The events on tables that one operation writes and another touches; of a SELECT that is
    repeated only the first, and at most so many."""
    written: dict[str, set[int]] = {}
    touched: dict[str, set[int]] = {}
    for event in events:
        for table in event.statement.tables:
            touched.setdefault(table, set()).add(event.operation)
        for table in event.writes:
            written.setdefault(table, set()).add(event.operation)
    hot = {table for table in written if len(touched[table]) > 1}
    kept: dict[object, Event] = {}
    for event in events:
        if event.statement.tables & hot:
            same = (event.operation, event.step.sql, repr(event.step.parameters)[:200])
            kept.setdefault(event.number if event.writes else same, event)
    return list(kept.values())[:_EVENTS_MAX]


def _missed(read: Event, write: Event) -> str | None:
    """The table in which a read came before a write of another operation was to be seen."""
    if read.operation == write.operation or write.seen_from is None or write.missed_all:
        return None
    waited = write.inserts and write.operation in read.step.waited_for  # it sees no newer rows
    if (read.number >= write.seen_from and not waited) or not may_be_same_row(read, write):
        return None
    return min(read.looks & write.writes, default=None)


def _misses(reads: Sequence[Event], writes: Sequence[Event]) -> Iterator[tuple[Event, Event, str]]:
    for read, write in product(reads, writes):
        table = _missed(read, write)
        if table is not None:
            yield read, write, table


def _later(writes: Sequence[Event], read: Event, table: str) -> list[Event]:
    """What the operation that read wrote to that table afterwards, or by the same statement."""
    return [
        write
        for write in writes
        if write.operation == read.operation and table in write.writes
        and (write.number > read.number or (write is read and read.inserts))
    ]  # fmt: skip


# --- a row written over -------------------------------------------------------------------


def _overwritten(seen: _Seen) -> Iterator[Pattern]:
    changes = [
        write
        for write in seen.writes
        if not write.inserts or (write.statement.on_conflict and write.step.rowcount != 0)
    ]
    for read, missed, table in _misses(seen.reads, changes):
        for acted in _later(changes, read, table):
            if acted.number > missed.number and may_be_same_row(missed, acted):
                yield _over(seen, read, missed, acted, table)


def _over(seen: _Seen, read: Event, missed: Event, acted: Event, table: str) -> Pattern:
    column = _column_of(read, missed, acted)
    known = seen.flags is None or (table, column) in seen.flags
    known = known or (column is not None and _was_taken(seen, read, acted, table, column))
    a = letter(missed.operation)
    both_delete = missed.verb is acted.verb is Verb.DELETE
    if both_delete or (column is not None and _moves_state(column, read, missed, acted, known)):
        anomaly, mark = Anomaly.DOUBLE_TRANSITION, f"moved by {a} already"
    else:
        anomaly = Anomaly.LOST_UPDATE
        mark = f"decided before {a}'s write" if acted.in_place else f"overwrites {a}"
    marks = ((read.number, f"before {a}'s write"), (acted.number, mark))
    return Pattern(anomaly, table, column, read, missed, acted, marks)


def _column_of(read: Event, missed: Event, acted: Event) -> str | None:
    """The column that both wrote and that says most; None when they share none."""
    before = _row_of(read, acted)
    shared = [
        column
        for column in missed.sets
        if column in acted.sets and missed.sets[column] != before.get(column)
    ]
    ranked = sorted(shared, key=lambda column: _telling(column, missed.sets[column]))
    return ranked[0] if ranked else None


def _telling(column: str, value: str) -> int:
    if _STATE_WORDS.search(column):
        return 0
    if _TIME_WORDS.search(column):
        return 5
    if VERSION_WORDS.search(column):
        return 4
    if value in _TRUTHS or (_FLAG_WORDS.search(column) and value in _TRUTHS_AS_NUMBERS):
        return 1
    if column in value.lower():  # it is changed in place, which loses nothing by itself
        return 4
    return 2 if _NUMBER.match(value) else 3


def _moves_state(column: str, read: Event, missed: Event, acted: Event, known: bool) -> bool:
    """Whether both moved the row on, from the state in which it was read."""
    before = _row_of(read, acted).get(column)
    values = {missed.sets[column], acted.sets[column]}
    if acted.in_place or before == acted.sets[column]:
        return False
    if known or _STATE_WORDS.search(column) or values <= _TRUTHS:
        return True
    if _FLAG_WORDS.search(column):
        return values <= _TRUTHS_AS_NUMBERS or before == "NULL"
    return bool(_TIME_WORDS.search(column)) and before in {"NULL", "0"}


def _was_taken(seen: _Seen, read: Event, acted: Event, table: str, column: str) -> bool:
    """Whether the row was free when it was read (NULL), and is now as one alone would leave it:
    both took it."""
    free = _row_of(read, acted).get(column) == "NULL" or column in asked_for_null(read)
    if not free or acted.sets.get(column) == "NULL":
        return False
    if _TIME_WORDS.search(column):
        return True
    found = _values(seen.found, table, column)
    return found is not None and any(
        found == _values(state, table, column) for state in seen.serial
    )


def asked_for_null(read: Event) -> list[str]:
    """The columns that a read wants to be NULL."""
    return _IS_NULL.findall(read.step.sql.lower())


def _values(state: State | None, table: str, column: str) -> list[str] | None:
    """All that stands in a column."""
    rows = state.get(table) if state else None
    if rows is None or column not in (names := [name.lower() for name in rows.columns]):
        return None
    place = names.index(column)
    return sorted(repr(row[place]) for row in rows.rows)


def _is_time(value: str) -> bool:
    """Of a number as SQL has it: whether it counts seconds since 1970 rather than things."""
    return may_be_moment(float(value.strip("'")))


# --- a row inserted that a read had missed ------------------------------------------------


def _inserted(seen: _Seen) -> Iterator[Pattern]:
    inserts = [write for write in seen.writes if write.inserts]
    for read, missed, table in _misses(seen.reads, inserts):
        for acted in _later(inserts, read, table):
            if not _was_known(seen.reads, acted, missed, table):
                yield _second_insert(seen, read, missed, acted, table)
    for read, missed, table in _misses(seen.reads, inserts):
        for acted in _later(seen.writes, read, table):
            if not acted.inserts and acted.number > missed.number and not _is_one_row(acted):
                a = letter(missed.operation)
                marks = (
                    (read.number, f"before {a}'s insert"),
                    (acted.number, f"meets {a}'s row too"),
                )
                yield Pattern(Anomaly.PHANTOM_INSERT, table, None, read, missed, acted, marks)


def _was_known(reads: Sequence[Event], acted: Event, missed: Event, table: str) -> bool:
    """Whether who inserted the missed row had looked, and each time seen the other's insert: in
    that table it came after the other, and is no race."""
    looks = [
        read
        for read in reads
        if read.operation == missed.operation
        and read.number < missed.number
        and table in read.looks
        and may_be_same_row(read, acted)
    ]
    return bool(looks) and all(_saw(read, acted) for read in looks)


def _is_one_row(write: Event) -> bool:
    """Whether an UPDATE or DELETE names its row by its key."""
    return any(name == "id" or name.endswith("_id") for name in write.where)


def _second_insert(seen: _Seen, read: Event, missed: Event, acted: Event, table: str) -> Pattern:
    a = letter(missed.operation)
    early = (read.number, f"before {a}'s insert")
    known = seen.found is not None and bool(seen.serial)
    more = known and _rows([seen.found], table) > _rows(seen.serial, table)
    number = _same_number(seen, read, missed, acted, table)
    if number is not None and not more and _counts(read, acted.sets.get(number, "")):
        mark = (acted.number, f"same {number} as {a}")
        return Pattern(Anomaly.DUPLICATE_NUMBER, table, number, read, missed, acted, (early, mark))
    if (
        (read.found_nothing or _NOT_THERE.search(read.step.sql))
        and (more or not known)
        and not _sums_or_ranges(read, acted)
    ):
        column = next((name for name in read.where if name in acted.sets), None)
        mark = (acted.number, "second insert")
        return Pattern(Anomaly.DUPLICATE_CREATE, table, column, read, missed, acted, (early, mark))
    mark = (acted.number, f"{a}'s row not counted")
    return Pattern(Anomaly.PHANTOM_INSERT, table, None, read, missed, acted, (early, mark))


def _sums_or_ranges(read: Event, insert: Event) -> bool:
    """Whether it added up, or looked for what lies beside or around what it then inserted: no key
    says that two such rows are one."""
    text = read.step.sql.lower()
    if _SUM.search(text):
        return True
    compared = {*_COMPARED.findall(text), *_COMPARED_TO.findall(text)}
    return not compared.isdisjoint(insert.sets)


def _rows(states: Sequence[State | None], table: str) -> int:
    return max((len(state[table].rows) for state in states if state and table in state), default=0)


def _counts(read: Event, value: str) -> bool:
    """Whether it asked for the last number, or made one from those that it saw."""
    return bool(_COUNTING.search(read.step.sql) or _ENDS_IN_NUMBER.search(value))


def _same_number(seen: _Seen, read: Event, missed: Event, acted: Event, table: str) -> str | None:
    """The column in which both inserted one value, where one after the other they would not."""
    same = [
        column
        for column, value in acted.sets.items()
        if missed.sets.get(column) == value and column not in read.where
    ]
    if read is acted and seen.found is not None and table in seen.found:
        same = [name.lower() for name in seen.found[table].columns]
    if seen.found is not None and seen.serial and table in seen.found:
        same = [
            column
            for column in same
            if _repeats(seen.found, table, column)
            > max(_repeats(state, table, column) for state in seen.serial)
        ]
    else:
        same = [column for column in same if _NUMBER_WORDS.search(column)]
    return min(same, key=lambda column: not _NUMBER_WORDS.search(column), default=None)


def _repeats(state: State, table: str, column: str) -> int:
    values = _values(state, table, column) or []
    return len(values) - len(set(values))


# --- each missed what the other wrote -----------------------------------------------------


def _skewed(seen: _Seen) -> Iterator[Pattern]:
    missed_by: dict[tuple[int, int], list[tuple[Event, Event, str]]] = {}
    for miss in _misses(seen.reads, seen.writes):
        missed_by.setdefault((miss[0].operation, miss[1].operation), []).append(miss)
    for (one, other), misses in missed_by.items():
        back = missed_by.get((other, one))
        if one > other or not back:
            continue
        forth = next((miss for miss in misses if _misses_insert(seen, *miss)), misses[0])
        (read, missed, table), (early, acted, _) = forth, back[0]
        other_way = next((miss for miss in back if _misses_insert(seen, *miss)), None)
        if other_way and not missed.inserts:
            (early, acted, _), (read, missed, table) = forth, other_way
        phantom = missed.inserts
        a, b = letter(missed.operation), letter(read.operation)
        marks: Mapping[int, str] = {
            read.number: f"before {a}'s write",
            early.number: f"before {b}'s write",
        }
        yield Pattern(
            Anomaly.PHANTOM_INSERT if phantom else Anomaly.WRITE_SKEW,
            table,
            next(iter(missed.sets), None),
            read,
            missed,
            acted,
            tuple(sorted(marks.items())),
        )


def _misses_insert(seen: _Seen, read: Event, missed: Event, table: str) -> bool:
    """Whether an insert was missed, and not by one whose own was seen before it."""
    own = _later(seen.writes, read, table)
    return missed.inserts and not any(_was_known(seen.reads, one, missed, table) for one in own)


def _summed(seen: _Seen) -> Iterator[Pattern]:
    """What one wrote over the other's, from rows of another table that lack the other's."""
    for read, missed, acted, _, table in _written_from_elsewhere(seen):
        if _misses_insert(seen, read, missed, table):
            yield _row_missed(read, missed, acted, table)


def _written_from_elsewhere(seen: _Seen) -> Iterator[tuple[Event, Event, Event, Event, str]]:
    """A read, what it missed, what its operation then wrote over a write of the other in another
    table, that write, and the table that was read."""
    for read, missed, table in _misses(seen.reads, seen.writes):
        for acted, write in product(seen.writes, seen.writes):
            if (
                acted.operation == read.operation
                and acted.number >= read.number
                and not acted.inserts
                and write.operation == missed.operation
                and write.number < acted.number
                and (write.writes & acted.writes) - {table}
                and may_be_same_row(write, acted)
            ):
                yield read, missed, acted, write, table


def _uncounted(seen: _Seen) -> Iterator[Pattern]:
    """What was missed by who then went on, where nothing says more."""
    for read, missed, acted, write, table in _written_from_elsewhere(seen):
        if not missed.inserts:
            yield _over(seen, read, write, acted, min((write.writes & acted.writes) - {table}))
    for read, missed, table in _misses(seen.reads, seen.writes):
        if missed.inserts:
            for acted in seen.writes:
                if acted.operation == read.operation and acted.number >= read.number:
                    yield _row_missed(read, missed, acted, table)
    inserts = [write for write in seen.writes if write.inserts]
    for acted, missed in product(seen.writes, inserts):
        waited = missed.operation in acted.step.waited_for
        shared = acted.writes & missed.writes
        if shared and waited and not acted.inserts and may_be_same_row(acted, missed):
            yield _row_missed(acted, missed, acted, min(shared))


def _row_missed(read: Event, missed: Event, acted: Event, table: str) -> Pattern:
    a = letter(missed.operation)
    early, late = (read.number, f"before {a}'s insert"), (acted.number, f"{a}'s row not counted")
    marks = (late,) if read is acted else (early, late)
    return Pattern(Anomaly.PHANTOM_INSERT, table, None, read, missed, acted, marks)


# --- one operation in pieces --------------------------------------------------------------


def _torn(seen: _Seen) -> Iterator[Pattern]:
    ordered = sorted((*seen.reads, *seen.writes), key=lambda event: event.number)
    for one, two in product(seen.writes, seen.writes):
        if one.operation != two.operation or one.transaction == two.transaction:
            continue
        begin, end = one.seen_from, two.seen_from
        if begin is None or end is None or begin >= end:
            continue
        for between in ordered:
            shared = (one.writes | two.writes) & between.statement.tables
            if between.operation != one.operation and begin < between.number < end and shared:
                a = letter(one.operation)
                marks = ((between.number, f"between {a}'s steps"),)
                table = min(shared)
                yield Pattern(Anomaly.TORN_STEPS, table, None, between, two, between, marks)


def _reread(seen: _Seen) -> Iterator[Pattern]:
    for early, missed, table in _misses(seen.reads, seen.writes):
        together = [write for write in seen.writes if write.transaction == missed.transaction]
        for late in seen.reads:
            if late.operation != early.operation or late.number <= early.number:
                continue
            if any(_saw(late, write) for write in together):
                a = letter(missed.operation)
                marks = (
                    (early.number, f"before {a}'s write"),
                    (late.number, f"after {a}'s write"),
                )
                yield Pattern(Anomaly.NON_REPEATABLE_READ, table, None, early, missed, late, marks)


def _late(seen: _Seen) -> Iterator[Pattern]:
    """Who reads after its own COMMIT what another has changed since."""
    for late in seen.reads:
        for own in seen.writes:
            if own.operation != late.operation or own.transaction == late.transaction:
                continue
            for missed in seen.writes:
                after = (missed.seen_from or 0) > (own.seen_from or 0)
                if after and missed.operation != own.operation and _saw(late, missed):
                    marks = ((late.number, f"after {letter(missed.operation)}'s write too"),)
                    table = min(late.looks & missed.writes)
                    yield Pattern(Anomaly.STALE_ANSWER, table, None, own, missed, late, marks)


def _saw(read: Event, write: Event) -> bool:
    """Whether a read came when a write of another operation was to be seen, on its row."""
    if write.seen_from is None or read.number <= write.seen_from:
        return False
    return bool(read.looks & write.writes) and may_be_same_row(read, write)
