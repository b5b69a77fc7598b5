"""The patched drivers: each statement of an operation stops here until it is let go on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import Any

from crowdsafe.find.gates.redirect import Redirect

__all__ = ["Redirect", "install", "install_all", "seen_drivers", "unseen_drivers"]

_DRIVERS = {
    "sqlite": (("sqlite3", "sqlite"), ("aiosqlite", "aiosqlite")),
    "postgresql": (("psycopg", "psycopg3"), ("psycopg2", "psycopg2"), ("asyncpg", "asyncpg")),
}

_WITHOUT_GATE = {
    "sqlite": ("apsw", "pysqlite3", "sqlcipher3", "libsql", "libsql_experimental", "duckdb"),
    "postgresql": ("pg8000", "psycopg2cffi", "pgdb", "postgresql", "adbc_driver_postgresql"),
}


def seen_drivers(dialect: str) -> list[str]:
    """The drivers of that dialect whose statements are seen."""
    return [driver for driver, _ in _DRIVERS[dialect]]


def unseen_drivers(dialect: str) -> list[str]:
    """The drivers of that dialect that this process has loaded and nobody sees."""
    return [driver for driver in _WITHOUT_GATE[dialect] if driver in sys.modules]


def install(dialect: str, redirect: Redirect) -> Callable[[], None]:
    """Patch all drivers of that dialect (``sqlite`` or ``postgresql``) that this Python has, and
    what carries an operation into threads. Call it before the target is imported.

    Returns what undoes it: connections that were opened meanwhile keep their gate, which lets
    everything pass outside of an operation.
    """
    return _install([dialect], redirect)


def install_all(redirect: Redirect) -> Callable[[], None]:
    """The same for the drivers of all dialects: a target that was said to use SQLite and uses
    PostgreSQL, or the other way round, is to write to neither of its databases."""
    return _install(_DRIVERS, redirect)


def _install(dialects: Iterable[str], redirect: Redirect) -> Callable[[], None]:
    undone: list[Callable[[], None]] = []

    def undo() -> None:
        while undone:
            undone.pop()()

    drivers = [pair for dialect in dialects for pair in _DRIVERS[dialect]]
    try:
        undone.append(_gate("context").install(redirect))
        for driver, name in drivers:
            if not _present(driver):
                continue
            try:
                undone.append(_gate(name).install(redirect))
            except ImportError:  # such as psycopg without libpq: nobody can connect with it
                continue
    except BaseException:
        undo()
        raise
    return undo


def _gate(name: str) -> Any:
    return importlib.import_module(f"crowdsafe.find.gates.{name}")


def _present(driver: str) -> bool:
    return driver in sys.modules or importlib.util.find_spec(driver) is not None
