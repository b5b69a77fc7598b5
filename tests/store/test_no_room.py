"""A database whose disk is full: a clear refusal, nothing stored, and all is well afterwards."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from tests.store.models import balance, deposit

from crowdsafe import AsyncStore, Store
from crowdsafe.errors import DatabaseUnavailable

_FULL = {
    "sqlite": ["PRAGMA max_page_count = 1", "CREATE TABLE big AS SELECT randomblob(9000000)"],
    "postgresql": ["DO $$ BEGIN RAISE 'no space left' USING ERRCODE = '53100'; END $$"],
}


def deposit_on_a_full_disk(session: Session, dialect: str) -> None:
    deposit(session, 1)
    for statement in _FULL[dialect]:
        session.execute(text(statement))


def room_again(session: Session) -> None:
    session.execute(text("PRAGMA max_page_count = 1073741823"))


def test_a_full_disk_is_a_clear_refusal(
    store: Store, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DatabaseUnavailable, match="full") as refused:
        store.write(deposit_on_a_full_disk, store.dialect)
    assert refused.value.retry_after_s
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    if store.dialect == "sqlite":
        store.write(room_again)
    store.write(deposit, 1)
    assert store.read(balance) == 1

    async def run() -> None:
        async with AsyncStore(url) as astore:
            with pytest.raises(DatabaseUnavailable, match="full"):
                await astore.write(deposit_on_a_full_disk, astore.dialect)
            if astore.dialect == "sqlite":
                await astore.write(room_again)
            await astore.write(deposit, 1)
            assert await astore.read(balance) == 2

    asyncio.run(run())
