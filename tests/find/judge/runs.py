"""Runs made by hand: a few rows, a few replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crowdsafe.find.database.schema import Column, ForeignKey, Schema, Table
from crowdsafe.find.judge import Oracle
from crowdsafe.find.model import Answer, Reply, Rows, Run, State, Step

COLUMNS = {
    "stock": ("id", "on_hand", "note"),
    "orders": ("id", "stock_id", "number", "code", "at"),
    "plain": ("a", "b"),
}
KEYS = {"stock": ("id",), "orders": ("id",), "plain": ()}
SCHEMA = Schema(
    {
        name: Table(
            name,
            tuple(Column(column, generated=column == "id") for column in columns),
            KEYS[name],
            foreign_keys=(ForeignKey(("stock_id",), "stock", ("id",)),) if name == "orders" else (),
        )
        for name, columns in COLUMNS.items()
    }
)


def state(**rows: list[tuple[Any, ...]]) -> State:
    tables = {"stock": [(1, 100, "x")], "orders": [], "plain": []} | rows
    return {name: Rows(COLUMNS[name], KEYS[name], ones) for name, ones in tables.items()}


BASE = state()


def reply(status: int | None = 201, body: Any = None, **headers: str) -> Reply:
    return Reply("POST /orders", status, body, headers)


def run(
    state: State,
    *answers: Reply | Sequence[Reply] | None,
    order: Sequence[int] = (0, 1),
    steps: Sequence[Step] = (),
    seconds: float = 1.0,
    **more: Any,
) -> Run:
    """None for an operation that was left out."""
    told: list[Answer] = []
    for one in answers:
        replies = [] if one is None else [one] if isinstance(one, Reply) else list(one)
        refused = [
            place
            for place, reply in enumerate(replies)
            if reply.error or (reply.status is not None and reply.status >= 400)
        ]
        told.append(Answer(replies, refused[0] if refused else None))
    schedule = tuple((number, 1) for number in order)
    return Run(schedule, list(steps), told, state, seconds=seconds, **more)


def oracle_of(first: Run, second: Run, again: Run | None = None, **options: Any) -> Oracle:
    """One that knows both orders of two operations; ``again`` repeats the first."""
    oracle = Oracle(SCHEMA, base=BASE, **options)
    oracle.learn([first, again or first])
    whole = (None,) * len(first.answers)
    oracle.add_serial((0, 1), whole, first)
    oracle.add_serial((1, 0), whole, second)
    return oracle
