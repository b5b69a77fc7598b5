"""What the rooms of the finder tell each other: plain data, and the seams between them.

An *operation* is what one user does: a few requests in a row, or a function. A *run* is one
execution of a few operations at once under one schedule, and a *step* one statement of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

__all__ = [
    "Anomaly",
    "Answer",
    "Finding",
    "Operation",
    "Reply",
    "Rows",
    "Run",
    "Schedule",
    "Severity",
    "Source",
    "State",
    "Statement",
    "Step",
    "Verb",
    "Verdict",
]


class Verb(StrEnum):
    """What kind of statement it is."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "rollback to"
    SET = "set"
    LOCK = "lock"
    DDL = "ddl"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text of SQL does, whatever its parameters are.

    Table names are lower case without quotes, with their schema only where the text names one
    that is not ``public`` or ``main``. An ``opaque`` statement was not understood: it may read
    and write anything. ``columns_*`` are None where they could not be told (``SELECT *``).
    ``assignments`` are the SET clauses of an UPDATE (column → expression), ``equalities`` the
    columns that its WHERE compares with a constant or a parameter. One that ``draws`` takes the
    next number of a sequence, one that ``counts`` reads or sets where a sequence stands.
    """

    text: str
    verb: Verb
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    locks_rows: bool = False
    advisory: bool = False
    draws: bool = False
    counts: bool = False
    opaque: bool = False
    columns_read: frozenset[tuple[str, str]] | None = None
    columns_written: frozenset[tuple[str, str]] | None = None
    assignments: tuple[tuple[str, str], ...] = ()
    equalities: tuple[tuple[str, str], ...] = ()
    isolation: str | None = None
    on_conflict: bool = False

    @property
    def tables(self) -> frozenset[str]:
        return self.reads | self.writes

    @property
    def ends_transaction(self) -> bool:
        return self.verb in {Verb.COMMIT, Verb.ROLLBACK}


@dataclass(frozen=True, slots=True)
class Source:
    """The line of the target that asked for a statement."""

    file: str
    line: int
    function: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Step:
    """One statement of one operation in a run, in the order in which they took effect.

    ``operation`` is the operation's place in the run, ``index`` the statement's place in the
    operation (0, 1, ...), ``connection`` the number of the connection within its operation.
    ``waited_for`` names the operations that held it up, ``rows`` what a reading statement gave
    (the first few rows, only where a run was asked to keep them).
    """

    operation: int
    index: int
    sql: str
    parameters: Any = None
    connection: int = 0
    driver: str = ""
    source: Source | None = None
    waited_for: tuple[int, ...] = ()
    rowcount: int | None = None
    columns: tuple[str, ...] | None = None
    rows: list[tuple[Any, ...]] | None = None
    error: str | None = None
    sqlstate: str | None = None


@dataclass(slots=True)
class Reply:
    """What one request (or one function) answered.

    For a request: ``status``, ``body`` (parsed JSON, else text), the ``headers`` that say
    something (location, etag, content-type, retry-after). For a function: ``body`` is what it
    returned, in plain data, and ``status`` None. ``error`` is the type, message and SQLSTATE
    (or SQLite's error name) of the exception that came out, if any. ``statements`` are those that
    its operation had sent by then.
    """

    request: str
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    message: str | None = None
    sqlstate: str | None = None
    statements: int = field(default=0, compare=False)


@dataclass(slots=True)
class Answer:
    """All replies of one operation, in order; ``stopped_at`` the request it did not get past."""

    replies: list[Reply] = field(default_factory=list)
    stopped_at: int | None = None


class Operation(Protocol):
    """Something that a user does, ready to be run any number of times, from the start each time.

    A sync operation (function, WSGI) is run in a thread, an async one (ASGI, coroutine) as a
    task of the one event loop that all async operations share. ``limit`` runs the first
    requests only. Neither raises: what the target raises is in the replies.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_async(self) -> bool: ...

    def run(self, limit: int | None = None) -> Answer: ...

    async def run_async(self, limit: int | None = None) -> Answer: ...


Schedule = tuple[tuple[int, int], ...]
"""(operation, statements) pairs: run that operation for so many of its statements, then switch.

The last pair of an operation runs it to its end. Counts all statements of an operation, so that
it says the same whether the engine stops at each of them or not.
"""


@dataclass(slots=True)
class Rows:
    """The rows of one table: ``key`` the columns of its primary key, rows in the key's order."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: list[tuple[Any, ...]]


State = dict[str, Rows]
"""The database after a run: table → rows, for the tables that were looked at."""


@dataclass(slots=True)
class Run:
    """One execution: what was scheduled, what happened, and what came out.

    ``problem`` says why the run is worth nothing (a hang, a crash, a schedule that could not be
    kept); such a run has no state. ``ended_at`` is in seconds since 1970.
    """

    schedule: Schedule
    steps: list[Step]
    answers: list[Answer]
    state: State | None = None
    deadlocked: bool = False
    problem: str | None = None
    seconds: float = 0.0
    ended_at: float = field(default_factory=time.time)


class Verdict(StrEnum):
    RACE = "race"
    PROVEN = "proven"
    NOT_FOUND = "not-found"
    INCONCLUSIVE = "inconclusive"


class Severity(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Anomaly(StrEnum):
    """What went wrong, by the name that the literature has for it where there is one."""

    LOST_UPDATE = "lost update"
    WRITE_SKEW = "write skew"
    PHANTOM_INSERT = "phantom insert"
    DUPLICATE_CREATE = "duplicate create"
    DOUBLE_TRANSITION = "double transition"
    DUPLICATE_NUMBER = "duplicate number"
    TORN_STEPS = "torn multi-step"
    NON_REPEATABLE_READ = "non-repeatable read"
    DIRTY_READ = "dirty read"
    STALE_ANSWER = "stale answer"
    INVARIANT = "broken invariant"
    DEADLOCK = "deadlock"
    ABORTS = "aborts under contention"
    ERROR = "error under contention"
    UNSERIALIZABLE = "not serializable"


@dataclass(slots=True)
class Finding:
    """What is known of one pair or triple of operations, ready to be reported.

    ``run`` is the run that shows a race, ``serial`` the answers and states that the operations
    give one after another (order → run), ``differences`` what is in no serial order in words
    ("stock #1 on_hand: 20 after any order, here 60").
    """

    operations: tuple[str, ...]
    verdict: Verdict
    anomaly: Anomaly | None = None
    severity: Severity | None = None
    tables: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    summary: str = ""
    reason: str = ""
    differences: tuple[str, ...] = ()
    schedule: Schedule = ()
    token: str | None = None
    run: Run | None = None
    serial: dict[tuple[int, ...], Run] = field(default_factory=dict)
    cures: tuple[tuple[str, str, str], ...] = ()
    isolation: str | None = None
    schedules: int = 0
    schedules_to_find: int = 0
    seconds: float = 0.0
    matrix: Sequence[tuple[str, str, str]] = ()
