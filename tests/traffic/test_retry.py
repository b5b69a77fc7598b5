"""Retries: what is listed, as often as allowed, in the time allowed, and when the server says."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import httpx
import pytest

from crowdsafe.errors import ConfigError, RateLimited
from crowdsafe.store.types import utcnow
from crowdsafe.traffic.retry import retry_after_of, retrying


class Down(Exception):
    pass


class Service:
    """Fails with the errors it is given, one for each call, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.at: list[float] = []

    def ask(self, word: str = "ok") -> str:
        self.at.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return word

    async def ask_async(self, word: str = "ok") -> str:
        await asyncio.sleep(0)
        return self.ask(word)

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in zip(self.at, self.at[1:], strict=False)]


def call(service: Service, way: str, *args: Any, **options: Any) -> Any:
    """Ask with retries, sync or async."""
    options = {"on": Down, "wait_s": 0.01, "rng": random.Random(5), **options}
    if way == "sync":
        return retrying(**options)(service.ask)(*args)
    return asyncio.run(retrying(**options)(service.ask_async)(*args))


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_is_asked_again_until_it_answers(way: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(Down("one"), Down("two"))
    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        assert call(service, way, "hello") == "hello"
    assert len(service.at) == 3
    assert "failed with Down('one'); attempt 2 of 4" in caplog.text
    assert "attempt 3 of 4" in caplog.text


def test_the_last_error_comes_out_after_so_many_attempts(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(*(Down(str(n)) for n in range(9)))
    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"), pytest.raises(Down, match="2"):
        call(service, way, attempts=3)
    assert len(service.at) == 3
    assert "given up: it was the last attempt" in caplog.text


def test_waits_double_with_jitter_up_to_their_cap(way: str) -> None:
    service = Service(*(Down() for _ in range(5)))
    call(service, way, attempts=6, wait_s=0.02, wait_max_s=0.08)
    for wait, longest in zip(service.waits, [0.02, 0.04, 0.08, 0.08, 0.08], strict=True):
        assert wait >= longest / 2
    assert len({round(wait, 4) for wait in service.waits[2:]}) == 3, "no jitter"


@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_not_listed_comes_out_at_once(way: str, error: BaseException) -> None:
    service = Service(error)
    with pytest.raises(type(error)):
        call(service, way, on=Down)
    assert len(service.at) == 1


def naive_retry(fn: Any) -> Any:
    for _ in range(3):
        try:
            return fn()
        except BaseException:
            time.sleep(0.001)
    return None


def test_a_naive_retry_repeats_what_must_not_be() -> None:
    service = Service(KeyError("bug"), SystemExit(3))
    assert naive_retry(service.ask) == "ok"
    assert len(service.at) == 3


def test_on_may_be_several_or_a_function(way: str) -> None:
    assert call(Service(Down(), OSError()), way, on=(Down, OSError)) == "ok"
    service = Service(Down("busy"), Down("gone"))
    with pytest.raises(Down, match="gone"):
        call(service, way, on=lambda error: "busy" in str(error))
    assert len(service.at) == 2


def test_the_time_that_the_server_asks_for_is_waited(way: str) -> None:
    service = Service(RateLimited(retry_after_s=0.2))
    assert call(service, way, on=RateLimited) == "ok"
    assert service.waits[0] >= 0.2


def test_but_no_longer_than_the_cap(way: str) -> None:
    service = Service(RateLimited(retry_after_s=3600))
    assert call(service, way, on=RateLimited, retry_after_max_s=0.1) == "ok"
    assert 0.1 <= service.waits[0] < 20


def test_and_not_when_no_time_is_left_for_it(way: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(RateLimited(retry_after_s=20))
    started = time.monotonic()
    with pytest.raises(RateLimited), caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        call(service, way, on=RateLimited, timeout_s=5)
    assert time.monotonic() - started < 5
    assert len(service.at) == 1
    assert "given up: the next is in 20." in caplog.text


def test_the_total_time_has_a_limit(way: str) -> None:
    service = Service(*(Down(str(n)) for n in range(100)))
    with pytest.raises((Down, TimeoutError)):
        call(service, way, attempts=100, timeout_s=0.5, wait_s=0.05, wait_max_s=0.05)
    assert 2 <= len(service.at) <= 21
    assert service.at[-1] - service.at[0] <= 5


def test_an_attempt_that_hangs_is_cut_off() -> None:
    @retrying(on=Down, timeout_s=0.1)
    async def hang() -> None:
        await asyncio.sleep(600)

    with pytest.raises(TimeoutError):
        asyncio.run(hang())


def test_cancelled_while_it_waits() -> None:
    async def main() -> None:
        service = Service(Down(), Down())
        task = asyncio.create_task(retrying(on=Down, wait_s=10)(service.ask_async)())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(service.at) == 1

    asyncio.run(main())


def test_calls_at_once_do_not_count_each_others_attempts() -> None:
    async def main() -> None:
        services = [Service(Down(), Down()) for _ in range(50)]

        @retrying(on=Down, attempts=3, wait_s=0.01)
        async def each(service: Service) -> str:
            return await service.ask_async()

        assert await asyncio.gather(*map(each, services)) == ["ok"] * 50
        assert [len(service.at) for service in services] == [3] * 50

    asyncio.run(main())


def test_every_kind_of_async_function_is_known_as_one() -> None:
    class Asks:
        async def __call__(self, service: Service) -> str:
            return await service.ask_async()

    async def ask(word: str, service: Service) -> str:
        return await service.ask_async(word)

    for fn in (Asks(), partial(ask, "ok")):
        service = Service(Down())
        again = retrying(on=Down, wait_s=0.01)(fn)
        assert asyncio.run(again(service)) == "ok"
        assert len(service.at) == 2
    with pytest.raises(ConfigError, match="async def"):
        retrying(on=Exception)(lambda: ask("ok", Service()))()


def test_it_keeps_the_functions_name() -> None:
    assert retrying(on=Down)(call).__name__ == "call"


def response(header: str | None) -> Exception:
    headers = {} if header is None else {"Retry-After": header}
    answer = httpx.Response(429, headers=headers)
    return httpx.HTTPStatusError("429", request=httpx.Request("GET", "http://x"), response=answer)


def test_where_the_time_to_wait_is_read() -> None:
    assert retry_after_of(RateLimited(retry_after_s=7)) == 7
    assert retry_after_of(response("12")) == 12
    assert retry_after_of(response("0.5")) == 0.5
    soon = retry_after_of(response(format_datetime(utcnow() + timedelta(seconds=60), usegmt=True)))
    assert soon is not None
    assert 50 < soon <= 60
    assert retry_after_of(response("Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    far, farther = "20 Nov 99999999999 19:12:08 GMT", "20 Nov 1995 19:12:08 +99999999999"
    for nothing in ("", "soon", "nan", "inf", "9" * 100, far, farther, None):
        assert retry_after_of(response(nothing)) is None
    assert retry_after_of(response("-5")) == 0
    assert retry_after_of(RateLimited(retry_after_s="7")) is None
    assert retry_after_of(ValueError("no response")) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"on": ()},
        {"on": BaseException},
        {"on": (Down, KeyboardInterrupt)},
        {"on": "Down"},
        {"attempts": 0},
        {"attempts": 101},
        {"attempts": None},
        {"timeout_s": 0},
        {"timeout_s": None},
        {"wait_s": float("nan")},
        {"wait_max_s": -1},
        {"retry_after_max_s": float("inf")},
    ],
)
def test_arguments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retrying(**{"on": Down, **wrong})
