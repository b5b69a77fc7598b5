"""Checks of what callers pass: each error names the argument, what was given, and the fix."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from crowdsafe.errors import ConfigError, CrowdsafeError, InvalidInput
from crowdsafe.store.stores import AsyncStore, Store

__all__ = [
    "check_async_store",
    "check_callable",
    "check_client",
    "check_number",
    "check_store",
    "check_whole",
    "not_async",
    "wrong_input",
]

_LIBRARIES = frozenset({"valkey", "redis"})


def check_store(what: str, store: Any) -> Any:
    """A store, of whichever kind. Raises ConfigError."""
    if not isinstance(store, AsyncStore | Store):
        raise ConfigError(f"{what} takes an AsyncStore or a Store, not {_kind(store)}")
    return store


def check_async_store(what: str, store: Any) -> Any:
    """An AsyncStore. Raises ConfigError."""
    if not isinstance(store, AsyncStore):
        raise ConfigError(f"{what} takes an AsyncStore, not {_kind(store)}; open AsyncStore(url)")
    return store


def check_client(what: str, client: Any) -> Any:
    """An asyncio client of Valkey or Redis, or what looks like one. Raises ConfigError."""
    modules = [cls.__module__.split(".") for cls in type(client).__mro__]
    of_library = any(module[0] in _LIBRARIES for module in modules)
    is_async = any(module[0] in _LIBRARIES and module[1:2] == ["asyncio"] for module in modules)
    if not callable(getattr(client, "evalsha", None)) or (of_library and not is_async):
        raise ConfigError(
            f"{what} takes an asyncio client, not {_kind(client)}; make it with "
            "valkey.asyncio.Valkey.from_url(url)"
        )
    return client


def check_callable(what: str, value: Any) -> Any:
    """A function. Raises ConfigError."""
    if not callable(value):
        raise ConfigError(f"{what} is {value!r}; it must be a function")
    return value


def check_number(
    what: str,
    value: Any,
    low: float,
    high: float,
    *,
    above: bool = False,
    error: type[CrowdsafeError] = ConfigError,
) -> float:
    """A number from ``low`` (with ``above``: above it) to ``high``. Raises ``error``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (above and value == low):
        least = f"above {low:g}" if above else f"at least {low:g}"
        raise _wrong(error, what, f"{what} is {value!r}; it must be {least} and at most {high:g}")
    return float(value)


def check_whole(
    what: str, value: Any, low: int, high: int, *, error: type[CrowdsafeError] = ConfigError
) -> int:
    """A whole number from ``low`` to ``high``. Raises ``error``."""
    if type(value) is not int or not low <= value <= high:
        raise _wrong(
            error, what, f"{what} is {value!r}; it must be a whole number from {low} to {high}"
        )
    return value


def not_async(given: Any) -> ConfigError:
    """The error for what was given, or came back, in place of an async function."""
    if inspect.iscoroutine(given):
        given.close()
        return ConfigError(
            f"pass the async function itself, not what {given.__qualname__}(...) gives; for "
            f"arguments write lambda: {given.__qualname__}(...)"
        )
    return ConfigError(f"an async function is needed here; this one is or gives {given!r}")


def wrong_input(field: str, value: Any, known: Iterable[str]) -> InvalidInput:
    """The error for a value that is none of those that are known."""
    return InvalidInput(f"{field} is {value!a}; it must be one of {', '.join(known)}", field=field)


def _wrong(error: type[CrowdsafeError], what: str, message: str) -> CrowdsafeError:
    return error(message, field=what) if issubclass(error, InvalidInput) else error(message)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"
