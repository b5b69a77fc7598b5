"""A gatekeeper that lets everything pass and writes it down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from crowdsafe.find.gates import control
from crowdsafe.find.gates.control import Link, Pass
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.model import Source, Step


class Recorder:
    """What went through, in order; ``before`` is called with each statement at its gate."""

    wants_rows = True

    def __init__(self, before: Callable[[int, str], None] | None = None) -> None:
        self.steps: list[Step] = []
        self.links: list[Link] = []
        self.open = 0
        self.before = before
        self._lock = threading.Lock()

    @property
    def texts(self) -> list[str]:
        return [" ".join(step.sql.split()) for step in self.steps]

    def enter(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        if self.before is not None:
            self.before(operation, sql)
        with self._lock:
            step = Step(operation, len(self.steps), sql, parameters, driver=link.driver)
            step.source = source
            self.steps.append(step)
            self.links.append(link)
            self.open += 1
        return Pass(step, link)

    async def enter_async(
        self, operation: int, link: Link, sql: str, parameters: Any, source: Source | None
    ) -> Pass:
        return self.enter(operation, link, sql, parameters, source)

    def leave(
        self,
        passed: Pass,
        *,
        rowcount: int | None = None,
        error: BaseException | None = None,
        sqlstate: str | None = None,
    ) -> None:
        with self._lock:
            self.open -= 1
        passed.step.rowcount = rowcount
        passed.step.error = None if error is None else type(error).__name__
        passed.step.sqlstate = sqlstate

    def keep_rows(
        self, passed: Pass, columns: tuple[str, ...], rows: list[tuple[Any, ...]]
    ) -> None:
        passed.step.columns, passed.step.rows = columns, rows


def redirect_of(url: str, original: str | None = None) -> Redirect:
    """Where connects go when that URL is the working copy of ``original`` (or of itself)."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    return Redirect("postgresql", original or name, name, parts.hostname or "", parts.port or 5432)


@contextmanager
def recording(before: Callable[[int, str], None] | None = None) -> Iterator[Recorder]:
    """Run the block as operation 0; every statement that began must have ended after it."""
    recorder = Recorder(before)
    control.keep(recorder)
    token = control.operate(0)
    try:
        yield recorder
    finally:
        control.operate(None)
        control.keep(None)
        del token
    assert recorder.open == 0, "a statement was let in and never told how it ended"
