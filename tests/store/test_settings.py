"""What is wrong with a configuration is one clear line; every setting has an effect."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.errors import ConfigError


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "nonsense", "mysql://u:p@h/d", "oracle://x", "sqlite://", "sqlite:///:memory:"),
        *("postgresql://u:p@localhost:notaport/x", "http://example.com"),
    ],
)
@pytest.mark.parametrize("kind", [Store, AsyncStore])
def test_wrong_addresses(kind: Any, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(wrong)
    one_line(caught.value)


def one_line(error: ConfigError) -> None:
    assert error.message
    assert "\n" not in error.message
    assert len(error.message) < 300


def test_wrong_places(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is no database " * 100)
    for path in (tmp_path, tmp_path / "missing" / "app.db", garbage):
        with pytest.raises(ConfigError) as caught:
            Store(f"sqlite:///{path}")
        one_line(caught.value)
        assert str(path.name) in caught.value.message or str(path.parent) in caught.value.message


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match="not writable") as caught:
        Store(f"sqlite:///{tmp_path / 'app.db'}")
    one_line(caught.value)


@pytest.mark.parametrize("port", [1])
def test_no_server_there(port: int) -> None:
    url = f"postgresql://nobody@127.0.0.1:{port}/none"
    with pytest.raises(ConfigError, match="cannot connect") as caught:
        Store(url)
    one_line(caught.value)

    async def main() -> None:
        store = AsyncStore(url)
        try:
            with pytest.raises(ConfigError, match="cannot connect"):
                await store.start()
        finally:
            await store.close()

    asyncio.run(main())


@pytest.mark.postgres
def test_no_database_there(pg_server_url: str) -> None:
    with pytest.raises(ConfigError, match="no_such_db") as caught:
        Store(pg_server_url.rpartition("/")[0] + "/no_such_db")
    one_line(caught.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_values_that_cannot_be(name: str) -> None:
    wrong: list[Any] = ["OFF"] if name == "synchronous" else [0, -1, math.nan]
    for value in wrong:
        with pytest.raises(ConfigError, match=name):
            Settings(**{name: value})


class TestEffects:
    """Those that are not shown elsewhere: see test_retry for limits, waits and escalation."""

    def test_synchronous(self, sqlite_url: str) -> None:
        def level(session: Session) -> int:
            return int(session.execute(text("PRAGMA synchronous")).scalar_one())

        with Store(sqlite_url) as store:
            assert store.write(level) == 2
        with Store(sqlite_url, Settings(synchronous="NORMAL")) as store:
            assert store.write(level) == 1

    def test_sqlite_is_tuned(self, sqlite_url: str) -> None:
        def pragmas(session: Session) -> list[Any]:
            return [
                session.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "foreign_keys")
            ]

        with Store(sqlite_url) as store:
            assert store.write(pragmas) == ["wal", 1]
            assert store.read(pragmas) == ["wal", 1]

    def test_batch_max(self, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from crowdsafe.store import sqlite

        sizes: list[int] = []
        real: Callable[..., Any] = sqlite.run_group

        def run_group(connection: Any, works: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(works))
            return real(connection, works, *args, **kwargs)

        monkeypatch.setattr(sqlite, "run_group", run_group)

        async def main() -> None:
            async with AsyncStore(sqlite_url, Settings(batch_max=3)) as store:
                await asyncio.gather(*(store.write(lambda session: None) for _ in range(20)))

        asyncio.run(main())
        assert max(sizes) <= 3
        assert sum(sizes) == 20

    def test_readers(self, sqlite_url: str) -> None:
        import threading
        import time

        lock, now, most, two = threading.Lock(), [0], [0], threading.Barrier(2)

        def slow(session: Session) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            two.wait(30)
            time.sleep(0.05)
            with lock:
                now[0] -= 1

        async def main() -> None:
            async with AsyncStore(sqlite_url, Settings(readers=2)) as store:
                await asyncio.gather(*(store.read(slow) for _ in range(8)))

        asyncio.run(main())
        assert most == [2]

    @pytest.mark.postgres
    def test_timeouts_reach_the_server(self, pg_url: str) -> None:
        def shown(session: Session) -> list[str]:
            names = (
                "lock_timeout",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
            )
            return [str(session.execute(text(f"SHOW {name}")).scalar_one()) for name in names]

        settings = Settings(lock_timeout_s=2, statement_timeout_s=3, deadline_s=4, grace_s=5)
        with Store(pg_url, settings) as store:
            assert store.write(shown) == ["2s", "3s", "9s"]

    @pytest.mark.postgres
    def test_pool_size(self, pg_url: str) -> None:
        async def main() -> None:
            async with AsyncStore(pg_url, Settings(pool_size=3)) as store:

                def peers(session: Session) -> int:
                    session.execute(text("SELECT pg_sleep(0.05)"))
                    query = text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND backend_type = 'client backend'"
                    )
                    return int(session.execute(query).scalar_one())

                seen = await asyncio.gather(*(store.write(peers) for _ in range(12)))
                assert max(seen) == 3

        asyncio.run(main())

    def test_connect_timeout(self) -> None:
        from crowdsafe.store.postgres import _engine_options

        options = _engine_options(Settings(connect_timeout_s=7))
        assert options["connect_args"]["connect_timeout"] == 7


def test_health(db_url: str) -> None:
    with Store(db_url) as store:
        well = store.health()
        assert (well.ok, well.database, well.detail) == (True, store.dialect, "answers")

    async def main() -> None:
        async with AsyncStore(db_url) as store:
            assert (await store.health()).ok

    asyncio.run(main())
