"""Limits on what reaches a backend, and one answer for many callers: rate limits, slots, quotas,
the fair queue, caches, breakers, retries.

Each part states what it holds and what it does not. Importing this needs SQLAlchemy alone.
"""

from crowdsafe.traffic.cache import (
    PUBLIC,
    CacheMisuse,
    CacheStats,
    CacheUnavailable,
    ExecutionEnded,
    ExecutionFailed,
    ExecutionTimedOut,
    InProcessCache,
    NotJsonable,
    Scope,
    ValueTooLarge,
    for_user,
)
from crowdsafe.traffic.quota import (
    Period,
    QuotaState,
    Reservation,
    charge,
    day,
    expire_reservations,
    extend,
    forget_quotas,
    quota_state,
    refund,
    reserve,
)

__all__ = [
    "PUBLIC",
    "CacheMisuse",
    "CacheStats",
    "CacheUnavailable",
    "ExecutionEnded",
    "ExecutionFailed",
    "ExecutionTimedOut",
    "InProcessCache",
    "NotJsonable",
    "Period",
    "QuotaState",
    "Reservation",
    "Scope",
    "ValueTooLarge",
    "charge",
    "day",
    "expire_reservations",
    "extend",
    "for_user",
    "forget_quotas",
    "quota_state",
    "refund",
    "reserve",
]
