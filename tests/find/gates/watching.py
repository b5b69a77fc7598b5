"""A gatekeeper that lets everything pass and writes down what it saw."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from crowdsafe.find.gates import control
from crowdsafe.find.gates.control import Link, Pass
from crowdsafe.find.model import Source, Step


class Watching:
    """``before`` is called at the gate with each text; what it raises comes out of the gate."""

    def __init__(self, before: Callable[[str], None] = lambda sql: None) -> None:
        self.steps: list[Step] = []
        self.ended: list[Step] = []
        self.links: list[Link] = []
        self.wants_rows = True
        self._before = before

    @property
    def sqls(self) -> list[str]:
        return [" ".join(step.sql.split()) for step in self.steps]

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        step = Step(operation, len(self.steps), sql, parameters, source=source, driver=link.driver)
        self.steps.append(step)
        self.links.append(link)
        self._before(sql)
        return Pass(step, link)

    async def enter_async(self, *args: Any) -> Pass:
        return self.enter(*args)

    def leave(
        self,
        passed: Pass,
        *,
        rowcount: int | None = None,
        error: BaseException | None = None,
        sqlstate: str | None = None,
    ) -> None:
        passed.step.rowcount = rowcount
        passed.step.error = None if error is None else type(error).__name__
        passed.step.sqlstate = sqlstate
        self.ended.append(passed.step)

    def keep_rows(
        self, passed: Pass, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> None:
        passed.step.columns, passed.step.rows = columns, rows


@contextlib.contextmanager
def operating(keeper: Watching, operation: int = 0) -> Iterator[Watching]:
    """Run as that operation."""
    control.keep(keeper)
    control.operate(operation)
    try:
        yield keeper
    finally:
        control.operate(None)
        control.keep(None)
