"""Tries what a test is about to do, on the database as it is then, and puts it back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from crowdsafe.errors import CrowdsafeError
from crowdsafe.find.database import Database, open_database
from crowdsafe.find.engine import Controller
from crowdsafe.find.finder import hunt
from crowdsafe.find.gates import install
from crowdsafe.find.gates.control import current_operation
from crowdsafe.find.judge.volatile import route
from crowdsafe.find.model import Finding, Operation, Verdict
from crowdsafe.find.recording.places import Everywhere, Places
from crowdsafe.find.stage import Job, Stage

__all__ = ["Recorder"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_EARLIER_MAX = 3
_TRIES_MAX = 3

_Key = tuple[str, ...]
"""The app, and the requests that were tried at once, without their ids."""


class Recorder:
    """Sees the requests of a test run, and tries each new one with itself and with the (at most
    three) requests that the same test made before it.

    ``budget_s`` (seconds) is for each request. A request is new by its method, its path without
    ids, and the app; one that could not be tried (``declined`` tells why) is tried again when it
    comes again, at most three times. GET and HEAD requests are not tried.
    """

    def __init__(self, *, budget_s: float = 5.0, database: str | None = None) -> None:
        self.findings: list[Finding] = []
        self.declined: dict[str, str] = {}
        self._budget_s = budget_s
        self._database = database
        self._places = Places()
        self._tries: Counter[_Key] = Counter()
        self._earlier: list[Operation] = []
        self._test = ""
        self._busy = threading.Lock()

    def start(self) -> Callable[[], None]:
        """Patch the drivers from now on; returns what undoes it."""
        undo = [
            install(dialect, Everywhere(dialect, self._places))
            for dialect in ("sqlite", "postgresql")
        ]

        def stop() -> None:
            for one in reversed(undo):
                one()

        return stop

    def begin(self, test: str) -> None:
        """A test begins: what was requested before is not its own."""
        self._test = test
        self._earlier.clear()

    def saw(self, method: str, operation: Operation, app: Any) -> None:
        """A test is about to do this."""
        if method in _SAFE or current_operation() is not None or not self._test:
            return
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._try(operation, f"{id(app)}")
        finally:
            self._busy.release()

    def _try(self, operation: Operation, app: str) -> None:
        label = _label(operation)
        keys: list[_Key] = [(app, label)]
        keys += [(app, _label(one), label) for one in self._earlier if _label(one) != label]
        wanted = [key for key in keys if self._tries[key] < _TRIES_MAX]
        others = [one for one in self._earlier if (app, _label(one), label) in wanted]
        groups: list[tuple[int, ...]] = [(0, n + 1) for n in range(len(others))]
        if (app, label) in wanted:
            groups.insert(0, (0, 0))
        self._earlier = [operation, *(o for o in self._earlier if _label(o) != label)]
        del self._earlier[_EARLIER_MAX:]
        if not groups:
            return
        try:
            with self._stage([operation, *others]) as stage:
                findings = list(hunt(stage, only=groups))
        except CrowdsafeError as error:
            self.declined[label] = error.message
            return
        for key, finding in zip(wanted, findings, strict=True):
            self._keep(key, finding)

    def _keep(self, key: _Key, finding: Finding) -> None:
        """Note what was found; what is inconclusive may be told when it is tried again."""
        name = " × ".join(key[1:])
        if finding.verdict is Verdict.INCONCLUSIVE:
            self._tries[key] += 1
            self.declined[name] = finding.reason
            return
        self._tries[key] = _TRIES_MAX
        self.declined.pop(name, None)
        finding.summary = f"{finding.summary} Seen in {self._test}.".strip()
        self.findings.append(finding)

    @contextmanager
    def _stage(self, operations: list[Operation]) -> Iterator[Stage]:
        """The test's own database, put back as it is now when it ends. Raises CrowdsafeError."""
        url = self._database or self._places.latest
        if url is None:
            raise CrowdsafeError(
                "it uses a database in memory, which one connection has for itself: let the tests "
                'use a file (Django: "TEST": {"NAME": "test.db"} in DATABASES)'
                if self._places.in_memory
                else "no database was connected to before it"
            )
        _demand_no_transaction(url)
        database = open_database(url, in_place=True)
        try:
            with Controller(database) as controller:
                stage = Stage(Job(None, (), url, budget_s=self._budget_s))
                stage.database, stage.controller, stage.operations = (
                    database,
                    controller,
                    operations,
                )
                stage.keep()
                yield stage
        finally:
            _close(database)


def _label(operation: Operation) -> str:
    """What a request is, whatever its ids and its query are."""
    return route(operation.name).partition("?")[0]


def _close(database: Database) -> None:
    """Put it back; a target's thread may need a moment to let go of it."""
    for attempt in range(20):
        try:
            database.close()
            return
        except OSError:
            if attempt == 19:
                raise
            time.sleep(0.05)


def _demand_no_transaction(url: str) -> None:
    """Raises CrowdsafeError when the test itself is in a transaction on that database."""
    if url.startswith("sqlite"):
        from crowdsafe.find.gates import sqlite_gate

        held = any(link.state.in_transaction for link in sqlite_gate.open_links())
    else:
        import psycopg

        try:
            with psycopg.connect(url, autocommit=True) as connection:
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
                ).fetchone()
        except psycopg.OperationalError as error:
            raise CrowdsafeError(
                f"its database cannot be connected to: {error}: name it with "
                "--find-races-database URL"
            ) from error
        held = row is not None and row[0] > 0
    if held:
        raise CrowdsafeError(
            "the test holds a transaction open, in which nothing can run at once: let it commit "
            "(pytest-django: @pytest.mark.django_db(transaction=True))"
        )
