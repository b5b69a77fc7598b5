"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from tests.support.pg_server import PgServer
from tests.support.valkey_server import ValkeyServer

PACKAGES = (
    "sqlalchemy", "psycopg", "asyncpg", "aiosqlite", "fastapi", "uvicorn", "valkey", "async-lru",
    "cashews", "limits", "pyrate-limiter", "procrastinate", "dbos", "pgqueuer",
)  # fmt: skip


def describe(server: PgServer, valkey: ValkeyServer, sqlite_on: str) -> list[str]:
    """Lines of text: date, machine, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release()}"
    load = f"load before the run {os.getloadavg()[0]:.2f}"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    postgres = server.execute("SHOW server_version")[0][0]
    shown = "; ".join(
        f"{name} {server.execute(f'SHOW {name}')[0][0]}"
        for name in ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
    )
    valkey_version = valkey.execute("INFO", "server")["valkey_version"]
    return [
        f"Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"Machine: {cores} cores, {memory_gib:.0f} GiB, {_cpu()}, {system}; {load}",
        f"Python {platform.python_version()}; {versions}",
        f"PostgreSQL {postgres} over TCP on the same machine ({shown})",
        f"Valkey {valkey_version} over TCP on the same machine, nothing kept on disk",
        f"SQLite {sqlite3.sqlite_version}, WAL, file on {sqlite_on}",
    ]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"
