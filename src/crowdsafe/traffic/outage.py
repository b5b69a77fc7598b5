"""Whether an error says that a database or a server is away, or that the program is wrong."""

from __future__ import annotations

from sqlalchemy import exc as sa_exc

from crowdsafe.errors import CrowdsafeError
from crowdsafe.store.retry import Failure, classify

__all__ = ["is_outage"]

_LIBRARIES = frozenset({"valkey", "redis"})
_SQLITE_ERROR = 1  # wrong SQL, a missing table
# Too few resources, operator intervention, system error; a server that became read-only.
_AWAY_STATES = ("53", "57", "58", "25006")


def is_outage(error: BaseException) -> bool:
    """Whether it may work later, as it is: nothing answered, in time or at all, or was full.

    A wrong type, wrong SQL or a missing table is none, and must come out.
    """
    if isinstance(error, CrowdsafeError):
        return error.status == 503
    if isinstance(error, OSError) or classify(error) is not Failure.FINAL:
        return True
    if _of_library(error):
        return not any(cls.__name__ == "DataError" for cls in type(error).__mro__)
    if isinstance(error, RuntimeError):  # how uvloop says that a connection broke just before
        return "the handler is closed" in str(error)
    driver = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    state = getattr(driver, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_AWAY_STATES)
    code = getattr(driver, "sqlite_errorcode", None)
    operational = type(driver).__name__ == "OperationalError"
    return code is not None and operational and (code & 0xFF) != _SQLITE_ERROR


def _of_library(error: BaseException) -> bool:
    return any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(error).__mro__)
