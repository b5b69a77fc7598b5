"""What an operation does to the database past the gates, by a driver or a process without one.

Such a driver goes to the database that was named, not to the working copy: that one is then used
although nobody should. In place, or from a forked process, it writes to the same database: then
rows differ in tables that no statement which was seen can have changed. What a materialized view
holds is seen by nobody either.
"""

from __future__ import annotations

import re

from crowdsafe.find.gates import seen_drivers, unseen_drivers
from crowdsafe.find.gates.control import fork_spoke
from crowdsafe.find.model import Operation, Run, State
from crowdsafe.find.stage import Stage

__all__ = ["watched_alone"]

_REFRESH = re.compile(r"\brefresh\s+materialized\s+view\b", re.IGNORECASE)


def watched_alone(stage: Stage, operation: Operation) -> tuple[Run, str]:
    """A run of it alone, and in words what it did past the gates; "" where nothing was seen.

    When the original is used while it runs it is run once more, since somebody else may have
    used it just then.
    """
    before = stage.database.original_mark()
    fork_spoke()
    run = stage.serial([operation], (0,))
    after = stage.database.original_mark()
    if after != before:
        run = stage.serial([operation], (0,))
        if stage.database.original_mark() != after:
            itself = f"{stage.database.shown_url} itself (what is written there stays)"
            return run, _said(stage, operation, itself)
    if fork_spoke():
        return run, _said(stage, operation, "the database in a process that was forked")
    if tables := _unaccounted(stage, run):
        return run, _said(stage, operation, ", ".join(tables))
    if any(_REFRESH.search(step.sql) for step in run.steps):
        return run, (
            f"{operation.name} refreshes a materialized view, which is not put back before each "
            "run: let it read a view while it is looked at"
        )
    return run, ""


def _said(stage: Stage, operation: Operation, what: str) -> str:
    dialect = stage.database.dialect
    loaded = unseen_drivers(dialect)
    known = f" ({', '.join(loaded)} is loaded)" if loaded else ""
    return (
        f"{operation.name} uses {what}, by a driver, process or background thread that the "
        f"finder does not see{known}: it sees {', '.join(seen_drivers(dialect))} in its own "
        "process. Let the target use one of them while it is looked at"
    )


def _unaccounted(stage: Stage, run: Run) -> list[str]:
    """The tables that are not as they were before the run, and that it did not write."""
    touched = stage.touched(run)
    if touched is None or run.problem is not None:
        return []
    now: State = stage.database.read(None)
    return sorted(
        table
        for table, rows in now.items()
        if table not in touched and table in stage.base and rows != stage.base[table]
    )
