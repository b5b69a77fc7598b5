"""Breakers over processes: one probe in all, a killed probe, and a backend that is away."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from sqlalchemy import MetaData
from tests.support.pg_server import PgServer
from tests.support.valkey_server import ValkeyServer
from tests.traffic.breaker_crowd import (
    LONG,
    MIDDLE,
    Down,
    Others,
    break_it,
    crowd,
    fails,
    opened,
    probe_and_hang,
    until_half_open,
    works,
)
from valkey.asyncio import Valkey

from crowdsafe import Store
from crowdsafe.errors import BreakerOpen
from crowdsafe.traffic.breaker import BreakerSettings, ValkeyBreaker
from crowdsafe.traffic.breaker.circuit import Circuit, Decide
from crowdsafe.traffic.breaker.guard import Breaker

T = TypeVar("T")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "valkey"])
def backend(request: pytest.FixtureRequest) -> str:
    """The URL of each shared backend in turn."""
    if request.param == "valkey":
        return str(request.getfixturevalue("valkey_url"))
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    return created(str(url))


def created(url: str) -> str:
    with Store(url) as store:
        store.create_all(MetaData())
    return url


@pytest.fixture(scope="module")
def others() -> Iterator[Others]:
    pair = Others()
    yield pair
    pair.close()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


# Two processes


def test_of_100_callers_in_two_processes_exactly_one_probes(
    backend: str, name: str, others: Others
) -> None:
    async def main() -> None:
        async with opened(backend, name) as breaker:
            await break_it(breaker)
            await until_half_open(breaker)
            answers = await asyncio.to_thread(others.crowd, backend, name)
            assert sorted(answers) == [(0, 50), (1, 49)]
            assert (await breaker.state()).state == "closed"

    run(main())


def test_others_see_it_open_within_half_a_second(backend: str, name: str) -> None:
    async def main() -> None:
        async with opened(backend, name, MIDDLE) as here, opened(backend, name, MIDDLE) as there:
            assert await there.call(works) == "ok"
            await break_it(here)
            assert (await there.state()).state == "open"
        async with opened(backend, name, LONG) as here, opened(backend, name, LONG) as there:
            await until_half_open(here)
            assert await here.call(works) == "ok"
            assert await there.call(works) == "ok"
            await break_it(here)
            await asyncio.sleep(0.55)
            with pytest.raises(BreakerOpen):
                await there.call(works)

    run(main())


def test_a_client_that_decodes_its_answers(valkey_url: str, name: str) -> None:
    async def main() -> None:
        async with Valkey.from_url(valkey_url, decode_responses=True) as client:
            await break_it(ValkeyBreaker(client, name, LONG))
            assert (await ValkeyBreaker(client, name, LONG).state()).state == "open"

    run(main())


def test_failures_of_all_processes_add_up(backend: str, name: str) -> None:
    async def main() -> None:
        async with opened(backend, name, LONG) as here, opened(backend, name, LONG) as there:
            await break_it(here, 2)
            assert (await there.state()).failures == 2
            await break_it(there, 1)
            assert (await here.state()).state == "open"

    run(main())


def test_a_killed_probe_frees_its_place_after_probe_s(backend: str, name: str) -> None:
    settings = BreakerSettings(
        failures=3, cooldown_s=0.2, cooldown_max_s=1, probe_s=2.5, backend_s=5
    )
    context = multiprocessing.get_context("spawn")

    async def main() -> None:
        async with opened(backend, name, settings) as breaker:
            await break_it(breaker)
            await until_half_open(breaker)
            ours, theirs = context.Pipe()
            process = context.Process(target=probe_and_hang, args=(backend, name, settings, theirs))
            process.start()
            assert await asyncio.to_thread(ours.poll, 30), "no probe"
            shown = await breaker.state()
            process.kill()
            await asyncio.to_thread(process.join, 10)
            assert (shown.state, shown.retry_after_s > 0) == ("half-open", True)
            with pytest.raises(BreakerOpen) as caught:
                await breaker.call(works)
            assert caught.value.state == "half-open"
            passed: list[Any] = []
            refused = [caught.value]
            deadline = time.monotonic() + 10
            while not passed and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                passed, refused = await crowd(breaker, slow)
            assert (len(passed), len(refused)) == (1, 49)
            assert (await breaker.state()).state == "closed"

    run(main())


async def slow() -> str:
    await asyncio.sleep(0.1)
    return "ok"


# What it costs, and a backend that is away


class Counted:
    """A keeper in memory that counts what is asked of it, and can be away or slow."""

    def __init__(self) -> None:
        self.circuit = Circuit()
        self.reads = self.changes = 0
        self.away = self.loses_answers = False
        self.takes_s = 0.0

    async def read(self) -> tuple[Circuit, float]:
        self.reads += 1
        await self._answer()
        return self.circuit, time.time()

    async def change(self, decide: Decide[T]) -> tuple[Circuit, float, T]:
        self.changes += 1
        await self._answer()
        self.circuit, answer = decide(self.circuit, time.time())
        if self.loses_answers:
            raise ConnectionError("it was done, but nobody heard of it")
        return self.circuit, time.time(), answer

    async def _answer(self) -> None:
        await asyncio.sleep(self.takes_s)
        if self.away:
            raise ConnectionError("away")


def kept(keeper: Counted, **settings: Any) -> Breaker:
    chosen = {"failures": 3, "cooldown_s": 0.6, "cooldown_max_s": 2, "backend_s": 2, **settings}
    return Breaker("it", BreakerSettings(**chosen), keeper=keeper, rng=random.Random(3))


def test_closed_it_costs_no_write_and_one_read_in_half_a_second() -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper)
        started = time.monotonic()
        for _ in range(20):
            passed, _ = await crowd(breaker, works)
            assert len(passed) == 50
            await asyncio.sleep(0.05)
        most = 1 + int((time.monotonic() - started) / 0.5)
        assert keeper.changes == 0
        assert 2 <= keeper.reads <= most

    run(main())


def test_open_it_asks_no_more_than_closed() -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper, cooldown_s=5, cooldown_max_s=5)
        await break_it(breaker)
        reads, changes = keeper.reads, keeper.changes
        for _ in range(20):
            assert len((await crowd(breaker, works))[1]) == 50
        assert (keeper.reads, keeper.changes) == (reads, changes)

    run(main())


def test_one_caller_asks_for_the_probe_and_the_others_do_not_wait() -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper)
        await break_it(breaker)
        await until_half_open(breaker)
        keeper.takes_s = 0.1
        changes = keeper.changes
        passed, refused = await crowd(breaker, works)
        assert (len(passed), len(refused)) == (1, 49)
        assert keeper.changes == changes + 2

    run(main())


async def check_alone(breaker: Breaker, failed: int = 0) -> None:
    """Without its backend: calls go on, it opens by itself, and lets one probe through."""
    assert await breaker.call(works) == "ok"
    assert (await breaker.state()).alone
    await break_it(breaker, 3 - failed)
    shown = await breaker.state()
    assert (shown.state, shown.alone) == ("open", True)
    outcomes, refused = await crowd(breaker, works)
    assert (len(outcomes), len(refused)) == (0, 50)
    await until_half_open(breaker)
    passed, refused = await crowd(breaker, slow)
    assert (len(passed), len(refused)) == (1, 49)
    assert (await breaker.state()).state == "closed"


async def until_together(breaker: Breaker) -> None:
    deadline = time.monotonic() + 20
    while (await breaker.state()).alone:
        assert time.monotonic() < deadline, "it never asks its backend again"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("takes_s", [0.0, 30.0], ids=["away", "silent"])
def test_a_backend_that_is_away_takes_nothing_down_and_opens_no_flood(takes_s: float) -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper, backend_s=0.3)
        assert await breaker.call(works) == "ok"
        keeper.away, keeper.takes_s = True, takes_s
        await break_it(breaker, 1)
        started = time.monotonic()
        passed, _ = await crowd(breaker, works)
        assert len(passed) == 50
        await check_alone(breaker, failed=1)
        assert time.monotonic() - started < 10
        keeper.away, keeper.takes_s = False, 0.0
        await until_together(breaker)
        assert await breaker.call(works) == "ok"

    run(main())


def test_away_from_the_start() -> None:
    async def main() -> None:
        keeper = Counted()
        keeper.away = True
        breaker = kept(keeper)
        await check_alone(breaker)

    run(main())


def test_a_probe_whose_grant_was_not_heard_of_blocks_nobody_for_longer_than_probe_s() -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper, probe_s=1.5)
        await break_it(breaker)
        await until_half_open(breaker)
        keeper.loses_answers = True
        passed, refused = await crowd(breaker, slow)
        assert (len(passed), len(refused)) == (1, 49)
        assert keeper.circuit.probe is not None
        keeper.loses_answers = False
        other = kept(keeper, probe_s=1.5)
        with pytest.raises(BreakerOpen):
            await other.call(works)
        await asyncio.sleep(1.5)
        assert await other.call(works) == "ok"
        assert (await other.state()).state == "closed"

    run(main())


def test_open_when_the_backend_goes_away_it_stays_open() -> None:
    async def main() -> None:
        keeper = Counted()
        breaker = kept(keeper, cooldown_s=5, cooldown_max_s=5)
        await break_it(breaker)
        keeper.away = True
        await asyncio.sleep(0.6)
        for _ in range(3):
            with pytest.raises(BreakerOpen):
                await breaker.call(works)
        shown = await breaker.state()
        assert (shown.state, shown.alone) == ("open", True)

    run(main())


def test_a_valkey_that_freezes_and_restarts(own_valkey_server: ValkeyServer, name: str) -> None:
    settings = BreakerSettings(failures=3, cooldown_s=0.6, cooldown_max_s=2, backend_s=0.5)

    async def main() -> None:
        async with opened(own_valkey_server.url(), name, settings) as breaker:
            assert await breaker.call(works) == "ok"
            own_valkey_server.pause()
            try:
                await break_it(breaker, 1)
                await check_alone(breaker, failed=1)
            finally:
                own_valkey_server.resume()
            await until_together(breaker)
            own_valkey_server.stop()
            await break_it(breaker, 1)
            await check_alone(breaker, failed=1)
            own_valkey_server.start()
            await until_together(breaker)
            await break_it(breaker)
            with pytest.raises(BreakerOpen):
                await breaker.call(works)

    run(main())


@pytest.mark.postgres
def test_a_postgresql_that_restarts(own_pg_server: PgServer, name: str) -> None:
    settings = BreakerSettings(failures=3, cooldown_s=0.6, cooldown_max_s=2, backend_s=1)
    url = created(own_pg_server.url())

    async def main() -> None:
        async with opened(url, name, settings) as breaker:
            assert await breaker.call(works) == "ok"
            own_pg_server.stop("immediate")
            await break_it(breaker, 1)
            await check_alone(breaker, failed=1)
            own_pg_server.start()
            await until_together(breaker)
            with pytest.raises(Down):
                await breaker.call(fails)
            assert (await breaker.state()).failures == 1

    run(main())
