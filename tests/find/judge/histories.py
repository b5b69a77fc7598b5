"""Runs written down as histories: one line a statement, on either database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.anomalies import Named, name
from crowdsafe.find.judge.oracle import Judgement
from crowdsafe.find.model import Answer, Reply, Rows, Run, Source, State, Step

__all__ = [
    "COMMIT",
    "DIALECTS",
    "HUNDRED",
    "READ",
    "SET",
    "TAKE",
    "gave",
    "history",
    "judged",
    "named",
    "rows",
]

DIALECTS = ("sqlite", "postgresql")
_DRIVERS = {"sqlite": "sqlite3", "postgresql": "psycopg"}
_PLACES = {"sqlite": "?", "postgresql": "%s"}

Line = tuple[Any, ...]


def gave(columns: str, *given: tuple[Any, ...]) -> dict[str, Any]:
    """What a SELECT gave: ``gave("id on_hand", (1, 100))``."""
    return {"columns": tuple(columns.split()), "rows": list(given), "rowcount": len(given)}


def history(dialect: str, *lines: Line, state: State | None = None, **more: Any) -> Run:
    """A run of lines ``("A", "UPDATE t SET n = ? WHERE id = ?", (1, 7), gave(...))``.

    The placeholders are those of the dialect's driver; the line of the source is the place of the
    line in the history, in the file ``app.py``.
    """
    steps: list[Step] = []
    answers = more.pop("answers", None)
    for number, (who, sql, *rest) in enumerate(lines, 1):
        parameters, extra = None, {}
        for part in rest:
            if isinstance(part, dict):
                extra = part
            else:
                parameters = part
        steps.append(
            Step(
                "ABC".index(who),
                0,
                sql.replace("?", _PLACES[dialect]),
                parameters,
                driver=_DRIVERS[dialect],
                source=Source("app.py", number, "view", "run()"),
                **extra,
            )
        )
    if answers is None:
        count = len({step.operation for step in steps})
        answers = [Answer([Reply("POST /", 200)]) for _ in range(count)]
    return Run((), steps, answers, state, **more)


def rows(columns: str, *given: tuple[Any, ...], key: str = "id") -> Rows:
    return Rows(tuple(columns.split()), (key,), list(given))


def judged(
    *tables: str, kind: str = "race", answers: bool = False, broken: Sequence[str] = ()
) -> Judgement:
    """What the oracle says: the rows of these tables differ, or only the answers do."""
    return Judgement(
        kind,
        tuple(f"{table}: other rows" for table in tables),
        rows_differ=bool(tables),
        answers_differ=answers,
        tables=tuple(tables),
        broken=tuple(broken),
    )


def named(
    run: Run, judgement: Judgement, serial: Sequence[State] = (), schema: Schema | None = None
) -> Named:
    """The name, which must be the same when asked again."""
    orders = [Run((), [], [], state) for state in serial]
    first = name(run, judgement, orders, schema=schema)
    again = name(run, judgement, orders, schema=schema)
    assert (again.anomaly, again.summary) == (first.anomaly, first.summary)
    return first


READ = "SELECT id, on_hand FROM stock WHERE id = ?"
SET = "UPDATE stock SET on_hand = ? WHERE id = ?"
TAKE = "UPDATE stock SET on_hand = on_hand - ? WHERE id = ?"
COMMIT = "COMMIT"
HUNDRED = gave("id on_hand", (1, 100))
