"""Functions that count as operations when a test calls them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from crowdsafe.find.targets.functions import FunctionOperation, call

__all__ = ["listen", "operation"]

F = TypeVar("F", bound=Callable[..., Any])

_heard: list[Callable[[str, FunctionOperation, Any], None]] = []


def operation(function: F) -> F:
    """Mark a function, sync or async, as something that users do at once.

    It is called as ever. Under ``pytest --find-races`` each call that a test makes is first tried
    with itself and with what the test did before; its arguments must bear to be used again.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def marked_async(*args: Any, **kwargs: Any) -> Any:
            _tell(function, args, kwargs)
            return await function(*args, **kwargs)

        return marked_async  # type: ignore[return-value]

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        _tell(function, args, kwargs)
        return function(*args, **kwargs)

    return marked  # type: ignore[return-value]


def listen(hear: Callable[[str, FunctionOperation, Any], None]) -> Callable[[], None]:
    """Be told of each call of a marked function, before it runs; returns what ends it."""
    _heard.append(hear)
    return lambda: _heard.remove(hear)


def _tell(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    for hear in _heard:
        hear("CALL", FunctionOperation(call(function, *args, **kwargs)), function)
