"""A found race at each isolation level of the database: which of them cures it, and how."""

from __future__ import annotations

from crowdsafe.errors import ConfigError
from crowdsafe.find.confirm import confirm
from crowdsafe.find.model import Anomaly, Finding, Operation, Verdict
from crowdsafe.find.stage import Stage

__all__ = ["LEVELS", "isolation_rows", "row_of"]

LEVELS = ("read committed", "repeatable read", "serializable")

_SECONDS_EACH = 10.0

Row = tuple[str, str, str]


def isolation_rows(stage: Stage, operations: list[Operation]) -> tuple[Row, ...]:
    """(level, verdict, what happens) for each level; at most 10 s a level.

    SQLite has one level, at which the race was found.
    """
    rows: list[Row] = []
    try:
        for level in LEVELS:
            stage.database.set_isolation(level)
            found = confirm(stage, operations, schedules=stage.job.schedules, seconds=_SECONDS_EACH)
            rows.append(row_of(level, found))
    except ConfigError as error:
        rows.append(("serializable", "", error.message))
    else:
        stage.database.set_isolation(None)
    return tuple(rows)


def row_of(variant: str, found: Finding) -> Row:
    """One line of the matrix."""
    if found.verdict is not Verdict.RACE or found.anomaly is None:
        return variant, found.verdict.value, found.reason
    if found.anomaly is Anomaly.ABORTS:
        return variant, "aborts", "no wrong outcome, but a caller gets an error: retry it"
    return variant, found.verdict.value, found.anomaly.value
