"""Which operations could get in each other's way: those that share a table that one of them writes.

What shares nothing commutes step by step, so that every interleaving of it gives what one after
another gives: such a set is proven without a run. What was not understood shares everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

from crowdsafe.find.model import Statement, Step, Verb

__all__ = ["Footprint", "conflicts", "footprint", "groups"]

ALL = "*"
"""The name that stands for every table."""

SEQUENCE = "sequence"
"""The name that stands for where sequences stand."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The tables that an operation reads (or locks rows of) and writes; ``ALL`` is every one."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


def footprint(steps: Iterable[Step], analyse: Callable[[str], Statement]) -> Footprint:
    """What these steps touch; a row lock, an advisory lock and LOCK TABLE count as writes.
    A number drawn from a sequence only minds what may set that one, which is opaque."""
    reads: set[str] = set()
    writes: set[str] = set()
    for step in steps:
        statement = analyse(step.sql)
        if statement.opaque or statement.verb is Verb.DDL:
            writes.add(ALL)
        if statement.advisory:
            writes.add("advisory lock")
        if statement.draws:
            reads.add(SEQUENCE)
        if statement.counts:
            writes.add(SEQUENCE)
        reads |= statement.reads
        writes |= statement.writes
        if statement.locks_rows or statement.verb is Verb.LOCK:
            writes |= statement.tables
    return Footprint(frozenset(reads), frozenset(writes))


def conflicts(one: Footprint, other: Footprint) -> frozenset[str]:
    """The tables that both touch and at least one writes; ``ALL`` when that cannot be told."""
    both = _written(one, other) | _written(other, one)
    return frozenset({ALL}) if ALL in both else both


def _written(writer: Footprint, toucher: Footprint) -> frozenset[str]:
    touched = toucher.reads | toucher.writes
    if ALL in writer.writes:
        return touched and frozenset({ALL})
    if ALL in touched:
        return writer.writes and frozenset({ALL})
    return writer.writes & touched


def groups(count: int, *, triples: bool) -> list[tuple[int, ...]]:
    """Each operation with itself and with each other, then, on request, three at a time."""
    numbers = range(count)
    found: list[tuple[int, ...]] = [(n, n) for n in numbers]
    found += combinations(numbers, 2)
    if triples:
        found += combinations_with_replacement(numbers, 3)
    return found
