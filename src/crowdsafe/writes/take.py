"""Guarded counters: take what is there, give back, and write down each change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute, Session

from crowdsafe.errors import CrowdsafeError, Insufficient, NotFound, OverLimit
from crowdsafe.store.options import Call, combined_by
from crowdsafe.store.retry import LostRace
from crowdsafe.writes.bulk import balances_of, insert_rows, set_balances
from crowdsafe.writes.counters import QUANTITY_MAX, GuardedCounter, counter_of, key_in, whole

__all__ = ["Taken", "give", "take"]

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Taken:
    """A change that was made: how much, the balance after it, its ledger row, the row's key."""

    quantity: int
    balance: int
    entry_id: int
    key: Any


@dataclass(frozen=True, slots=True)
class _Change:
    """One take or give, checked: ``amount`` is signed, the balance must stay in the limits."""

    counter: GuardedCounter
    key: Any
    where: ColumnElement[bool] | None
    quantity: int
    amount: int
    lowest: int
    highest: int
    entry: Mapping[str, Any]

    def refusal(self, balance: int) -> CrowdsafeError | None:
        """Why the change is not possible at this balance, or None."""
        if balance + self.amount < self.lowest and self.amount < 0:
            available = max(0, balance - self.lowest)
            return Insufficient(
                f"only {available} available, {self.quantity} asked for", available=available
            )
        if balance + self.amount > self.highest and self.amount > 0:
            room = max(0, self.highest - balance)
            return OverLimit(f"only {room} can be given, not {self.quantity}", room=room)
        return None


def _taking(
    column: Any, quantity: Any, *, where: Any, floor: int = 0, entry: Any = None
) -> _Change:
    quantity = whole(quantity, "quantity", 1)
    floor = whole(floor, "floor", -QUANTITY_MAX)
    return _change(column, where, quantity, -quantity, (floor, QUANTITY_MAX), entry)


def _giving(
    column: Any, quantity: Any, *, where: Any, ceiling: int | None = None, entry: Any = None
) -> _Change:
    quantity = whole(quantity, "quantity", 1)
    highest = whole(QUANTITY_MAX if ceiling is None else ceiling, "ceiling", -QUANTITY_MAX)
    return _change(column, where, quantity, quantity, (-QUANTITY_MAX, highest), entry)


def _change(
    column: Any, where: Any, quantity: int, amount: int, limits: tuple[int, int], entry: Any
) -> _Change:
    counter = counter_of(column)
    counter.check_entry(entry or {})
    key = key_in(counter, where)
    return _Change(
        counter, key, where if key is None else None, quantity, amount, *limits, entry or {}
    )


class _ChangesTogether:
    """Many calls on one counter column: rows locked in key order, one UPDATE and one multi-row
    INSERT into the ledger; who gets what is decided in the order of the calls."""

    def __init__(self, parse: Any) -> None:
        self._parse = parse

    def lane(self, call: Call) -> Hashable | None:
        change: _Change = self._parse(*call.args, **call.kwargs)
        return None if change.key is None else ("counter", change.counter.name)

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        changes = [self._parse(*call.args, **call.kwargs) for call in calls]
        counter: GuardedCounter = changes[0].counter
        connection = session.connection()
        before = balances_of(connection, counter.column, {change.key for change in changes})
        balances = dict(before)
        decided = [_decide(change, balances) for change in changes]
        moved = {key: now for key, now in balances.items() if now != before[key]}
        set_balances(connection, counter.column, moved)
        entries = [
            counter.entry(change.key, change.amount, balance, change.entry)
            for change, balance in zip(changes, decided, strict=True)
            if isinstance(balance, int)
        ]
        ids = iter(_write_entries(connection, counter, entries))
        return [
            Taken(change.quantity, balance, next(ids), change.key)
            if isinstance(balance, int)
            else balance
            for change, balance in zip(changes, decided, strict=True)
        ]


def _decide(change: _Change, balances: dict[Any, int]) -> int | CrowdsafeError:
    balance = balances.get(change.key)
    if balance is None:
        return _no_row(change)
    refusal = change.refusal(balance)
    if refusal is not None:
        return refusal
    balances[change.key] = balance + change.amount
    return balances[change.key]


def _write_entries(
    connection: Any, counter: GuardedCounter, entries: list[dict[str, Any]]
) -> list[int]:
    ids: list[int] = []
    for _, run in groupby(entries, key=lambda entry: entry.keys()):
        ids.extend(insert_rows(connection, counter.ledger_table, list(run)))
    return ids


@combined_by(_ChangesTogether(_taking))
def take(
    session: Session,
    column: InstrumentedAttribute[int] | ColumnElement[int],
    quantity: int,
    *,
    where: ColumnElement[bool] | int | str,
    floor: int = 0,
    entry: Mapping[str, Any] | None = None,
) -> Taken:
    """Take ``quantity`` from a counter if that leaves at least ``floor``, and write it down.

    One conditional UPDATE and one ledger row (see ``Ledger``; ``entry`` holds its further columns)
    in the caller's transaction. ``where`` is the row's key, or a condition that names one row.
    ``store.write(take, Stock.on_hand, 80, where=7)`` combines calls that come at the same time.

    Holds: the counter never passes its floor; the ledger's deltas always sum to what the parts
    changed; of calls at once, each gets all it asked for or nothing, at any isolation level, on
    SQLite and PostgreSQL, in any number of processes. Does not hold: writes to the column that go
    round ``take`` and ``give``. Proved by ``tests/writes/test_take.py``.

    ``quantity`` is a whole number from 1 to 2**53 - 1. Raises Insufficient(available), NotFound,
    InvalidInput; ConfigError when the column's table has no key of one column.
    """
    return _apply(session, _taking(column, quantity, where=where, floor=floor, entry=entry))


@combined_by(_ChangesTogether(_giving))
def give(
    session: Session,
    column: InstrumentedAttribute[int] | ColumnElement[int],
    quantity: int,
    *,
    where: ColumnElement[bool] | int | str,
    ceiling: int | None = None,
    entry: Mapping[str, Any] | None = None,
) -> Taken:
    """Give ``quantity`` to a counter if that stays at or below ``ceiling``, and write it down.

    The mirror of ``take``, with the same guarantee for the ceiling (2**53 - 1 without one).
    Raises OverLimit(room), NotFound, InvalidInput. Proved by ``tests/writes/test_take.py``.
    """
    return _apply(session, _giving(column, quantity, where=where, ceiling=ceiling, entry=entry))


def _apply(session: Session, change: _Change) -> Taken:
    session.flush()
    counter = change.counter
    connection = session.connection()
    limits = {
        "amount": change.amount,
        "lowest": change.lowest if change.amount < 0 else -(2**63),
        "highest": change.highest if change.amount > 0 else 2**63 - 1,
    }
    if change.where is None:
        key = change.key
        attempt = partial(counter.change, connection, limits, key, change.entry)
    else:
        key = counter.find(session, change.where)
        move = counter.move.where(change.where)
        attempt = partial(counter.change_where, connection, move, limits, key, change.entry)
    for _ in range(_TRIES):
        made = attempt()
        if made is not None:
            counter.forget_loaded(session, key)
            return Taken(change.quantity, *made, key)
        found = connection.execute(counter.look, {"row_key": key}).scalar_one_or_none()
        if found is None:
            raise _no_row(change)
        refusal = change.refusal(found)
        if refusal is not None:
            raise refusal
    raise LostRace(f"{counter.name} kept changing between two statements")


def _no_row(change: _Change) -> NotFound:
    table = change.counter.column.table.name
    return NotFound(f"there is no row {change.key!r} in {table}", id=change.key)
