"""The servers that the tests of shared caches run on, with nothing cached yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "valkey"]


def empty_cache(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> str:
    """The address of a server with nothing in its cache."""
    if kind == "valkey":
        return str(request.getfixturevalue("valkey_url"))
    if kind == "sqlite":
        empty = request.getfixturevalue("queue_sqlite")
        return f"sqlite:///{shutil.copy(empty, tmp_path / 'cache.db')}"
    server, name = request.getfixturevalue("queue_pg")
    server.kill_connections(name)
    server.execute("TRUNCATE crowdsafe_cache", name)
    return str(server.url(name))
