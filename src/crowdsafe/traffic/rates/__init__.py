"""Rate limits that are exact in any window: in one process, in the database, in Valkey."""

from crowdsafe.traffic.rates.database import DatabaseLimiter, check_rate
from crowdsafe.traffic.rates.in_process import InProcessLimiter, as_async
from crowdsafe.traffic.rates.rate import Decision, Limiter, Rate
from crowdsafe.traffic.rates.valkey import ValkeyLimiter

__all__ = [
    "DatabaseLimiter",
    "Decision",
    "InProcessLimiter",
    "Limiter",
    "Rate",
    "ValkeyLimiter",
    "as_async",
    "check_rate",
]
