"""A shop without a database: operations that give rows and answers as an app's would.

``play`` runs orders and transfers one after another, in any order, with whatever is volatile
drawn anew: ids, their gaps, who gets which id, UUIDs, tokens, the time, the order of rows.
"""

from __future__ import annotations

import copy
import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table
from crowdsafe.find.model import Answer, Reply, Rows, Run, State

Row = dict[str, Any]


def table(name: str, columns: str, *, refers: str = "", unique: str = "") -> Table:
    """``id`` is a generated primary key; ``refers`` is ``column:table`` pairs."""
    keys = (pair.split(":") for pair in refers.split())
    return Table(
        name,
        tuple(Column(column, generated=column == "id") for column in columns.split()),
        ("id",),
        tuple((column,) for column in unique.split()),
        tuple(ForeignKey((column,), to, ("id",)) for column, to in keys),
    )


def shop_schema(*, declared: bool) -> Schema:
    """``declared``: whether the references are foreign keys in the schema."""
    tables = [
        table("accounts", "id owner balance seen_at"),
        table(
            "orders",
            "id account_id number token note created_at payload",
            refers="account_id:accounts" if declared else "",
            unique="token",
        ),
        table("lines", "id order_id qty", refers="order_id:orders" if declared else ""),
        table("logs", "id at words epoch"),
    ]
    return Schema({one.name: one for one in tables})


BASE: State = {
    "accounts": Rows(
        ("id", "owner", "balance", "seen_at"),
        ("id",),
        [(1, "ann", 100, "2020-01-01T00:00:00"), (2, "bob", 50, "2020-01-01T00:00:00")],
    ),
    "orders": Rows(
        ("id", "account_id", "number", "token", "note", "created_at", "payload"), ("id",), []
    ),
    "lines": Rows(("id", "order_id", "qty"), ("id",), []),
    "logs": Rows(("id", "at", "words", "epoch"), ("id",), []),
}


@dataclass(frozen=True)
class Order:
    account: int
    quantities: tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    source: int
    target: int
    amount: int


@dataclass
class Shop:
    """One run. ``moved``: ids start anywhere and have gaps (a sequence); else they go on from
    the highest one (a plain rowid), and chance decides who gets which."""

    chance: random.Random
    moved: bool
    tables: dict[str, list[Row]] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rows in BASE.items():
            self.tables[name] = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
            first = len(rows.rows) + 1 + (self.chance.randrange(1, 5000) if self.moved else 0)
            pool = list(range(first, first + 40))
            if self.moved:
                pool = sorted(self.chance.sample(pool, 20))
            self.ids[name] = pool

    def draw(self, name: str) -> int:
        return self.ids[name].pop(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.chance.uniform(0, 2))

    def run(self, operation: Order | Transfer) -> Reply:
        return self.order(operation) if isinstance(operation, Order) else self.transfer(operation)

    def order(self, order: Order) -> Reply:
        account = self.tables["accounts"][order.account - 1]
        total = sum(order.quantities)
        if account["balance"] < total:
            return Reply("POST /orders", 409, {"detail": "too little"})
        account["balance"] -= total
        account["seen_at"] = self.now().isoformat()
        made = self.now()
        row: Row = {
            "id": self.draw("orders"),
            "account_id": order.account,
            "number": len(self.tables["orders"]) + 1,
            "token": uuid.UUID(int=self.chance.getrandbits(128), version=4).hex,
            "created_at": made.strftime("%Y-%m-%d %H:%M:%S"),
        }
        row["note"] = f"Order {row['id']} of {made.isoformat(timespec='seconds')}"
        row["payload"] = json.dumps({"order": {"id": row["id"], "at": made.timestamp()}})
        self.tables["orders"].append(row)
        lines = [
            {"id": self.draw("lines"), "order_id": row["id"], "qty": quantity}
            for quantity in order.quantities
        ]
        self.tables["lines"] += lines
        self.log(f"account {order.account} ordered {total}")
        body = {
            "id": row["id"],
            "number": row["number"],
            "token": str(uuid.UUID(row["token"])),
            "balance": account["balance"],
            "created": made.isoformat().replace("+00:00", "Z"),
            "lines": self.shuffled([{"id": line["id"], "qty": line["qty"]} for line in lines]),
        }
        return Reply("POST /orders", 201, body, {"Location": f"/orders/{row['id']}"})

    def transfer(self, transfer: Transfer) -> Reply:
        source, target = (
            self.tables["accounts"][n - 1] for n in (transfer.source, transfer.target)
        )
        if source["balance"] < transfer.amount:
            return Reply("POST /transfer", 422, "no")
        source["balance"] -= transfer.amount
        target["balance"] += transfer.amount
        self.log(f"moved {transfer.amount} to {transfer.target}")
        drawn = self.chance.randbytes(20).hex()
        page = f"<p>Moved</p>\n<b>{source['balance']}</b>\n<i>csrf {drawn}</i>"
        return Reply("POST /transfer", 200, page)

    def log(self, words: str) -> None:
        at = self.now()
        row = {"id": self.draw("logs"), "at": at.isoformat(), "words": words}
        self.tables["logs"].append(row | {"epoch": int(at.timestamp())})

    def shuffled(self, items: list[Any]) -> list[Any]:
        return self.chance.sample(items, len(items))

    def state(self) -> State:
        """The rows, with ids handed to others where chance (not the order) decides on them."""
        return {
            name: Rows(
                rows.columns,
                rows.key,
                sorted(tuple(row[column] for column in rows.columns) for row in self.tables[name]),
            )
            for name, rows in BASE.items()
        }


def play(
    operations: Sequence[Order | Transfer],
    order: Sequence[int],
    chance: random.Random,
    *,
    moved: bool = True,
    left_out: Sequence[int] = (),
    shuffle_ids: bool = False,
) -> Run:
    """One after another. With ``shuffle_ids``, as when other statements of the operations took
    turns while ids were handed out."""
    shop = Shop(chance, moved)
    if shuffle_ids:
        twin = play(operations, order, copy.deepcopy(chance), moved=moved, left_out=left_out)
        for name, rows in (twin.state or {}).items():
            made = len(rows.rows) - len(BASE[name].rows)
            shop.ids[name][:made] = shop.shuffled(shop.ids[name][:made])
    answers = [Answer() for _ in operations]
    for number in order:
        if number in left_out:
            continue
        operation = operations[number]
        reply = shop.run(operation)
        refused = reply.status is not None and reply.status >= 400
        answers[number] = Answer([reply], 0 if refused else None)
    schedule = tuple((number, 1) for number in order)
    return Run(schedule, [], answers, shop.state(), seconds=3.0)
