"""Judges a run: is its outcome one that the operations give one after another, in some order?

An outcome is all rows together with all answers, in canonical form. An operation that was
refused counts as not having run from the refused request on, or as having been refused in a
serial order just so; both are tried. So this is serializability of what can be observed, for
one starting state: what is wrong in every serial order as well is not seen here, and a caller's
invariants are the way to see it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.canonical import Canon, Outcome
from crowdsafe.find.judge.compared import Comparison, compare
from crowdsafe.find.judge.delta import delta_of
from crowdsafe.find.judge.learning import Seen, learn_pair
from crowdsafe.find.judge.moments import Window
from crowdsafe.find.judge.refusals import Refusal, RefusalKind, refusals_of
from crowdsafe.find.judge.volatile import Habits
from crowdsafe.find.model import Run, State

__all__ = ["Invariant", "Judgement", "Key", "Oracle"]

Invariant = Callable[[dict[str, list[dict[str, Any]]]], object]
Limits = tuple[int | None, ...]
Key = tuple[tuple[int, ...], Limits]

_DIFFERENCES_MAX = 8
_NEVER = Window(1.0, 0.0)
_BEFORE_S = 0.2
_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """``kind`` is one of "serial", "race", "aborts", "error" and "invariant-serial".

    "aborts": as serial but for operations that the database broke off and that answered with an
    error; "error": the same with an error of another kind that no serial order has;
    "invariant-serial": as serial, but an invariant is broken in serial orders already.
    ``order`` is the serial order that it equals, or is nearest to; ``refused`` for each operation
    the place of the request that was refused, or None. ``tables`` are those whose rows differ
    from the nearest. ``suspects_clock``: only texts, fractions, bytes and times differ, so that the
    serial orders should be run again in another second, and given to :meth:`Oracle.learn` with
    their first runs, before this is called a race.
    """

    kind: str
    differences: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    limits: Limits = ()
    refused: Limits = ()
    rows_differ: bool = False
    answers_differ: bool = False
    suspects_clock: bool = False
    tables: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(slots=True)
class _Serial:
    seen: Seen
    broken: tuple[str, ...]
    outcomes: dict[Window, Outcome] = field(default_factory=dict)
    learned: int = -1


class Oracle:
    """Knows what a set of operations gives one after another, and judges runs against it.

    ``base`` is the database as it was before each run: rows in it keep their ids. Without it all
    rows count as made by the run. ``invariants`` get all rows (table → rows as dicts) and fail by
    returning False or a text, or by raising AssertionError.
    """

    def __init__(
        self,
        schema: Schema,
        invariants: Sequence[Invariant] = (),
        base: State | None = None,
    ) -> None:
        self.schema = schema
        self.invariants = tuple(invariants)
        self.base: State = base or {}
        self.habits = Habits()
        self._repeats: list[tuple[Seen, Seen]] = []
        self._began = math.inf
        self._canon = Canon(schema, self.habits)
        self._serial: dict[Key, _Serial] = {}

    def learn(self, runs: Sequence[Run]) -> None:
        """Learn what is volatile from runs of one serial order (the same requests, limits too),
        made at different times and with moved generators of ids. Runs with a problem are left
        out."""
        seen = [self._see(run) for run in runs if run.state is not None]
        for one, two in itertools.pairwise(seen):
            learn_pair(self.schema, self.habits, one, two)
            self._repeats.append((one, two))

    @property
    def unstable(self) -> Comparison | None:
        """Two of those runs that differ for all that was learned, if there are: the target gives
        something else each time. Where its rows do, nothing that it gives proves anything."""
        found = (
            compare(self._outcome(one), self._outcome(two), [None] * len(one.run.answers))
            for one, two in self._repeats
        )
        differ = [comparison for comparison in found if not comparison.equal]
        return max(differ, key=lambda one: one.rows_differ, default=None)

    def add_serial(self, order: Sequence[int], limits: Sequence[int | None], run: Run) -> None:
        """What that order gives. ``limits``: by operation, how many requests it ran (None: all,
        0: it was left out)."""
        self._serial[_key(order, limits)] = _Serial(self._see(run), self._broken(run))

    def wants(self, run: Run) -> list[Key]:
        """The serial runs, as (order, limits), that are needed to judge this run and were not
        added yet. ``order`` leaves out the operations whose limit is 0."""
        return [key for key in self._keys(refusals_of(run)) if key not in self._serial]

    def judge(self, run: Run) -> Judgement:
        """Compare with the serial orders that were added. Raises ConfigError where an invariant
        fails to work, ValueError for a run without a state and where no serial run fits."""
        refusals = refusals_of(run)
        keys = [key for key in self._keys(refusals) if key in self._serial]
        if not keys:
            raise ValueError("no serial run was added that this run can be compared with")
        seen = self._see(run)
        outcome = self._outcome(seen)
        refused = tuple(None if one is None else one.at for one in refusals)
        broken = self._broken(run)
        found: list[tuple[Key, Comparison]] = []
        for key in keys:
            comparison = compare(outcome, self._serial_outcome(key), _limits(key, len(refusals)))
            if comparison.equal:
                return self._serial_judgement(key, refusals, refused, broken)
            found.append((key, comparison))
        timeless = self._equal_but_for_moments(seen, keys)
        if timeless is not None:
            return self._serial_judgement(timeless, refusals, refused, broken)
        return self._race(found, run, refused, broken)

    def _equal_but_for_moments(self, seen: Seen, keys: list[Key]) -> Key | None:
        """The serial order that is equal when no time is taken for one of the run.

        A date that was there before (an appointment in a minute) is in the window of one run
        and not in that of the next.
        """
        outcome = self._outcome(replace(seen, window=_NEVER))
        for key in keys:
            serial = self._serial_outcome(key, _NEVER)
            if compare(outcome, serial, _limits(key, len(seen.run.answers))).equal:
                return key
        return None

    def _serial_judgement(
        self,
        key: Key,
        refusals: Sequence[Refusal | None],
        refused: Limits,
        broken: tuple[str, ...],
    ) -> Judgement:
        order, limits = key
        left_out = [
            refusal for refusal, limit in zip(refusals, limits, strict=True)
            if refusal is not None and limit is not None
        ]  # fmt: skip
        kinds = {refusal.kind for refusal in left_out}
        kind, words = "serial", tuple(_told(refusal) for refusal in left_out)
        if RefusalKind.ERROR in kinds:
            kind = "error"
        elif RefusalKind.ABORT in kinds:
            kind = "aborts"
        elif broken:
            in_order = any(serial.broken for serial in self._serial.values())
            kind = "invariant-serial" if in_order else "race"
            words = broken
        return Judgement(
            kind=kind,
            differences=() if kind == "serial" else words[:_DIFFERENCES_MAX],
            order=order,
            limits=limits,
            refused=refused,
            rows_differ=kind == "race",
            broken=broken,
        )

    def _race(
        self,
        found: list[tuple[Key, Comparison]],
        run: Run,
        refused: Limits,
        broken: tuple[str, ...],
    ) -> Judgement:
        key, nearest = min(found, key=lambda one: one[1].distance)
        near = [one for _, one in found if one.distance[0] == nearest.distance[0]]
        words = [*broken, *self._all_done(run)]
        words += nearest.words([other for other in near if other is not nearest], _DIFFERENCES_MAX)
        return Judgement(
            kind="race",
            differences=tuple(words[:_DIFFERENCES_MAX]),
            order=key[0],
            limits=key[1],
            refused=refused,
            rows_differ=all(comparison.rows_differ for _, comparison in found),
            answers_differ=nearest.answers_differ,
            suspects_clock=not broken and any(one.suspects_clock for _, one in found),
            tables=nearest.tables,
            broken=broken,
        )

    def _all_done(self, run: Run) -> list[str]:
        """That nobody was refused, where in each serial order somebody is."""
        whole = [serial.seen.run for key, serial in self._serial.items() if set(key[1]) == {None}]
        if any(refusals_of(run)) or not all(any(refusals_of(serial)) for serial in whole):
            return []
        last = [answer.replies[-1].status for answer in run.answers if answer.replies]
        statuses = ", ".join(dict.fromkeys(str(status) for status in last if status is not None))
        done = f"were answered {statuses}" if statuses else "succeeded"
        both = "both" if len(run.answers) == 2 else f"all {len(run.answers)}"
        return [f"{both} {done}; one after another at least one is refused"]

    def _keys(self, refusals: Sequence[Refusal | None]) -> list[Key]:
        """All orders, with each refused operation run whole and run up to the refused request."""
        choices = [(None,) if one is None else (None, one.at) for one in refusals]
        keys = (
            _key(order, limits)
            for limits in itertools.product(*choices)
            for order in itertools.permutations(range(len(refusals)))
        )
        return list(dict.fromkeys(keys))

    def _see(self, run: Run) -> Seen:
        if run.state is None:
            raise ValueError("a run without a state cannot be judged")
        began = run.ended_at - run.seconds - _BEFORE_S
        self._began = min(self._began, math.floor(began))  # clocks tell the second that has begun
        window = Window(self._began, run.ended_at + _AFTER_S)
        return Seen(run, delta_of(run.state, self.base), window)

    def _outcome(self, seen: Seen, limits: Limits = ()) -> Outcome:
        return self._canon.outcome(seen.run, seen.delta, seen.window, limits)

    def _serial_outcome(self, key: Key, window: Window | None = None) -> Outcome:
        serial = self._serial[key]
        learned = self.habits.size()
        if serial.learned != learned:
            serial.outcomes.clear()
            serial.learned = learned
        seen = replace(serial.seen, window=window) if window else serial.seen
        if seen.window not in serial.outcomes:
            serial.outcomes[seen.window] = self._outcome(seen, key[1])
        return serial.outcomes[seen.window]

    def _broken(self, run: Run) -> tuple[str, ...]:
        if not self.invariants or run.state is None:
            return ()
        rows = {
            table: [dict(zip(ones.columns, row, strict=True)) for row in ones.rows]
            for table, ones in (self.base | run.state).items()
        }
        words = (_broken(invariant, rows) for invariant in self.invariants)
        return tuple(word for word in words if word)


def _key(order: Iterable[int], limits: Iterable[int | None]) -> Key:
    limits = tuple(limits)
    return tuple(n for n in order if n >= len(limits) or limits[n] != 0), limits


def _limits(key: Key, count: int) -> list[int | None]:
    return list(key[1]) + [None] * (count - len(key[1]))


def _broken(invariant: Invariant, rows: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """Why an invariant does not hold, or None."""
    name = getattr(invariant, "__name__", type(invariant).__name__)
    try:
        said = invariant(dict(rows))
    except AssertionError as error:
        said = next(iter(str(error).splitlines()), False)
    except Exception as error:
        raise ConfigError(
            f"the invariant {name} raised {type(error).__name__}: {error}; it gets all rows as "
            "{table: [row, ...]} and must return True, False or a text, or raise AssertionError"
        ) from error
    if isinstance(said, str) and said:
        return f"the invariant {name} is broken: {said}"
    return f"the invariant {name} is broken" if said is False else None


def _told(refusal: Refusal) -> str:
    reply = refusal.reply
    why = (
        ": ".join(part for part in (reply.error, reply.message) if part) or f"status {reply.status}"
    )
    if reply.sqlstate:
        why += f" ({reply.sqlstate})"
    return f"{reply.request} ended with {why}, which no serial order gives"
