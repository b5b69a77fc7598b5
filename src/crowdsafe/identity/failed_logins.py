"""Wrong passwords, counted: who has sent many for one user from one address has to wait.

Only failures count, so that a crowd may log in at once as one user from one address.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from crowdsafe.errors import RateLimited
from crowdsafe.traffic.rates import Rate, check_rate
from crowdsafe.traffic.rates.database import peek_rate

__all__ = ["count_failure", "refuse_guesser"]

RATE = Rate(limit=10, window_s=60.0)
_NAME = "crowdsafe.failed-logins"


def refuse_guesser(session: Session, username: str, address: str) -> None:
    """Raise RateLimited when that address has failed ten times a minute to log in as this user."""
    decision = peek_rate(session, RATE, name=_NAME, key=_key(username, address))
    if not decision.allowed:
        raise RateLimited(
            "Too many wrong passwords for this user were sent from here; wait "
            f"{max(1.0, decision.retry_after_s):.0f} seconds and try again.",
            retry_after_s=decision.retry_after_s,
        )


def count_failure(session: Session, username: str, address: str) -> None:
    """Count one; in a write of its own."""
    check_rate(session, RATE, name=_NAME, key=_key(username, address))


def _key(username: str, address: str) -> str:
    return f"{username} {address[:100]}"
