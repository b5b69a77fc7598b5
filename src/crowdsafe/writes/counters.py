"""What a guarded counter is made of: its column, its row's key, its ledger, its statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Table,
    bindparam,
    inspect,
    select,
    true,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.elements import BinaryExpression, BindParameter
from sqlalchemy.sql.operators import eq

from crowdsafe.errors import ConfigError, InvalidInput, NotFound
from crowdsafe.store.types import utcnow
from crowdsafe.writes.bulk import with_defaults
from crowdsafe.writes.rows import key_column, resolve_table
from crowdsafe.writes.tables import LedgerEntry

__all__ = ["QUANTITY_MAX", "GuardedCounter", "Ledger", "counter_of", "key_in", "whole"]

QUANTITY_MAX = 2**53 - 1
"""Largest quantity and largest balance: what JavaScript and JSON readers count exactly."""

LEDGER = "crowdsafe.ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The table that gets one row for each change of a counter, and which column holds what.

    Declared in the counter column's ``info``: ``{"crowdsafe.ledger": Ledger(table=lambda:
    StockMovement, row="stock_id", delta="quantity", balance="balance_after")}``. ``balance`` is
    left out when None. A counter without one is kept in ``crowdsafe_ledger``.
    """

    table: Any | Callable[[], Any]
    row: str
    delta: str
    balance: str | None = None


