"""What the gates of the PostgreSQL drivers have in common: one round trip to the server.

A driver asks the server about itself when it connects (versions, settings, ids of types), a pool
pings a connection that it lends out. Whether that happens depends on what ran before, so such
round trips pass freely and are no steps: a schedule must count the same statements on a fresh and
on a pooled connection. A transaction that asked nothing else ends freely too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crowdsafe.find.gates.control import Gatekeeper, Link, Pass, keeper
from crowdsafe.find.gates.sources import calling_line

if TYPE_CHECKING:
    from crowdsafe.find.gates.redirect import Redirect

__all__ = [
    "ROWS_MAX",
    "Session",
    "Trip",
    "force_isolation",
    "forced_isolation",
    "is_chatter",
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
_NO_TABLE = re.compile(
    r"select\s+(1|(pg_catalog\.)?(version|current_schema|current_database|pg_backend_pid"
    r"|set_config|current_setting|pg_is_in_recovery|pg_advisory_unlock_all)\s*\([^()]*\)"
    r"|'[^']*'|current_user|session_user|null|true)(\s+as\s+\w+)?\s*(;\s*(\w+\s+[\w*]+\s*;?\s*)*)?$"
)
_FROM = re.compile(r"\b(?:from|join)\s+(?:only\s+)?([^\s(;]+|\()")
_CATALOGUE = re.compile(r"[\"']?(pg_|information_schema\b)")
_COMMA_JOIN = re.compile(r"\bfrom\s+[^()]*?,")
_ACTS = re.compile(
    r"\b(insert|update|delete|nextval|setval|pg_advisory\w*|pg_try_advisory\w*|for\s+share)\b"
)
_ENDS = re.compile(r"(commit|end|rollback|abort)\b(?!.*\bto\b)(?!\s+prepared)")
_BEGINS = re.compile(r"(begin|start\s+transaction)\b")
_LEVEL = re.compile(
    r"isolation\s+level\s+(serializable|repeatable\s+read|read\s+committed|read\s+uncommitted)",
    re.IGNORECASE,
)
_forced: str | None = None


@dataclass(slots=True)
class Session:
    """What a gate remembers of a connection (``Link.state``).

    ``chatter`` says that the open transaction was begun by chatter and asked nothing else so far;
    ``stranger`` names the database that it is connected to, if that is not the working copy.
    """

    chatter: bool = False
    stranger: str | None = None
    redirect: Redirect | None = None


def session_of(redirect: Redirect, host: str, port: int, dbname: str) -> Session:
    """The session of a connection that is connected to there."""
    if redirect.postgres_names_original({"host": host, "port": port, "dbname": dbname}):
        return Session()
    return Session(stranger=f"{dbname} at {host}:{port}", redirect=redirect)


@lru_cache(maxsize=4096)
def is_chatter(sql: str) -> bool:
    """Whether it only asks the server about itself, or sets what is the connection's own.

    Reads of the catalogue count, settings of a transaction do not (they tell its isolation).
    """
    text = " ".join(_COMMENTS.sub(" ", sql).lower().split())
    if text in {"", ";"} or _SETTING.match(text) or _NO_TABLE.match(text):
        return True
    if not text.startswith(("select", "with")) or _ACTS.search(text):
        return False
    tables = [name for name in _FROM.findall(text) if name != "("]
    own = [name for name in tables if not _CATALOGUE.match(name)]
    if text.startswith("with"):
        own = [
            name
            for name in own
            if not re.search(
                rf"\b{re.escape(name)}\s*\([^()]*\)\s*as\b|\b{re.escape(name)}\s+as\s*\(", text
            )
        ]
    return bool(tables) and not own and not _COMMA_JOIN.search(text)


@lru_cache(maxsize=4096)
def _ends(sql: str) -> bool:
    return _ENDS.match(" ".join(_COMMENTS.sub(" ", sql).lower().split())) is not None


class Trip:
    """One round trip of an operation: enter, then either ended or failed, exactly once."""

    __slots__ = ("_keeper", "_operation", "_passed", "link", "parameters", "sql")

    def __init__(
        self, gatekeeper: Gatekeeper, operation: int, link: Link, sql: str, parameters: Any
    ) -> None:
        self._keeper = gatekeeper
        self._operation = operation
        self._passed: Pass | None = None
        self.link = link
        self.sql = sql
        self.parameters = parameters

    @property
    def entered(self) -> bool:
        return self._passed is not None

    def enter(self) -> None:
        self._passed = self._keeper.enter(
            self._operation, self.link, self.sql, self.parameters, calling_line()
        )

    async def enter_async(self) -> None:
        self._passed = await self._keeper.enter_async(
            self._operation, self.link, self.sql, self.parameters, calling_line()
        )

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


def trip_for(link: Link, sql: str, parameters: Any, *, idle: bool) -> Trip | None:
    """The round trip to be stopped at the gate, or None when it passes freely.

    ``idle`` says that the connection has no open transaction.
    """
    asked = keeper()
    if asked is None:
        return None
    session: Session = link.state
    if session.stranger is not None and session.redirect is not None:
        session.redirect.note_stranger(session.stranger)
        return None
    if is_chatter(sql):
        session.chatter = session.chatter or idle
        return None
    if session.chatter and not idle and _ends(sql):
        session.chatter = False
        return None
    session.chatter = False
    return Trip(*asked, link, sql, parameters)


def force_isolation(level: str | None) -> None:
    """Have every transaction that begins from now on run at that level; None: as it asks for."""
    global _forced  # noqa: PLW0603
    _forced = level.upper() if level else None


def forced_isolation() -> str | None:
    return _forced


def with_isolation(sql: str) -> str:
    """The text with the forced level, where it begins a transaction or sets a level."""
    if _forced is None:
        return sql
    level = f"ISOLATION LEVEL {_forced}"
    if _LEVEL.search(sql):
        return _LEVEL.sub(level, sql)
    text = sql.strip().rstrip(";")
    return f"{text} {level}" if _BEGINS.match(text.lower()) else sql
