"""What a cache in memory holds after one run is not there in the next."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from django.core.cache.backends.locmem import LocMemCache

from crowdsafe.find import find
from crowdsafe.find.model import Anomaly, Verdict


def test_an_update_lost_behind_a_cache_is_found(tmp_path: Path) -> None:
    """As a session that is read from the cache, and written to both."""
    path = tmp_path / "sessions.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE cart (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);"
                         "INSERT INTO cart VALUES (1, 1)")  # fmt: skip
    cache = LocMemCache("crowdsafe-carts", {})
    cache.set("other", "kept")

    def put_in_cart() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            n = cache.get("n")
            if n is None:
                (n,) = db.execute("SELECT n FROM cart WHERE id = 1").fetchone()
            db.execute("UPDATE cart SET n = ? WHERE id = 1", (n + 1,))
            cache.set("n", n + 1)

    [finding] = find(None, [put_in_cart], database=f"sqlite:///{path}").findings

    assert finding.verdict is Verdict.RACE, finding.reason
    assert finding.anomaly is Anomaly.LOST_UPDATE
    assert cache.get("other") == "kept"
