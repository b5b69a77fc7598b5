"""What can go wrong between asking a cache and getting the value."""

from __future__ import annotations

from crowdsafe.errors import ConfigError, CrowdsafeError, Overloaded

__all__ = [
    "CacheMisuse",
    "CacheUnavailable",
    "ExecutionEnded",
    "ExecutionFailed",
    "ExecutionTimedOut",
    "NotJsonable",
    "ValueTooLarge",
]


class CacheMisuse(ConfigError):
    """A cache was used in a way that would hang or go wrong; the message says what to change."""

    problem_type = "cache-misuse"
    title = "Cache misused"


class ValueTooLarge(CrowdsafeError):
    """The value has more bytes than the cache takes; raise its `value_bytes_max`, or cache less."""

    problem_type = "value-too-large"
    title = "Value too large for the cache"


class NotJsonable(CrowdsafeError):
    """A cache that processes share holds what JSON can hold; return dicts, lists, text, numbers."""

    problem_type = "not-jsonable"
    title = "Value that JSON cannot hold"


class ExecutionTimedOut(CrowdsafeError):
    """The value was not made within `timeout_s`; the execution was cancelled, try again later."""

    status = 504
    problem_type = "execution-timed-out"
    title = "Took too long"


class ExecutionEnded(CrowdsafeError):
    """The execution was cancelled from outside, with nothing stored; try again."""

    status = 503
    problem_type = "execution-ended"
    title = "Execution cancelled"


class ExecutionFailed(CrowdsafeError):
    """The execution failed in another process; `error_type` names the error it raised there."""

    problem_type = "execution-failed"
    title = "Failed elsewhere"


class CacheUnavailable(Overloaded):
    """What is behind the cache does not answer; nothing was executed, try again shortly."""

    problem_type = "cache-unavailable"
    title = "Cache unavailable"
