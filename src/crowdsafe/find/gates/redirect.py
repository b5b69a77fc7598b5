"""Where a connect of the target really goes: to the working copy instead of the original."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

__all__ = ["READ_ONLY", "Redirect", "sqlite_file"]

READ_ONLY = "-c default_transaction_read_only=on"
"""What a session in a database that was not named is opened with."""

_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104
_STRANGERS_MAX = 20


@dataclass(slots=True)
class Redirect:
    """Maps the database that was named to its working copy, and notes any other one.

    ``original`` is the real path of a SQLite file, or the name of a PostgreSQL database at
    ``host`` and ``port``; ``working`` is the path, or the name on the same server, that the
    target gets in its place (the same one where the finder works in place). ``strangers`` are
    databases that an operation used besides: what it does there is neither scheduled, looked
    at nor undone. At most 20 are noted.
    """

    dialect: str
    original: str
    working: str
    host: str = ""
    port: int = 5432
    strangers: set[str] = field(default_factory=set)

    @property
    def in_place(self) -> bool:
        return self.original == self.working

    def note_stranger(self, name: str) -> None:
        """An operation used that database, which is not the one that was named."""
        if len(self.strangers) < _STRANGERS_MAX:
            self.strangers.add(name)

    def sqlite_names_original(
        self, path: str | bytes | os.PathLike[Any], uri: bool = False
    ) -> bool:
        """Whether this is the file that was named, by whatever spelling, link or directory."""
        plain = sqlite_file(path, uri)
        return self.dialect == "sqlite" and plain is not None and _same(plain, self.original)

    def sqlite_names(self, path: str | bytes | os.PathLike[Any], uri: bool = False) -> bool:
        """Whether this is the file that was named, or its working copy."""
        plain = sqlite_file(path, uri)
        return (
            self.dialect == "sqlite"
            and plain is not None
            and (_same(plain, self.original) or _same(plain, self.working))
        )

    def sqlite_path(
        self, path: str | bytes | os.PathLike[Any], uri: bool = False
    ) -> str | bytes | os.PathLike[Any]:
        """The path to open instead, or ``path`` itself where it is not the file that was named.

        A ``file:`` URI keeps its parameters, except ``immutable``, which the copy is not, and
        ``cache``: connections that share a cache lock tables and not the file.
        """
        if self.in_place or not self.sqlite_names_original(path, uri):
            return path
        text = os.fsdecode(path)
        if not (uri and text.startswith("file:")):
            return self.working
        query = text.partition("#")[0].partition("?")[2]
        kept = [
            (name, value)
            for name, value in parse_qsl(query, keep_blank_values=True)
            if name not in {"immutable", "cache"}
        ]
        return f"file:{quote(self.working)}" + (f"?{urlencode(kept)}" if kept else "")

    def postgres_names_original(self, params: Mapping[str, Any]) -> bool:
        """Whether these connection parameters (libpq's names, or ``database``) name it.

        What is missing comes from libpq's environment variables. All names of this machine,
        socket directories among them, count as one host.
        """
        hosts = str(
            params.get("host") or params.get("hostaddr") or os.environ.get("PGHOST") or ""
        ).split(",")
        ports = str(params.get("port") or os.environ.get("PGPORT") or 5432).split(",")
        return (
            self.dialect == "postgresql"
            and _database_of(params) in {self.original, self.working}
            and str(self.port) in ports
            and _host(self.host) in {_host(host) for host in hosts}
        )

    def postgres(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters to connect with: those given, with the working copy's name in them.

        A session in any other database reads only, unless it says otherwise itself.
        """
        changed = dict(params)
        if self.postgres_names_original(params):
            changed["database" if "database" in params else "dbname"] = self.working
        elif not self.in_place:
            changed["options"] = f"{READ_ONLY} {params.get('options') or ''}".strip()
        return changed


def sqlite_file(path: str | bytes | os.PathLike[Any], uri: bool = False) -> str | None:
    """The file that SQLite would open, or None for a database in memory or a temporary one."""
    text = os.fsdecode(path)
    if uri and text.startswith("file:"):
        text = text.removeprefix("file:").partition("#")[0]
        text, _, query = text.partition("?")
        if ("mode", "memory") in parse_qsl(query):
            return None
        text = unquote(text)
        if text.startswith("//"):
            text = "/" + text[2:].partition("/")[2]
    if text in {"", ":memory:"}:
        return None
    return text


def _same(path: str, original: str) -> bool:
    if os.path.realpath(path) == original:
        return True
    try:
        return Path(path).samefile(original)
    except OSError:
        return False


def _host(host: str) -> str:
    host = host.strip().strip("[]").lower()
    local = host in _LOCAL or host.startswith(("/", "@"))
    return "localhost" if local else host


def _database_of(params: Mapping[str, Any]) -> str:
    name = params.get("dbname") or params.get("database") or os.environ.get("PGDATABASE")
    return str(name or params.get("user") or os.environ.get("PGUSER") or "")
