"""Plain functions of the target as operations, sync or async."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer, Reply
from crowdsafe.find.targets.messages import fault_of
from crowdsafe.find.targets.plain import plain

__all__ = ["Call", "FunctionOperation", "call", "call_of"]


@dataclass(frozen=True, slots=True)
class Call:
    """A function with what it is called with. ``reference`` is ``module:function`` where that
    names it, so that another process can call it too."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    reference: str | None = None


def call(
    function: Callable[..., Any], /, *args: Any, name: str | None = None, **kwargs: Any
) -> Call:
    """One operation: ``call(allocate, 1, 80)``, sync or async. Raises ConfigError."""
    if not callable(function):
        raise ConfigError(f"{function!r} is not a function: pass the function, not its result")
    inner = inspect.unwrap(_bare(function))
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError(f"{_name(function)} is a generator: an operation is a plain function")
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(
            f"{_name(function)} cannot be called so ({error}): write call(function, its arguments)"
        ) from None
    except ValueError:
        pass  # a builtin that has no signature
    shown = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    reference = None if args or kwargs else _reference(function)
    return Call(function, args, kwargs, name or _name(function) + f"({shown})", reference)


def call_of(function: Callable[..., Any] | Call) -> Call:
    return function if isinstance(function, Call) else call(function)


def _bare(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        return type(function).__call__
    return function


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name.rpartition("<locals>.")[2]


def _reference(function: Any) -> str | None:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    held: Any = sys.modules.get(module or "")
    for part in name.split("."):
        held = getattr(held, part, None)
    return f"{module}:{name}" if held is function else None


class FunctionOperation:
    """Runs a function; what it returns or raises is its one reply."""

    def __init__(self, target: Call) -> None:
        self.call = target
        self.name = target.name
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(_bare(target.function)))

    def run(self, limit: int | None = None) -> Answer:
        if limit == 0:
            return Answer()
        try:
            return self._answer(self.call.function(*self.call.args, **self.call.kwargs))
        except (Exception, SystemExit) as error:
            return self._failed(error)

    async def run_async(self, limit: int | None = None) -> Answer:
        if limit == 0:
            return Answer()
        try:
            return self._answer(await self.call.function(*self.call.args, **self.call.kwargs))
        except (Exception, SystemExit) as error:
            return self._failed(error)

    def _answer(self, result: Any) -> Answer:
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigError(
                f"{self.name} gives a coroutine but is not async: write call(function, arguments) "
                "instead of a lambda"
            )
        return Answer([Reply(self.name, body=plain(result))])

    def _failed(self, error: BaseException) -> Answer:
        fault = fault_of(error)
        reply = Reply(self.name, error=fault.error, message=fault.message, sqlstate=fault.sqlstate)
        return Answer([reply], stopped_at=0)
