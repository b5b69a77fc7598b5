"""Which database errors mean "run it again", and how long to wait first."""

from __future__ import annotations

import enum
import logging
import random
import re
import time

from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import exc as orm_exc

from crowdsafe.errors import (
    ConfigError,
    CrowdsafeError,
    DatabaseUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    Overloaded,
    StaleVersion,
)
from crowdsafe.store.settings import Settings

__all__ = ["Failure", "Losses", "LostRace", "classify", "may_run_alone", "timed_out", "told"]

log = logging.getLogger("crowdsafe.store")
_CONFLICT_STATES = frozenset({"40001", "40P01", "55P03"})
_LOST_CONNECTION_STATES = frozenset({"57P01", "57P02", "57P03", "53300"})
_SQLITE_BUSY, _SQLITE_LOCKED = 5, 6
_TIMED_OUT = {
    "57014": "a statement ran past statement_timeout_s or the deadline and was cancelled; "
    "nothing was done",
    "25P03": "the function was busy between two statements for longer than deadline_s + grace_s, "
    "and PostgreSQL ended its transaction; nothing was done. Do slow calls before or after it",
}
_NO_TABLE = "42P01"
_SQLITE_FULL, _DISK_FULL = 13, "53100"
_OWN_TABLE = re.compile(r"\bcrowdsafe_\w+")


class LostRace(StaleVersion):
    """Raised inside a write to have it run again from the start: someone else came first."""


class Failure(enum.Enum):
    """What an error that came out of a write means for the write."""

    CONFLICT = "ran into another writer: run again"
    DISCONNECT = "the database went away before the commit: run again"
    BUSY = "no connection was free in time"
    FINAL = "the write's own failure"


def classify(error: BaseException) -> Failure:
    """Tell whether a write that failed with ``error`` may be run again."""
    if isinstance(error, LostRace | orm_exc.StaleDataError):
        return Failure.CONFLICT
    if isinstance(error, sa_exc.TimeoutError):
        return Failure.BUSY
    driver = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    code = getattr(driver, "sqlite_errorcode", None)
    if code is not None and (code & 0xFF) in (_SQLITE_BUSY, _SQLITE_LOCKED):
        return Failure.CONFLICT
    state = getattr(driver, "sqlstate", None)
    if state in _CONFLICT_STATES:
        return Failure.CONFLICT
    if state in _LOST_CONNECTION_STATES or (state or "").startswith("08"):
        return Failure.DISCONNECT
    if isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated:
        return Failure.DISCONNECT
    if state is None and type(driver).__module__.startswith("psycopg"):
        lost = type(driver).__name__ in ("OperationalError", "ConnectionTimeout")
        return Failure.DISCONNECT if lost else Failure.FINAL
    return Failure.FINAL


def may_run_alone(error: BaseException) -> bool:
    """Whether writes whose common transaction failed with ``error`` may each run alone: one of them
    failed for itself, and nothing was stored."""
    return classify(error) is Failure.FINAL and not isinstance(error, OutcomeUnknown)


class Losses:
    """The attempts of one write: how many were lost, whether to go on, how long to wait.

    Full jitter: each wait is uniform in 0..min(cap, base * 2**losses), the rule of Marc Brooker's
    "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    def __init__(self, settings: Settings, deadline: float, count: int = 0) -> None:
        self._settings = settings
        self._deadline = deadline
        self.count = count

    @property
    def escalate(self) -> bool:
        """Whether the next attempt should run alone behind a lock."""
        return self.count >= self._settings.escalate_after

    def after(self, error: BaseException) -> float:
        """Seconds to wait before the next attempt.

        Raises ``error`` as it is ``told`` when it is the write's own failure, Overloaded when no
        connection was free, and DeadlineExceeded or DatabaseUnavailable when time or attempts ran
        out.
        """
        failure = classify(error)
        if failure is Failure.FINAL or timed_out(error) is not None:
            raise told(error)
        if failure is Failure.BUSY:
            raise Overloaded(
                "no database connection was free in time; nothing was done, try again shortly",
                retry_after_s=1,
            ) from error
        self.count += 1
        settings = self._settings
        wait_s = random.uniform(
            0, min(settings.backoff_cap_s, settings.backoff_base_s * 2.0**self.count)
        )
        over = time.monotonic() + wait_s >= self._deadline
        if over or self.count >= settings.attempts_max:
            raise self._given_up(failure) from error
        return wait_s

    def _given_up(self, failure: Failure) -> CrowdsafeError:
        if failure is Failure.DISCONNECT:
            return DatabaseUnavailable(retry_after_s=2)
        return DeadlineExceeded(
            f"the write ran into other writers {self.count} times before its deadline; "
            "nothing was done, try again",
            retry_after_s=1,
            attempts=self.count,
        )


def timed_out(error: BaseException) -> DeadlineExceeded | None:
    """The error for what PostgreSQL ended for its length, else None: a statement, or a transaction
    whose function did something else for too long."""
    driver = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    message = _TIMED_OUT.get(getattr(driver, "sqlstate", None) or "")
    if message is None:
        return None
    late = DeadlineExceeded(message, retry_after_s=1)
    late.__cause__ = error
    return late


def told(error: BaseException) -> BaseException:
    """A write's own failure as its caller is told of it: with what to do, where that is known."""
    return timed_out(error) or _missing_table(error) or _no_room(error) or error


def _missing_table(error: BaseException) -> ConfigError | None:
    """The error for a table of crowdsafe's that nobody has made, else None."""
    driver = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    said = str(driver).partition("\n")[0]
    if getattr(driver, "sqlstate", None) != _NO_TABLE and "no such table" not in said:
        return None
    found = _OWN_TABLE.search(said)
    if found is None:
        return None
    missing = ConfigError(
        f"the table {found[0]} is missing: call create_all() of the store once, after the parts "
        "that use it are imported"
    )
    missing.__cause__ = error
    return missing


def _no_room(error: BaseException) -> DatabaseUnavailable | None:
    """The error for a database whose disk is full, else None; logged for who can make room."""
    driver = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    full = getattr(driver, "sqlite_errorcode", None) == _SQLITE_FULL
    if not full and getattr(driver, "sqlstate", None) != _DISK_FULL:
        return None
    log.error("a write is refused: %s", driver)
    refused = DatabaseUnavailable(
        "the disk that the database is on is full; nothing was done. Make room there, then try "
        "again",
        retry_after_s=5,
    )
    refused.__cause__ = error
    return refused
