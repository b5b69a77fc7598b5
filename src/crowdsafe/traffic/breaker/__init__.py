"""Circuit breakers: leave a failing service alone, and ask it with one call whether it is back."""

from crowdsafe.traffic.breaker.database import DatabaseBreaker
from crowdsafe.traffic.breaker.guard import Breaker, BreakerState, InProcessBreaker
from crowdsafe.traffic.breaker.settings import BreakerSettings
from crowdsafe.traffic.breaker.valkey import ValkeyBreaker

__all__ = [
    "Breaker",
    "BreakerSettings",
    "BreakerState",
    "DatabaseBreaker",
    "InProcessBreaker",
    "ValkeyBreaker",
]
