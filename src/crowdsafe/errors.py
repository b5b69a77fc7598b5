"""Every error that crowdsafe raises: one root, and for each error what happened and what to do.

The docstring of a class is its default message. ``status`` is the HTTP status that a web
adapter answers with, ``problem_type`` the stable slug of its RFC 9457 problem type, and
``data`` what a client may see. This module imports nothing of crowdsafe.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AlreadyMoved",
    "BodyTooLarge",
    "BreakerOpen",
    "ConfigError",
    "Conflict",
    "CrowdsafeError",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "Forbidden",
    "ForbiddenTransition",
    "Insufficient",
    "InvalidInput",
    "KeyReused",
    "LeaseLost",
    "NoSlot",
    "NotAuthenticated",
    "NotFound",
    "OutcomeUnknown",
    "OverLimit",
    "Overloaded",
    "PreconditionRequired",
    "QueueFull",
    "QuotaExceeded",
    "RateLimited",
    "Refused",
    "ReservationEnded",
    "StaleVersion",
    "TooMany",
    "TooManyQueued",
    "TransactionMisuse",
]


class CrowdsafeError(Exception):
    """crowdsafe could not do this; the subclass says why and what to do."""

    status: ClassVar[int] = 500
    problem_type: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"

    def __init__(self, message: str | None = None, /, **data: Any) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or type(self).__name__)
        self.data: dict[str, Any] = data
        super().__init__(self.message)

    def __getattr__(self, name: str) -> Any:
        """Read a member of ``data`` as an attribute: ``error.available``."""
        data = self.__dict__.get("data")
        if data is not None and name in data:
            return data[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.data))

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which a repeat may work, or None where a repeat cannot help."""
        return self.data.get("retry_after_s")


def _rebuild(cls: type[CrowdsafeError], message: str, data: Mapping[str, Any]) -> CrowdsafeError:
    error = cls.__new__(cls)
    CrowdsafeError.__init__(error, message, **data)
    return error


class Refused(CrowdsafeError):
    """The operation is not allowed in the present state; nothing was changed."""

    status = 400
    problem_type = "refused"
    title = "Refused"


class Insufficient(Refused):
    """There is not enough left; ask for at most what `available` says."""

    problem_type = "insufficient"
    title = "Not enough available"


class OverLimit(Refused):
    """This would pass the ceiling; give back at most what `room` says."""

    problem_type = "over-limit"
    title = "Over the limit"


class AlreadyMoved(CrowdsafeError):
    """Someone moved this first; reload, and decide from the state in `current`."""

    status = 409
    problem_type = "already-moved"
    title = "Already moved"


class ForbiddenTransition(CrowdsafeError):
    """No edge leads from this state to that one; `allowed` lists the states that can follow."""

    status = 409
    problem_type = "forbidden-transition"
    title = "Transition not allowed"


class Conflict(CrowdsafeError):
    """Someone saved the same fields first; choose a value for each, then save again."""

    status = 409
    problem_type = "conflict"
    title = "Edit conflict"


class StaleVersion(CrowdsafeError):
    """The version that you started from is no longer the current one; reload and try again."""

    status = 409
    problem_type = "stale-version"
    title = "Stale version"


class LeaseLost(CrowdsafeError):
    """The lease ran out and someone else may hold it now; what was done under it was undone."""

    status = 409
    problem_type = "lease-lost"
    title = "Lease lost"


class ReservationEnded(CrowdsafeError):
    """This reservation was refunded or has expired; reserve anew."""

    status = 409
    problem_type = "reservation-ended"
    title = "Reservation ended"


class InvalidInput(CrowdsafeError):
    """The input is not valid; correct the named field and send it again."""

    status = 422
    problem_type = "invalid-input"
    title = "Invalid input"


class NotFound(CrowdsafeError):
    """There is no such thing, or you may not see it; check the identifier."""

    status = 404
    problem_type = "not-found"
    title = "Not found"


class KeyReused(CrowdsafeError):
    """This idempotency key was used with a different request; use a new key for a new request."""

    status = 422
    problem_type = "idempotency-key-reused"
    title = "Idempotency key reused"


class NotAuthenticated(CrowdsafeError):
    """You are not logged in, or the login has expired; log in and try again."""

    status = 401
    problem_type = "not-authenticated"
    title = "Not logged in"


class Forbidden(CrowdsafeError):
    """Your role does not allow this; ask someone whose role does."""

    status = 403
    problem_type = "forbidden"
    title = "Forbidden"


class PreconditionRequired(CrowdsafeError):
    """Say which version you started from: send it in an If-Match header."""

    status = 428
    problem_type = "precondition-required"
    title = "Version required"


class BodyTooLarge(CrowdsafeError):
    """The body is larger than is accepted here; send at most `limit_bytes` bytes."""

    status = 413
    problem_type = "body-too-large"
    title = "Body too large"


class TooMany(CrowdsafeError):
    """Too many requests at once; wait `retry_after_s` seconds and try again."""

    status = 429
    problem_type = "too-many"
    title = "Too many requests"


class RateLimited(TooMany):
    """This client has used up a rate limit; wait `retry_after_s` seconds and try again."""

    problem_type = "rate-limited"
    title = "Rate limit reached"


class QuotaExceeded(TooMany):
    """The quota of this period is used up; it is renewed at `resets_at`."""

    problem_type = "quota-exceeded"
    title = "Quota used up"


class NoSlot(TooMany):
    """As many as are allowed run already; wait until one has ended, then try again."""

    problem_type = "no-slot"
    title = "All slots taken"


class TooManyQueued(TooMany):
    """As many of your jobs as may wait do so already; wait until some are done, or cancel some."""

    problem_type = "too-many-queued"
    title = "Too many jobs waiting"


class Overloaded(CrowdsafeError):
    """More writes are waiting than the limit allows; nothing was done, try again shortly."""

    status = 503
    problem_type = "overloaded"
    title = "Overloaded"


class QueueFull(Overloaded):
    """The queue has no room for another job; nothing was stored, try again later."""

    problem_type = "queue-full"
    title = "Queue full"


class BreakerOpen(Overloaded):
    """The service behind this failed repeatedly and is left alone for `retry_after_s` seconds."""

    problem_type = "breaker-open"
    title = "Service failing"


class DeadlineExceeded(CrowdsafeError):
    """The deadline passed before the write could commit; nothing was done, try again."""

    status = 503
    problem_type = "deadline-exceeded"
    title = "Deadline exceeded"


class OutcomeUnknown(CrowdsafeError):
    """It is not known whether the write was committed; look, or repeat it under the same
    idempotency key."""

    status = 503
    problem_type = "outcome-unknown"
    title = "Outcome unknown"


class DatabaseUnavailable(CrowdsafeError):
    """The database does not answer; nothing was done, try again shortly."""

    status = 503
    problem_type = "database-unavailable"
    title = "Database unavailable"


class ConfigError(CrowdsafeError):
    """The configuration is wrong."""

    problem_type = "configuration"
    title = "Wrong configuration"


class TransactionMisuse(CrowdsafeError):
    """A write function must not begin, commit or roll back: the store does that after it returns.
    Raise an exception to undo the write."""

    problem_type = "transaction-misuse"
    title = "Transaction misuse"
