"""An engine of the target's lives longer than one look for races: a test suite has many."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from crowdsafe.find import call, find

ROWS = "SELECT used FROM coupons"


def _use(engine: Engine) -> Callable[[], str]:
    def use() -> str:
        with engine.begin() as db:
            if db.scalar(text(ROWS)):
                return "used already"
            db.execute(text("UPDATE coupons SET used = 1"))
        return "yours"

    return use


@pytest.fixture
def engine(db_url: str) -> Iterator[Engine]:
    made = create_engine(db_url)
    with made.begin() as db:
        db.execute(text("CREATE TABLE coupons (id INTEGER PRIMARY KEY, used INTEGER NOT NULL)"))
        db.execute(text("INSERT INTO coupons VALUES (1, 0)"))
    made.dispose()
    yield made
    made.dispose()


def _found(operation: Callable[..., object], database: str) -> list[str]:
    report = find(None, [call(operation)], database=database, budget_s=30)
    return [str(finding.reason or finding.verdict) for finding in report.findings]


def test_a_pool_of_an_earlier_look_serves_the_next(engine: Engine, db_url: str) -> None:
    use = _use(engine)
    assert [_found(use, db_url) for _ in range(3)] == [["race"]] * 3
    with engine.begin() as db:
        assert db.scalar(text(ROWS)) == 0


def test_a_connection_of_before_does_not_write_to_the_database(
    engine: Engine, sqlite_url: str, db_url: str
) -> None:
    if db_url != sqlite_url:
        pytest.skip("PostgreSQL makes no copy while somebody is connected")
    with engine.connect() as db:
        assert db.scalar(text(ROWS)) == 0
    assert _found(_use(engine), db_url) == ["race"]
    with engine.connect() as db:
        assert db.scalar(text(ROWS)) == 0


def test_a_database_in_memory_keeps_its_rows(engine: Engine, db_url: str) -> None:
    memory = create_engine("sqlite://")
    with memory.begin() as db:
        db.execute(text("CREATE TABLE kept (id INTEGER)"))
    assert _found(_use(engine), db_url) == ["race"]
    with memory.connect() as db:
        assert db.execute(text("SELECT * FROM kept")).all() == []
    memory.dispose()


def test_a_pool_of_an_async_engine_serves_the_next(engine: Engine, db_url: str) -> None:
    driver = "sqlite+aiosqlite" if db_url.startswith("sqlite") else "postgresql+asyncpg"
    apart: AsyncEngine = create_async_engine(engine.url.set(drivername=driver))

    async def use() -> str:
        async with apart.begin() as db:
            if await db.scalar(text(ROWS)):
                return "used already"
            await db.execute(text("UPDATE coupons SET used = 1"))
        return "yours"

    assert [_found(use, db_url) for _ in range(2)] == [["race"]] * 2
