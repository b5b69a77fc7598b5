"""The patched drivers: each statement of an operation stops here until it is let go on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable

from crowdsafe.find.gates.redirect import Redirect

__all__ = ["Redirect", "install", "seen_drivers", "unseen_drivers"]

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
    undone: list[Callable[[], None]] = []

    def undo() -> None:
        while undone:
            undone.pop()()

    modules = ["context"]
    modules += [gate for driver, gate in _DRIVERS[dialect] if _present(driver)]
    try:
        for name in modules:
            gate = importlib.import_module(f"crowdsafe.find.gates.{name}")
            undone.append(gate.install(redirect))
    except BaseException:
        undo()
        raise
    return undo


def _present(driver: str) -> bool:
    return driver in sys.modules or importlib.util.find_spec(driver) is not None
