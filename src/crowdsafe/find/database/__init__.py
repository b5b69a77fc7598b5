"""The throw-away copy of the database that the target works on, and who waits in it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from crowdsafe.errors import ConfigError
from crowdsafe.find.database.schema import Schema
from crowdsafe.find.gates.control import Link
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.model import State, Statement

__all__ = ["Database", "Locks", "open_database"]


class Locks(Protocol):
    """Who waits for whom in the database."""

    def needed(self, link: Link, statement: Statement) -> frozenset[Link]:
        """The connections whose locks this statement would wait for now; empty = it may go.

        Empty also where it would fail at once, so that the failure surfaces. SQLite only:
        PostgreSQL lets a statement go and tells by :meth:`waiting` that it waits.
        """

    def waiting(self, links: Collection[Link]) -> dict[Link, frozenset[Link]]:
        """Which of these wait for a lock in the database now, and for which of them."""

    def left(self, link: Link, statement: Statement, failed: bool) -> None:
        """A statement of that connection ended."""

    def gone(self, link: Link) -> None:
        """That connection was closed."""

    def reset(self) -> None:
        """Forget all: a new run begins."""


class Database(Protocol):
    """A working copy of the database that was named. The original is never written, unless
    the finder was told to work in place: then it is put back as it was by :meth:`close`.

    No method may be called while an operation runs.
    """

    dialect: str
    original_url: str
    shown_url: str
    """The original's URL without its password."""
    working_url: str
    redirect: Redirect

    @property
    def locks(self) -> Locks:
        """Who waits for whom in it."""

    def schema(self) -> Schema:
        """The tables as they are now."""

    def keep(self) -> None:
        """Take the working copy as it is now for what :meth:`restore` goes back to."""

    def restore(self, tables: frozenset[str] | None = None) -> None:
        """Back to what was kept. ``tables`` are those that may have changed; None means all."""

    def read(self, tables: frozenset[str] | None = None) -> State:
        """All rows of those tables (None = all), as plain Python values."""

    def perturb(self, by: int = 1000) -> None:
        """Move the generators of ids on, so that ids differ from those of another run."""

    def set_isolation(self, level: str | None) -> None:
        """Set the isolation level of new transactions; None is the target's own."""

    def original_mark(self) -> object:
        """Something that is another one after the original was used by anybody (of a SQLite
        file: written); None where the finder works in place."""

    def close(self) -> None:
        """Drop the working copy."""


def open_database(url: str, *, in_place: bool = False) -> Database:
    """Make a working copy of the database that a URL names (or work on it ``in_place``).

    ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql[+driver]://...``,
    ``postgres://...``. Raises ConfigError where that is not possible, naming the fix.
    """
    scheme = url.partition("://")[0].partition("+")[0].lower()
    if scheme == "sqlite":
        from crowdsafe.find.database.sqlite import SqliteDatabase

        return SqliteDatabase(url, in_place=in_place)
    if scheme in {"postgresql", "postgres"}:
        from crowdsafe.find.database.postgres import PostgresDatabase

        return PostgresDatabase(url, in_place=in_place)
    raise ConfigError(
        f"the finder knows no database {scheme or url!r}: give a URL that begins with "
        "sqlite:/// or postgresql://"
    )
