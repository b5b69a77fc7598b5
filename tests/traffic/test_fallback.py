"""Fallbacks: marked as such, with their cause, and never for an error that nobody listed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from crowdsafe.errors import BreakerOpen, ConfigError
from crowdsafe.traffic.fallback import Answered, with_fallback


async def best() -> str:
    return "best"


async def refused() -> str:
    raise BreakerOpen(retry_after_s=3)


async def async_second() -> str:
    return "second"


def test_the_best_answer_is_not_marked() -> None:
    answered = asyncio.run(with_fallback(best, lambda: "second", on=BreakerOpen))
    assert answered == Answered("best", fell_back=False, error=None)


@pytest.mark.parametrize("fallback", [lambda: "second", async_second])
def test_a_fallback_is_marked_and_keeps_its_cause(
    fallback: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "crowdsafe.traffic"):
        answered = asyncio.run(with_fallback(refused, fallback, on=(TimeoutError, BreakerOpen)))
    assert (answered.value, answered.fell_back) == ("second", True)
    assert isinstance(answered.error, BreakerOpen)
    assert answered.error.retry_after_s == 3
    assert "refused failed with BreakerOpen" in caplog.text


async def naive_fallback(primary: Any, fallback: Any) -> Any:
    try:
        return await primary()
    except Exception:
        return fallback()


def test_what_is_not_listed_comes_out_where_a_naive_one_hides_it() -> None:
    async def broken() -> str:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(with_fallback(broken, lambda: "second", on=BreakerOpen))
    assert asyncio.run(naive_fallback(broken, lambda: "second")) == "second"


def test_cancellation_is_no_reason_to_fall_back() -> None:
    async def main() -> None:
        task = asyncio.create_task(
            with_fallback(lambda: asyncio.sleep(60), lambda: None, on=Exception)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_fallback_that_fails_tells_both() -> None:
    def broken() -> str:
        raise OSError("no second either")

    with pytest.raises(OSError, match="no second") as caught:
        asyncio.run(with_fallback(refused, broken, on=BreakerOpen))
    assert isinstance(caught.value.__cause__, BreakerOpen)


@pytest.mark.parametrize("on", [(), "Exception", BaseException, (OSError, KeyboardInterrupt), None])
def test_what_cannot_be_listed(on: Any) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(with_fallback(best, lambda: "second", on=on))
