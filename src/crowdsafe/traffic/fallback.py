"""A second-best answer when the best one cannot be had, and marked as such."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from crowdsafe.errors import ConfigError

__all__ = ["Answered", "with_fallback"]

log = logging.getLogger("crowdsafe.traffic")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """A value; whether it came from the fallback; and if so, the error that made it necessary."""

    value: T
    fell_back: bool = False
    error: Exception | None = None


async def with_fallback(
    primary: Callable[[], Awaitable[T]],
    fallback: Callable[[], T | Awaitable[T]],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
) -> Answered[T]:
    """Await ``primary()``; when it raises what ``on`` lists, take ``fallback()`` instead.

    Holds: an answer says whether it is the fallback's, and keeps the error, which is logged too;
    errors that are not listed, and cancellation, come out as they are. Does not hold: that the
    fallback works; what it raises comes out, with the first error as its cause.
    Proved by ``tests/traffic/test_fallback.py``.

    Raises ConfigError when ``on`` is not one Exception class or several.

    Example: ``await with_fallback(ask_model, offline_plan, on=(BreakerOpen, TimeoutError))``.
    """
    kinds = _checked(on)
    try:
        return Answered(await primary())
    except kinds as error:
        caught = error
    log.warning("%s failed with %r; the fallback answers", _name_of(primary), caught)
    try:
        value = fallback()
        if inspect.isawaitable(value):
            value = await value
    except Exception as error:
        raise error from caught
    return Answered(cast("T", value), fell_back=True, error=caught)


def _checked(on: Any) -> tuple[type[Exception], ...]:
    kinds = on if isinstance(on, tuple) else (on,)
    if not kinds or not all(
        isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds
    ):
        raise ConfigError("on is an Exception class, or several in a tuple")
    return kinds


def _name_of(fn: Any) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