class GuardedCounter:
    """The cached statements for one counter column."""

    def __init__(self, column: Any, model: type[Any] | None) -> None:
        table: Table = column.table
        self.column = column
        self.model = model
        self.key = key_column(table)
        self.whole_key = isinstance(self.key.type, Integer)
        self.name = f"{table.fullname}.{column.name}"
        ledger = column.info.get(LEDGER)
        self.ledger: Ledger | None = ledger
        self.ledger_table = resolve_table(ledger.table if ledger else LedgerEntry)
        self.ledger_key = key_column(self.ledger_table)
        at_key: BindParameter[Any] = bindparam("row_key", type_=self.key.type)
        result = column + bindparam("amount", type_=BigInteger)
        self.move = (
            update(table)
            .where(
                self.key == at_key,
                result >= bindparam("lowest", type_=BigInteger),
                result <= bindparam("highest", type_=BigInteger),
            )
            .values({column: result})
            .returning(column)
        )
        self.look = select(column).where(self.key == at_key)
        self.write_entry = self.ledger_table.insert().returning(self.ledger_key)

    def check_entry(self, more: Mapping[str, Any]) -> None:
        """Refuse what the ledger has no column for: SQLAlchemy would leave it out silently."""
        if self.ledger is None:
            return
        for name in more:
            if name not in self.ledger_table.c:
                raise ConfigError(f"{self.ledger_table.name} has no column {name!r} for `entry`")

    def entry(self, key: Any, delta: int, balance: int, more: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the ledger row for one change."""
        if self.ledger is None:
            return {
                "counter": self.name,
                "row_key": str(key),
                "delta": delta,
                "balance": balance,
                "entry": dict(more),
                "at": utcnow(),
            }
        values = {**more, self.ledger.row: key, self.ledger.delta: delta}
        if self.ledger.balance is not None:
            values[self.ledger.balance] = balance
        return values

    def change(
        self, connection: Connection, limits: Mapping[str, int], key: Any, more: Mapping[str, Any]
    ) -> tuple[int, int] | None:
        """Move the counter and write its ledger row: the balance and the entry's key.

        None when the row is not there or the limits forbid it. One statement on PostgreSQL.
        """
        values = {**limits, "row_key": key}
        if connection.dialect.name == "postgresql":
            entry = with_defaults(self.ledger_table, self.entry(key, limits["amount"], 0, more))
            new = {f"new_{name}": value for name, value in entry.items()}
            moved = connection.execute(self._move_and_note(tuple(entry)), {**values, **new})
            found = moved.one_or_none()
            return None if found is None else (found[0], found[1])
        return self.change_where(connection, self.move, limits, key, more)

    def change_where(
        self,
        connection: Connection,
        move: Any,
        limits: Mapping[str, int],
        key: Any,
        more: Mapping[str, Any],
    ) -> tuple[int, int] | None:
        """As ``change``, by a statement ``move`` of the caller's and a second one."""
        balance = connection.execute(move, {**limits, "row_key": key}).scalar_one_or_none()
        if balance is None:
            return None
        entry = self.entry(key, limits["amount"], balance, more)
        return balance, connection.execute(self.write_entry, entry).scalar_one()

    @lru_cache(maxsize=64)  # noqa: B019  (counters are few and live as long as the process)
    def _move_and_note(self, names: tuple[str, ...]) -> Any:
        moved = self.move.cte("moved")
        balance = moved.c[self.column.key]
        balance_name = self.ledger.balance if self.ledger else "balance"
        values = [
            balance
            if name == balance_name
            else bindparam(f"new_{name}", type_=self.ledger_table.c[name].type).label(name)
            for name in names
        ]
        entry = self.ledger_table.insert().from_select(
            names, select(*values).select_from(moved), include_defaults=False
        )
        noted = entry.returning(self.ledger_key).cte("noted")
        return select(balance, noted.c[self.ledger_key.key]).select_from(moved.join(noted, true()))

    def find(self, session: Session, where: ColumnElement[bool]) -> Any:
        """The key of the one row that ``where`` names. Raises NotFound, InvalidInput."""
        keys = session.connection().execute(select(self.key).where(where).limit(2)).scalars().all()
        if not keys:
            raise NotFound(f"no row of {self.column.table.name} matches")
        if len(keys) > 1:
            raise InvalidInput(f"`where` names more than one row of {self.column.table.name}")
        return keys[0]

    def forget_loaded(self, session: Session, key: Any) -> None:
        """Have a loaded object read its counter again."""
        if self.model is None or not len(session.identity_map):
            return
        loaded = session.identity_map.get(session.identity_key(self.model, key))
        if loaded is not None:
            session.expire(loaded, [inspect(self.model).get_property_by_column(self.column).key])


@lru_cache(maxsize=1024)
def counter_of(attribute: Any) -> GuardedCounter:
    """The guarded counter behind a mapped attribute or a column. Raises ConfigError."""
    if isinstance(attribute, InstrumentedAttribute):
        model: Any = attribute.class_
        return GuardedCounter(attribute.property.columns[0], model)
    if getattr(attribute, "table", None) is None:
        raise ConfigError(f"{attribute!r} is not a column of a table")
    return GuardedCounter(attribute, None)


def key_in(counter: GuardedCounter, where: Any) -> Any | None:
    """The key's value when ``where`` is ``key == value`` or the value itself, else None."""
    if isinstance(where, int | str):
        return _checked_key(counter, where)
    if not isinstance(where, ColumnElement):
        raise InvalidInput("`where` is a row's key or a condition such as Stock.id == 7")
    if not isinstance(where, BinaryExpression) or where.operator is not eq:
        return None
    if not isinstance(where.right, BindParameter):
        return None
    named = getattr(where.left, "table", None), getattr(where.left, "key", None)
    if named != (counter.key.table, counter.key.key):
        return None
    return _checked_key(counter, where.right.value)


def _checked_key(counter: GuardedCounter, value: Any) -> Any:
    """``value`` as the key column holds it: a database's own refusal would be a 500."""
    if not counter.whole_key:
        return value
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
    key = int(value) if digits else value
    if type(key) is not int or not -(2**63) <= key < 2**63:
        raise InvalidInput(f"{counter.key} is a whole number of 64 bits, not {value!r}"[:200])
    return key


def whole(value: Any, name: str, lowest: int, highest: int = QUANTITY_MAX) -> int:
    """``value`` when it is a whole number within the limits. Raises InvalidInput."""
    if type(value) is not int or not lowest <= value <= highest:
        raise InvalidInput(
            f"{name} must be a whole number from {lowest} to {highest}, not {value!r}"[:200],
            field=name,
        )
    return value
