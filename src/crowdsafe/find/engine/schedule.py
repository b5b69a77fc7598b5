"""Schedules: who runs for how many statements, written, read and followed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from string import ascii_uppercase

from crowdsafe.find.engine.trace import Impossible, Situation
from crowdsafe.find.model import Schedule

__all__ = ["Following", "in_order", "of_grants", "switches", "to_text"]


def of_grants(operations: Iterable[int]) -> Schedule:
    """From who was let go on, one statement each: ``[0, 0, 1]`` is ``((0, 2), (1, 1))``."""
    return tuple((operation, sum(1 for _ in run)) for operation, run in groupby(operations))


def in_order(order: Sequence[int]) -> Schedule:
    """One after another: the last pair of an operation runs it to its end."""
    return tuple((operation, 1) for operation in order)


def switches(schedule: Schedule) -> int:
    """How many times an operation that was not yet at its end had to stop for another."""
    last = {operation: place for place, (operation, _) in enumerate(schedule)}
    return sum(last[operation] > place for place, (operation, _) in enumerate(schedule))


def to_text(schedule: Schedule) -> str:
    """``A×3 B×4 A×2``: the operations by letter, in the order in which they were given."""
    return " ".join(f"{_letter(operation)}×{count}" for operation, count in schedule)


def _letter(operation: int) -> str:
    turn, letter = divmod(operation, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")


class Following:
    """Picks as a schedule says; the last pair of an operation runs it to its end.

    An operation that has to wait before its count is reached, or ends, or does not come to its
    gate: that schedule cannot be kept. In its last pair it may wait, and goes on in its turn.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._last = {operation: place for place, (operation, _) in enumerate(schedule)}
        self._place = 0
        self._seen = 0
        self._counted = 0

    def __call__(self, situation: Situation) -> int:
        self._count(situation)
        while self._place < len(self._schedule):
            operation, statements = self._schedule[self._place]
            final = self._last[operation] == self._place
            if operation in situation.able and (final or self._counted < statements):
                return operation
            if not final and self._counted < statements:
                raise Impossible(self._why(situation, operation, statements))
            self._place += 1
            self._counted = 0
        return next((n for n in situation.able if n not in self._last), situation.able[0])

    def _count(self, situation: Situation) -> None:
        for grant in situation.grants[self._seen :]:
            if self._place < len(self._schedule):
                self._counted += grant.operation == self._schedule[self._place][0]
        self._seen = len(situation.grants)

    def _why(self, situation: Situation, operation: int, statements: int) -> str:
        if operation in situation.finished:
            what = "has ended"
        elif operation in situation.held:
            what = "has to wait for a lock"
        elif operation in situation.stalled:
            what = "waits inside of the process"
        else:
            what = "waits in the database"
        return (
            f"the schedule {to_text(self._schedule)} cannot be kept: in part {self._place + 1} "
            f"{_letter(operation)} {what} after {self._counted} of {statements} statements"
        )
