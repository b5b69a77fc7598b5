"""Many rows in one statement of constant text.

PostgreSQL takes a column of values as an array, so the text stays the same for any number of rows:
it is prepared once, and the driver does not parse a long VALUES list. SQLite runs a prepared
statement once a row, which there is as fast.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Connection, Table, bindparam, column, func, select, update

from crowdsafe.writes.rows import key_column

__all__ = ["balances_of", "insert_rows", "set_balances", "with_defaults"]


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Insert rows, which all have the same keys, and return their keys in the same order."""
    counted = table.autoincrement_column is not None
    if not _is_pg(connection) or not counted or len(rows) == 1:
        statement = table.insert().returning(key_column(table), sort_by_parameter_order=True)
        return list(connection.execute(statement, rows).scalars())
    full = [with_defaults(table, row) for row in rows]
    names = tuple(full[0])
    values = {f"all_{name}": [row[name] for row in full] for name in names}
    # Rows are inserted in the order of the SELECT, so a counted key grows in that order.
    return sorted(connection.execute(_insert_arrays(table, names), values).scalars())


def balances_of(connection: Connection, counter: Any, keys: Collection[Any]) -> dict[Any, int]:
    """The balances of rows by key, the rows locked in the order of their keys."""
    locked = _lock_rows(counter) if _is_pg(connection) else _look_at_rows(counter)
    found = connection.execute(locked, {"all_keys": sorted(keys)}).all()
    return {row[0]: row[1] for row in found}


def set_balances(connection: Connection, counter: Any, balances: Mapping[Any, int]) -> None:
    """Write the balances of rows that are locked already."""
    if _is_pg(connection) and len(balances) > 1:
        values = {"all_keys": list(balances), "all_balances": list(balances.values())}
        connection.execute(_set_arrays(counter), values)
    elif balances:
        rows = [{"the_key": key, "balance": balance} for key, balance in balances.items()]
        connection.execute(_set_one(counter), rows[0] if len(rows) == 1 else rows)


def _is_pg(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def with_defaults(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the values that Python gives for columns which it leaves out."""
    full = dict(row)
    for item in table.columns:
        default: Any = item.default
        if item.key not in full and default is not None:
            if default.is_callable:
                full[item.key] = default.arg(None)
            elif default.is_scalar:
                full[item.key] = default.arg
    return full


@lru_cache(maxsize=256)
def _insert_arrays(table: Table, names: tuple[str, ...]) -> Any:
    arrays = [bindparam(f"all_{name}", type_=ARRAY(table.c[name].type)) for name in names]
    columns = [column(name, table.c[name].type) for name in names]
    rows = (
        func.unnest(*arrays).table_valued(*columns, with_ordinality="position").render_derived("r")
    )
    ordered = select(*[rows.c[name] for name in names]).order_by(rows.c.position)
    insert = table.insert().from_select(names, ordered, include_defaults=False)
    return insert.returning(key_column(table))


@lru_cache(maxsize=256)
def _lock_rows(counter: Any) -> Any:
    key = key_column(counter.table)
    keys = bindparam("all_keys", type_=ARRAY(key.type))
    return select(key, counter).where(key == func.any(keys)).order_by(key).with_for_update()


@lru_cache(maxsize=256)
def _look_at_rows(counter: Any) -> Any:
    key = key_column(counter.table)
    return select(key, counter).where(key.in_(bindparam("all_keys", expanding=True)))


@lru_cache(maxsize=256)
def _set_arrays(counter: Any) -> Any:
    key = key_column(counter.table)
    rows = (
        func.unnest(
            bindparam("all_keys", type_=ARRAY(key.type)),
            bindparam("all_balances", type_=ARRAY(BigInteger)),
        )
        .table_valued(column("row_key", key.type), column("balance", BigInteger))
        .render_derived("r")
    )
    return update(counter.table).where(key == rows.c.row_key).values({counter: rows.c.balance})


@lru_cache(maxsize=256)
def _set_one(counter: Any) -> Any:
    key = key_column(counter.table)
    return (
        update(counter.table)
        .where(key == bindparam("the_key", type_=key.type))
        .values({counter: bindparam("balance", type_=BigInteger)})
    )
