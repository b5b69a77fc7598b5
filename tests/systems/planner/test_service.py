"""What one process runs of the planner: its loops go on, and what it tells the parts it uses."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from crowdsafe import AsyncStore
from crowdsafe.errors import DatabaseUnavailable
from crowdsafe.systems.planner import pregenerate, service
from crowdsafe.systems.planner.generation import offline_plan
from crowdsafe.systems.planner.models import metadata
from crowdsafe.systems.planner.service import Planner
from crowdsafe.systems.planner.settings import PlannerSettings
from tests.systems.planner.asking import plan_request


@pytest.mark.parametrize("error", [RuntimeError("a broken row"), DatabaseUnavailable()])
def test_an_error_of_any_kind_does_not_end_the_loops(
    sqlite_url: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds = {"house": 0, "idle": 0}

    async def failing(name: str) -> None:
        rounds[name] += 1
        raise error

    monkeypatch.setattr(service, "_KEEP_HOUSE_EVERY_S", 0.01)
    monkeypatch.setattr(service, "expire_reservations", "house")
    monkeypatch.setattr(pregenerate, "pregenerate_once", lambda *_: failing("idle"))

    async def run() -> None:
        async with AsyncStore(sqlite_url) as store:
            await store.create_all(metadata)
            settings = PlannerSettings(pregenerate=True, pregenerate_every_s=0.01)
            planner = await Planner.open(store, settings)
            real = store.write

            async def write(fn: Any, *args: Any, **more: Any) -> Any:
                return await (failing(fn) if fn == "house" else real(fn, *args, **more))

            monkeypatch.setattr(store, "write", write)
            async with planner.running():
                for _ in range(1000):
                    await asyncio.sleep(0.01)
                    if min(rounds.values()) >= 3:
                        break

    with caplog.at_level(logging.WARNING, logger="crowdsafe.planner"):
        asyncio.run(run())
    assert min(rounds.values()) >= 3
    told = [record for record in caplog.records if record.name == "crowdsafe.planner"]
    assert {record.levelno for record in told} == {logging.WARNING}
    unexpected = isinstance(error, RuntimeError)
    assert {bool(record.exc_info) for record in told} == {unexpected}


def test_a_plan_is_given_less_time_than_its_job(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    async def generate(request: Any, _upstream: Any, **more: Any) -> Any:
        given.update(more)
        return offline_plan(request)

    monkeypatch.setattr(service, "generate", generate)

    async def run() -> None:
        async with AsyncStore(sqlite_url) as store:
            await store.create_all(metadata)
            planner = await Planner.open(store, PlannerSettings(job_timeout_s=20))
            async with planner.running():
                made = await planner.submit(1, plan_request())
                assert made.job_id is not None
                job = await planner.watch.ended(made.job_id, 20)
                assert job is not None
                assert job.state == "done"

    asyncio.run(run())
    assert given["patience"].plan_s == 16


def test_calls_are_combined_for_one_user_only(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups with the users in another order would wait for each other on PostgreSQL."""

    async def run() -> set[Any]:
        async with AsyncStore(sqlite_url) as store:
            await store.create_all(metadata)
            planner = await Planner.open(store, PlannerSettings())
            lanes = []
            real = store.write

            async def write(*args: Any, **more: Any) -> Any:
                lanes.append(more["lane"])
                return await real(*args, **more)

            monkeypatch.setattr(store, "write", write)
            request = plan_request(audience="public")
            for user_id in (1, 1, 2):
                await planner.submit(user_id, request)
            return set(lanes)

    assert len(asyncio.run(run())) == 2


def test_without_an_upstream_an_offline_plan_is_as_good_as_any(sqlite_url: str) -> None:
    async def run() -> list[float]:
        settings = PlannerSettings(plan_fresh_s=1800)
        asked = replace(settings, upstream_url="http://127.0.0.1:9")
        async with AsyncStore(sqlite_url) as store:
            return [
                (await Planner.open(store, each, demo=demo)).settings.offline_fresh_s
                for each, demo in ((settings, False), (settings, True), (asked, False))
            ]

    assert asyncio.run(run()) == [1800, 60, 60]
