"""What the gates of the PostgreSQL drivers have in common: one round trip to the server.

A driver asks the server about itself when it connects (versions, settings, ids of types), a pool
pings a connection that it lends out. Whether that happens depends on what ran before, so such
round trips pass freely and are no steps: a schedule must count the same statements on a fresh and
on a pooled connection. For the same reason a BEGIN (and SAVEPOINT, SET LOCAL) passes freely and
becomes a step just before the first statement of its transaction that asks something; if there is
none, neither it nor the COMMIT is a step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crowdsafe.find.gates.control import Gatekeeper, Link, Pass, keeper
from crowdsafe.find.gates.sources import calling_line
from crowdsafe.find.model import Source
from crowdsafe.find.sql.catalogue import is_catalogue

if TYPE_CHECKING:
    from crowdsafe.find.gates.redirect import Redirect

__all__ = [
    "ROWS_MAX",
    "Session",
    "Trip",
    "assume_isolation",
    "force_isolation",
    "forced_isolation",
    "is_chatter",
    "level_begun",
    "session_of",
    "trip_for",
    "with_isolation",
]

ROWS_MAX = 20
_COMMENTS = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_SETTING = re.compile(
    r"(show|listen|unlisten|deallocate|discard|reset|close)\b"
    r"|set\s+(?!local\b|transaction\b|constraints\b|session\s+characteristics\b|\w*isolation)"
)
_CALL = re.compile(r"([\w.]+)\s*\(")
_HARMLESS = frozenset(
    {
        "version",
        "current_schema",
        "current_schemas",
        "current_database",
        "current_setting",
        "set_config",
        "pg_backend_pid",
        "pg_is_in_recovery",
        "pg_advisory_unlock_all",
        "pg_client_encoding",
    }
)
_FROM = re.compile(r"\b(?:from|join)\s+(?:only\s+)?([^\s(;]+|\()")
_ROWS_FROM_NOWHERE = frozenset({"unnest", "generate_series"})
_COMMAS = re.compile(r"\bfrom\s+((?:[\w.\"]+(?:\s+(?:as\s+)?\w+)?\s*,\s*)+[\w.\"]+)")
_ACTS = re.compile(
    r"\b(insert|update|delete|nextval|setval|pg_advisory_(?!unlock_all)\w*|pg_try_advisory\w*|for\s+share)\b"
)
_ENDS = re.compile(r"(commit|end|rollback|abort)\b(?!.*\bto\b)(?!\s+prepared)")
_OPENS = re.compile(
    r"(begin|start\s+transaction|savepoint|release|rollback\b.*\bto\b"
    r"|set\s+(local|transaction|constraints))\b"
)
_BEGINS = re.compile(r"(begin|start\s+transaction)\b")
_LEVEL = re.compile(
    r"isolation\s+level\s+(serializable|repeatable\s+read|read\s+committed|read\s+uncommitted)",
    re.IGNORECASE,
)
_NOISE = re.compile(r"(__asyncpg_[a-z]+_)[0-9a-f]+(?=__)|(\bs)[0-9]{5,}(?=_x[0-9])")
"""Names that asyncpg and Django give savepoints: the part that is another one in each run."""
_LEVEL_OF_SESSION = re.compile(r"set\s+(session\s+)?(characteristics\b|\w*transaction_isolation)")
_forced: str | None = None
_default: str | None = None


@dataclass(slots=True)
class Session:
    """What a gate remembers of a connection (``Link.state``).

    ``isolation`` is the level of transactions that ask for none (None: not known). ``quiet``
    while the open transaction has asked nothing; ``opened`` are then the statements that began
    it, which will be steps when it asks. ``stranger`` names the database that it is connected
    to, if that is not the working copy.
    """

    quiet: bool = False
    opened: list[tuple[str, Source | None]] = field(default_factory=list)
    isolation: str | None = None
    stranger: str | None = None
    redirect: Redirect | None = None


def session_of(
    redirect: Redirect, host: str, port: int, dbname: str, options: str | None = None
) -> Session:
    """The session of a connection that is connected to there, with these libpq options."""
    if redirect.postgres_names_original({"host": host, "port": port, "dbname": dbname}):
        return Session(isolation=None if "isolation" in (options or "") else _default)
    return Session(stranger=f"{dbname} at {host}:{port}", redirect=redirect)


@lru_cache(maxsize=4096)
def is_chatter(sql: str) -> bool:
    """Whether it only asks the server about itself, or sets what is the connection's own.

    Reads of the catalogue count, settings of a transaction do not (they tell its isolation).
    """
    return all(_asks_nothing(part.strip()) for part in _plain(sql).split(";"))


def _asks_nothing(text: str) -> bool:
    if not text or _SETTING.match(text):
        return True
    if not text.startswith(("select", "with")) or _ACTS.search(text):
        return False
    tables = [name for name in _FROM.findall(text) if name != "("]
    if not tables:
        return all(name.removeprefix("pg_catalog.") in _HARMLESS for name in _CALL.findall(text))
    tables += [one.split()[0] for some in _COMMAS.findall(text) for one in some.split(",")]
    return all(
        is_catalogue(name.rstrip(")")) or name in _ROWS_FROM_NOWHERE or _defines(text, name)
        for name in tables
    )


def _defines(text: str, name: str) -> bool:
    """Whether a WITH clause of the text defines that name."""
    return re.search(rf"(?<!\w){re.escape(name)}\s*(\([^()]*\))?\s*as\s*\(", text) is not None


@lru_cache(maxsize=4096)
def _plain(sql: str) -> str:
    return " ".join(_COMMENTS.sub(" ", sql).lower().split())


class Trip:
    """One round trip of an operation: enter, then either ended or failed, exactly once."""

    __slots__ = ("_keeper", "_opened", "_operation", "_passed", "link", "parameters", "sql")

    def __init__(
        self, gatekeeper: Gatekeeper, operation: int, link: Link, sql: str, parameters: Any
    ) -> None:
        self._keeper = gatekeeper
        self._operation = operation
        self._passed: Pass | None = None
        self._opened, link.state.opened = link.state.opened, []
        self.link = link
        self.sql = _shown(sql)
        self.parameters = parameters

    @property
    def entered(self) -> bool:
        return self._passed is not None

    def enter(self) -> None:
        source = calling_line()
        keeper, operation, link = self._keeper, self._operation, self.link
        for text, line in self._opened:
            passed = keeper.enter(operation, link, text, None, line)
            link.in_transaction = True
            keeper.leave(passed)
        self._passed = keeper.enter(operation, link, self.sql, self.parameters, source)

    async def enter_async(self) -> None:
        source = calling_line()
        keeper, operation, link = self._keeper, self._operation, self.link
        for text, line in self._opened:
            passed = await keeper.enter_async(operation, link, text, None, line)
            link.in_transaction = True
            keeper.leave(passed)
        self._passed = await keeper.enter_async(operation, link, self.sql, self.parameters, source)

    def ended(
        self,
        rowcount: int | None = None,
        read: Callable[[], tuple[Sequence[str], list[tuple[Any, ...]]] | None] | None = None,
    ) -> None:
        """Tell that it went well; ``read`` gives the columns and the first rows, if asked for."""
        assert self._passed is not None
        if read is not None and self._keeper.wants_rows:
            found = read()
            if found is not None:
                columns, rows = found
                self._keeper.keep_rows(self._passed, tuple(columns), rows)
        counted = rowcount if rowcount is not None and rowcount >= 0 else None
        self._keeper.leave(self._passed, rowcount=counted)

    def failed(self, error: BaseException) -> None:
        assert self._passed is not None
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        self._keeper.leave(self._passed, error=error, sqlstate=code)


def trip_for(
    link: Link,
    sql: str,
    parameters: Any,
    *,
    idle: bool,
    isolation: str | None = None,
    begin: str | None = None,
) -> Trip | None:
    """The round trip to be stopped at the gate, or None when it passes freely.

    ``idle`` says that the connection has no open transaction; ``begin`` is then what the driver
    will begin one with by itself, where that says more than ``BEGIN``. ``isolation`` is the level
    that the driver was asked to begin transactions with, None for the session's own; asking for
    what it has anyway (a pool's way of putting a level back) is no step either.
    """
    asked = keeper()
    if asked is None:
        return None
    session: Session = link.state
    if session.stranger is not None and session.redirect is not None:
        session.redirect.note_stranger(session.stranger)
        return None
    if _LEVEL_OF_SESSION.match(_plain(sql)):
        session.isolation = None
    link.isolation = (_forced or isolation or session.isolation or "").lower() or None
    if idle:
        session.quiet = True
        as_it_is = not _forced and isolation is not None and isolation == session.isolation
        session.opened = [] if begin is None or as_it_is else [(begin, None)]
    if is_chatter(sql):
        return None
    if session.quiet and _OPENS.match(_plain(sql)):
        session.opened.append((_shown(sql), calling_line()))
        return None
    quiet, session.quiet = session.quiet, False
    if quiet and not idle and _ENDS.match(_plain(sql)):
        session.opened = []
        return None
    return Trip(*asked, link, sql, parameters)


def _shown(sql: str) -> str:
    return _NOISE.sub(r"\1\2", sql) if "_" in sql[:80] else sql


def assume_isolation(level: str | None) -> None:
    """Say at which level a new session runs its transactions; None: that is not known."""
    global _default  # noqa: PLW0603
    _default = level


def force_isolation(level: str | None) -> None:
    """Have every transaction that begins from now on run at that level; None: as it asks for."""
    global _forced  # noqa: PLW0603
    _forced = level.upper() if level else None


def forced_isolation() -> str | None:
    return _forced


def level_begun(sql: str) -> str | None:
    """The level that a text begins a transaction with; empty where it names none, None for a
    text that begins nothing."""
    text = _plain(sql)
    if not _BEGINS.match(text) and not text.startswith("set transaction"):
        return None
    level = _LEVEL.search(text)
    return " ".join(level[1].lower().split()) if level else ""


def with_isolation(sql: str) -> str:
    """The text with the forced level, where it begins a transaction or sets a level."""
    if _forced is None:
        return sql
    level = f"ISOLATION LEVEL {_forced}"
    if _LEVEL.search(sql):
        return _LEVEL.sub(level, sql)
    return f"{sql.strip().rstrip(';')} {level}" if _BEGINS.match(_plain(sql)) else sql
