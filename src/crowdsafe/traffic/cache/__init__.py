"""Single-flight and cache in one: each value is made once, and everyone who asked gets it."""

from crowdsafe.traffic.cache.database import DatabaseCache
from crowdsafe.traffic.cache.errors import (
    CacheMisuse,
    CacheUnavailable,
    ExecutionEnded,
    ExecutionFailed,
    ExecutionTimedOut,
    NotJsonable,
    ValueTooLarge,
)
from crowdsafe.traffic.cache.in_process import InProcessCache
from crowdsafe.traffic.cache.scope import PUBLIC, Scope, for_user
from crowdsafe.traffic.cache.stats import CacheStats
from crowdsafe.traffic.cache.valkey import ValkeyCache

__all__ = [
    "PUBLIC",
    "CacheMisuse",
    "CacheStats",
    "CacheUnavailable",
    "DatabaseCache",
    "ExecutionEnded",
    "ExecutionFailed",
    "ExecutionTimedOut",
    "InProcessCache",
    "NotJsonable",
    "Scope",
    "ValkeyCache",
    "ValueTooLarge",
    "for_user",
]
