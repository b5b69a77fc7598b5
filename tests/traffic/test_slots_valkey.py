"""Slots on Valkey when the server is away, comes back empty, or has another time."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from tests.support.patience import with_more_time
from tests.support.valkey_server import ValkeyServer
from valkey.asyncio import Valkey

from crowdsafe.errors import LeaseLost
from crowdsafe.traffic import ValkeySlots, ValkeyUnavailable

KEY = "crowdsafe:slots:test:a"


def test_a_holder_learns_that_the_server_was_away_too_long(
    own_valkey_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with Valkey.from_url(own_valkey_server.url()) as client:
            slots = ValkeySlots(client, 1, name="test", lease_s=0.9, timeout_s=0.2)
            async with slots.hold("a") as slot:
                await asyncio.sleep(0.5)
                own_valkey_server.pause()
                start = time.monotonic()
                await asyncio.wait_for(slot.lost.wait(), 20)
                assert time.monotonic() - start < 6
                with pytest.raises(LeaseLost):
                    slot.check()
                with pytest.raises(ValkeyUnavailable):
                    async with slots.hold("a"):
                        pass
                own_valkey_server.resume()

    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        asyncio.run(run())
    assert "was not renewed" in caplog.text


def test_a_short_pause_of_the_server_costs_nobody_a_slot(own_valkey_server: ValkeyServer) -> None:
    async def run(lease_s: float) -> None:
        async with Valkey.from_url(own_valkey_server.url()) as client:
            slots = ValkeySlots(client, 1, name=f"{lease_s}", lease_s=lease_s, timeout_s=0.2)
            async with slots.hold("a") as slot:
                await asyncio.sleep(0.27 * lease_s)
                own_valkey_server.pause()
                await asyncio.sleep(0.33 * lease_s)
                own_valkey_server.resume()
                await asyncio.sleep(lease_s)
                slot.check()

    with_more_time(lambda lease_s: asyncio.run(run(lease_s)), 1.5, 10.0)


def test_holders_learn_that_the_server_came_back_empty(own_valkey_server: ValkeyServer) -> None:
    async def run() -> None:
        async with Valkey.from_url(own_valkey_server.url()) as client:
            slots = ValkeySlots(client, 1, name="test", lease_s=0.9)
            async with slots.hold("a") as slot:
                await asyncio.to_thread(own_valkey_server.restart)
                await asyncio.wait_for(slot.lost.wait(), 5)
                async with slots.hold("a") as other:
                    other.check()

    asyncio.run(run())


def test_leases_outlive_a_restart_of_a_server_that_persists() -> None:
    async def run(server: ValkeyServer) -> None:
        async with Valkey.from_url(server.url()) as client:
            slots = ValkeySlots(client, 1, name="test", lease_s=6.0)
            async with slots.hold("a") as slot:
                await asyncio.to_thread(server.restart)
                assert not await slots.take("a", "someone else")
                assert await slots.renew("a", slot.id)
                slot.check()

    with ValkeyServer.create(persist=True) as server:
        asyncio.run(run(server))


def test_a_clock_that_went_back_keeps_no_dead_holder_for_longer_than_its_lease(
    valkey_url: str,
) -> None:
    async def run(lease_s: float) -> None:
        async with Valkey.from_url(valkey_url) as valkey:
            slots = ValkeySlots(valkey, 1, name="test", lease_s=lease_s)
            await valkey.delete(KEY)
            await valkey.zadd(KEY, {"dead": (time.time() + 3600) * 1e6})
            assert not await slots.take("a", "mine")
            await asyncio.sleep(lease_s + 0.05)
            assert await slots.take("a", "mine")

    with_more_time(lambda lease_s: asyncio.run(run(lease_s)), 0.5, 8.0)


def test_nothing_is_left_in_the_server(valkey: Valkey) -> None:
    async def run() -> None:
        async with valkey:
            slots = ValkeySlots(valkey, 3, name="test", lease_s=30.0)
            async with slots.hold("a"):
                assert await valkey.zcard(KEY) == 1
            assert await valkey.keys("*") == []
            await ValkeySlots(valkey, 3, name="test", lease_s=0.3).take("a", "who dies")
            await asyncio.sleep(0.35)
            assert await valkey.keys("*") == []

    asyncio.run(run())
