"""What the programs share: engines and connections for either database, tables and first rows."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from fastapi import FastAPI
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Session

__all__ = [
    "connect",
    "engine_url",
    "is_sqlite",
    "marks",
    "orm",
    "script",
    "sqlite_path",
    "until_closed",
]


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def sqlite_path(url: str) -> str:
    return url.removeprefix("sqlite:///")


def engine_url(url: str, *, sqlite: str = "sqlite", postgresql: str = "postgresql+psycopg") -> str:
    """The address with the drivers that the program asks for."""
    scheme, rest = url.split("://", 1)
    return f"{sqlite if scheme == 'sqlite' else postgresql}://{rest}"


def marks(url: str) -> Callable[[str], str]:
    """Turn the %s of a statement into what the database's driver wants."""
    return (lambda sql: sql.replace("%s", "?")) if is_sqlite(url) else (lambda sql: sql)


@contextmanager
def connect(url: str) -> Iterator[Any]:
    """A connection of sqlite3 or psycopg, as they are by themselves, closed in the end."""
    connection: Any = sqlite3.connect(sqlite_path(url)) if is_sqlite(url) else psycopg.connect(url)
    try:
        yield connection
    finally:
        connection.close()


def script(url: str, *statements: str) -> Callable[[], None]:
    """A set-up out of statements; ``SERIAL PRIMARY KEY`` means what SQLite has for it there."""

    def setup() -> None:
        with connect(url) as connection:
            for statement in statements:
                connection.execute(
                    statement.replace("SERIAL PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")
                    if is_sqlite(url)
                    else statement
                )
            connection.commit()

    return setup


def orm(
    url: str, base: type[DeclarativeBase], rows: Callable[[], Iterable[object]] = tuple
) -> Callable[[], None]:
    """A set-up out of mapped classes: their tables, and the rows given, in their order."""

    def setup() -> None:
        engine = create_engine(engine_url(url), poolclass=NullPool)
        base.metadata.create_all(engine)
        with Session(engine) as session:
            for row in rows():
                session.add(row)
                session.flush()
            session.commit()

    return setup


def until_closed(engine: AsyncEngine) -> Callable[[FastAPI], Any]:
    """A lifespan that closes the engine's pool in the end."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    return lifespan
