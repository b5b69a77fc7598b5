"""Which steps of a run raced: the places at which another order could give another outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdsafe.find.engine.touch import Touch, all_of, dependent
from crowdsafe.find.engine.trace import Grant

__all__ = ["Reversal", "reversals", "whole_touch"]

_Clock = list[int]


@dataclass(frozen=True, slots=True)
class Reversal:
    """To be tried: at ``depth``, let ``operation`` come to its next step without what stood there.

    ``order`` are the operations whose steps do not depend on that one, and ``operation`` last;
    ``initials`` those of them that can be first.
    """

    depth: int
    operation: int
    order: tuple[int, ...]
    initials: frozenset[int]


def whole_touch(grant: Grant) -> Touch:
    """What a step did, and what those did that came through a wait by it."""
    if not grant.woke:
        return grant.touch
    return all_of([grant.touch, *(touch for _, touch in grant.woke)])


def reversals(grants: Sequence[Grant], count: int, end: int) -> list[Reversal]:
    """All reversible races among the first ``end`` steps of a run of ``count`` operations.

    Two dependent steps of different operations race when nothing orders them but themselves:
    neither a chain of dependent steps, nor that the first made the second possible (it let go of
    the lock that the second's operation waited for). A statement that is held at its gate races,
    from the moment that it is held, with those who took the lock.
    """
    return _Analysis(grants, count).run(end)


class _Analysis:
    def __init__(self, grants: Sequence[Grant], count: int) -> None:
        self._grants = grants
        self._touches = [whole_touch(grant) for grant in grants]
        self._meets = self._those_that_meet(count)
        self._clocks: list[_Clock] = []
        self._now: list[_Clock] = [[0] * count for _ in range(count)]
        self._nth: list[int] = []
        self._found: list[Reversal] = []

    def _those_that_meet(self, count: int) -> list[bool]:
        """For each step, whether it depends on any of another operation's: few do in long ones."""
        wholes = [
            all_of(t for t, g in zip(self._touches, self._grants, strict=True) if g.operation == n)
            for n in range(count)
        ]
        return [
            any(dependent(touch, wholes[n]) for n in range(count) if n != grant.operation)
            for touch, grant in zip(self._touches, self._grants, strict=True)
        ]

    def run(self, end: int) -> list[Reversal]:
        seen = [0] * len(self._now)
        for place, grant in enumerate(self._grants[:end]):
            self._held(place, grant)
            operation = grant.operation
            clock = self._races(place, operation, place)
            seen[operation] += 1
            self._nth.append(seen[operation])
            clock[operation] = seen[operation]
            self._clocks.append(clock)
            self._now[operation] = list(clock)
            for woken, _ in grant.woke:
                self._now[woken] = _join(self._now[woken], clock)
        if end < len(self._grants):
            self._held(end, self._grants[end])
        return self._found

    def _held(self, place: int, grant: Grant) -> None:
        """Who came to be held at this point, and who can go on again."""
        before = self._grants[place - 1] if place else None
        if before is not None:
            for operation in before.held - grant.held:
                self._now[operation] = _join(self._now[operation], self._clocks[place - 1])
        for operation in grant.held:
            if before is None or operation not in before.held or before.operation == operation:
                pending = self._next_of(operation, place)
                if pending is not None:
                    self._races(place, operation, pending)

    def _next_of(self, operation: int, place: int) -> int | None:
        numbers = range(place, len(self._grants))
        return next((n for n in numbers if self._grants[n].operation == operation), None)

    def _races(self, place: int, operation: int, target: int) -> _Clock:
        """Races of an operation's next step at that place; returns what happened before it."""
        touch = self._touches[target]
        clock = list(self._now[operation])
        if not self._meets[target]:
            return clock
        racing: list[int] = []
        for other in range(place - 1, -1, -1):
            whose = self._grants[other].operation
            if whose == operation or not self._meets[other]:
                continue
            if clock[whose] >= self._nth[other]:
                continue
            if dependent(self._touches[other], touch):
                racing.append(other)
                clock = _join(clock, self._clocks[other])
        self._found += [self._reversal(first, place, operation, clock) for first in racing]
        return clock

    def _reversal(self, first: int, place: int, operation: int, clock: _Clock) -> Reversal:
        whose, nth = self._grants[first].operation, self._nth[first]
        kept = [n for n in range(first + 1, place) if self._clocks[n][whose] < nth]
        initials, seen = set(), set()
        for number, its_clock in [*((n, self._clocks[n]) for n in kept), (None, clock)]:
            mover = operation if number is None else self._grants[number].operation
            if mover in seen:
                continue
            seen.add(mover)
            earlier = (n for n in kept if number is None or n < number)
            if not any(its_clock[self._grants[n].operation] >= self._nth[n] for n in earlier):
                initials.add(mover)
        order = (*(self._grants[n].operation for n in kept), operation)
        return Reversal(first, operation, order, frozenset(initials))


def _join(one: _Clock, other: _Clock) -> _Clock:
    return [max(a, b) for a, b in zip(one, other, strict=True)]
