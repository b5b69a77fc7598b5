"""What is left of a quota."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from crowdsafe.store.types import utcnow
from crowdsafe.traffic.keys import check_text
from crowdsafe.traffic.quota.periods import (
    KEY_LENGTH_MAX,
    LIMIT_MAX,
    Period,
    check_whole,
    period_of,
)
from crowdsafe.traffic.quota.rows import look

__all__ = ["QuotaState", "quota_state"]


@dataclass(frozen=True, slots=True)
class QuotaState:
    """Units of one quota in one period; ``left`` is None where there is no limit."""

    limit: int | None
    used: int
    reserved: int
    left: int | None


def quota_state(
    session: Session,
    key: str,
    period: str | Period,
    limit: int | None,
    *,
    now: datetime | None = None,
) -> QuotaState:
    """What is used, reserved and left; expired reservations do not count, swept or not.

    Only reads, in one statement. Does not hold for longer than the transaction: others reserve
    meanwhile. Proved by ``tests/traffic/test_quota.py``. Raises InvalidInput.
    """
    check_text("key", key, KEY_LENGTH_MAX)
    if limit is not None:
        check_whole("limit", limit, 0, LIMIT_MAX)
    session.flush()
    found = look(session.connection(), key, period_of(period).name, now or utcnow())
    used, reserved = (found.used, found.reserved - found.outdated) if found else (0, 0)
    left = None if limit is None else max(0, limit - used - reserved)
    return QuotaState(limit, used, reserved, left)
