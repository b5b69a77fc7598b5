"""Database addresses, the tables of crowdsafe, and the answer to "is it well?"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import URL, MetaData, inspect, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError
from crowdsafe.store.options import write
from crowdsafe.store.tables import SCHEMA_VERSION, metadata, schema

__all__ = ["Dialect", "Health", "create_tables", "dialect_of", "parse_url", "ping"]

Dialect = Literal["sqlite", "postgresql"]
_CREATE_LOCK = 0x63726F77


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the database answers; ``detail`` says what is wrong when it does not."""

    ok: bool
    database: Dialect
    detail: str


def parse_url(url: str | URL) -> URL:
    """The SQLAlchemy URL, with the driver that the store uses. Raises ConfigError."""
    try:
        parsed = make_url(
            url.replace("postgres://", "postgresql://", 1) if isinstance(url, str) else url
        )
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"{str(url)!r} is not a database URL; write sqlite:///file.db or "
            "postgresql://user:password@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or ":memory:" in parsed.database:
            raise ConfigError(
                "an in-memory SQLite has no second reader; name a file: sqlite:///app.db"
            )
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"{backend!r} is not supported; use sqlite:///file.db or postgresql://...")


def dialect_of(url: URL) -> Dialect:
    """Which of the two databases a parsed URL names."""
    return "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"


@write(isolation="read committed")
def create_tables(session: Session, extra: Sequence[MetaData]) -> None:
    """Create what is missing of the ``crowdsafe_*`` tables and of ``extra``; two processes may.

    Raises ConfigError when a newer crowdsafe made the tables, and for what is no MetaData.
    """
    for tables in extra:
        if not isinstance(tables, MetaData):
            raise ConfigError(f"create_all takes MetaData (`Base.metadata`), not {tables!r}")
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
    if inspect(connection).has_table(schema.name):
        found = connection.execute(
            schema.select().where(schema.c.component == "crowdsafe")
        ).one_or_none()
        if found is not None and found.version > SCHEMA_VERSION:
            raise ConfigError(
                f"the database has tables of schema version {found.version}, this crowdsafe knows "
                f"{SCHEMA_VERSION}; upgrade crowdsafe or use another database"
            )
    for tables in (metadata, *extra):
        tables.create_all(connection)
    if connection.execute(schema.select()).first() is None:
        connection.execute(schema.insert().values(component="crowdsafe", version=SCHEMA_VERSION))


def ping(session: Session) -> None:
    """Ask the database for the smallest answer."""
    session.execute(text("SELECT 1"))
