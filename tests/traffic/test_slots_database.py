"""Slots in the database: its rows, its clock, and a database that is away."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from tests.support.patience import with_more_time
from tests.support.pg_server import PgServer

from crowdsafe.errors import CrowdsafeError, LeaseLost, NoSlot
from crowdsafe.store import AsyncStore, Settings, Store
from crowdsafe.traffic import DatabaseSlots
from crowdsafe.traffic.rows import SlotRow, drop_idle

TABLE: Any = SlotRow.__table__


def put(session: Session, ends_us: int) -> None:
    """A row with one holder, whose lease ends then."""
    session.execute(delete(TABLE))
    state = json.dumps({"dead": ends_us}).encode()
    session.add(SlotRow(name="test", key="a", state=state, ends_us=ends_us))


def test_a_clock_that_went_back_keeps_no_dead_holder_for_longer_than_its_lease(
    db_url: str,
) -> None:
    async def run(lease_s: float) -> None:
        async with AsyncStore(db_url) as store:
            await store.create_all()
            await store.write(put, int((time.time() + 3600) * 1e6))
            slots = DatabaseSlots(store, 2, name="test", lease_s=lease_s)
            assert await slots.take("a", "mine")
            assert not await slots.take("a", "another")
            await asyncio.sleep(lease_s + 0.1)
            assert await slots.take("a", "another")
            assert await slots.take("a", "third")

    with_more_time(lambda lease_s: asyncio.run(run(lease_s)), 0.5, 8.0)


def test_rows_that_nobody_needs_go(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five at once: no step tidies before, as one in 500 would."""
    monkeypatch.setattr("crowdsafe.traffic.slots.database._TIDY_EVERY", 10**12)

    async def run() -> None:
        async with AsyncStore(db_url) as store:
            await store.create_all()
            slots = DatabaseSlots(store, 2, name="test")
            for n in range(5):
                async with slots.hold(f"key {n}"):
                    pass
            async with slots.hold("held"):
                now_us = int(time.time() * 1e6)
                assert await store.write(drop_idle, TABLE, "test", now_us) == 5
                count = await store.read(
                    lambda session: session.scalar(select(func.count()).select_from(TABLE))
                )
                assert count == 1

    asyncio.run(run())


def test_a_plain_store_serves_from_threads(db_url: str) -> None:
    async def run(store: Store) -> None:
        slots = DatabaseSlots(store, 2, name="test")
        async with slots.hold("a"), slots.hold("a"):
            with pytest.raises(NoSlot):
                async with slots.hold("a"):
                    pass

    with Store(db_url) as store:
        store.create_all()
        asyncio.run(run(store))


@pytest.mark.postgres
def test_a_holder_learns_that_the_database_was_away_too_long(
    own_pg_server: PgServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        settings = Settings(deadline_s=0.5, connect_timeout_s=1)
        async with AsyncStore(own_pg_server.url(), settings) as store:
            await store.create_all()
            slots = DatabaseSlots(store, 1, name="test", lease_s=2.0)
            async with slots.hold("a") as slot:
                await asyncio.to_thread(own_pg_server.kill9)
                await asyncio.wait_for(slot.lost.wait(), 30)
                with pytest.raises(LeaseLost):
                    slot.check()
                with pytest.raises(CrowdsafeError) as away:
                    async with slots.hold("a"):
                        pass
                assert away.value.status == 503
                await asyncio.to_thread(own_pg_server.start)
            async with slots.hold("a", wait_s=10) as slot:
                slot.check()

    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        asyncio.run(run())
    assert "was not renewed" in caplog.text
