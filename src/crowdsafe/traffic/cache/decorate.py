"""A function whose answers are kept: the decorator form of ``get_or_run``."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from crowdsafe.traffic.cache.errors import CacheMisuse
from crowdsafe.traffic.cache.scope import Scope

__all__ = ["Cached", "cached_by"]

P = ParamSpec("P")
T = TypeVar("T")


class _Cache(Protocol):
    async def get_or_run(
        self,
        key: str,
        make: Callable[[], Awaitable[Any]],
        *,
        scope: Scope,
        ttl_s: float,
        stale_s: float = 0.0,
        timeout_s: float = 60.0,
    ) -> Any: ...

    async def forget(self, key: str, *, scope: Scope) -> None: ...


class Cached(Generic[P, T]):
    """An async function whose answers a cache keeps. ``await f(...)`` and ``await f.forget(...)``
    take the function's own arguments."""

    def __init__(
        self,
        cache: _Cache,
        fn: Callable[P, Awaitable[T]],
        key: Callable[P, str] | str,
        scope: Callable[P, Scope] | Scope,
        times: dict[str, float],
    ) -> None:
        functools.update_wrapper(self, fn)
        self.__wrapped__ = fn
        self._cache = cache
        self._prefix = f"{fn.__module__}.{fn.__qualname__}:"
        self._key = key
        self._scope = scope
        self._times = times

    def __set_name__(self, owner: type, name: str) -> None:
        raise CacheMisuse(f"{name} is a method: the decorator is for functions; use get_or_run")

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key, scope = self._address(*args, **kwargs)
        value: T = await self._cache.get_or_run(
            key, lambda: self.__wrapped__(*args, **kwargs), scope=scope, **self._times
        )
        return value

    async def forget(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the answer to these arguments."""
        key, scope = self._address(*args, **kwargs)
        await self._cache.forget(key, scope=scope)

    def _address(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, Scope]:
        key = self._key if isinstance(self._key, str) else self._key(*args, **kwargs)
        scope = self._scope if isinstance(self._scope, Scope) else self._scope(*args, **kwargs)
        return self._prefix + key, scope


def cached_by(
    cache: _Cache,
    key: Callable[P, str] | str,
    scope: Callable[P, Scope] | Scope,
    times: dict[str, float],
) -> Callable[[Callable[P, Awaitable[T]]], Cached[P, T]]:
    """The decorator behind ``cache.cached``."""
    return lambda fn: Cached(cache, fn, key, scope, times)
