"""Periods by name, and the checks of what callers pass."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from crowdsafe.errors import InvalidInput
from crowdsafe.store.types import utcnow
from crowdsafe.traffic import arguments

__all__ = ["AMOUNT_MAX", "EXPIRES_S_MAX", "LIMIT_MAX", "Period", "day", "hour", "month"]

AMOUNT_MAX = 1_000_000_000
LIMIT_MAX = 2**53 - 1
EXPIRES_S_MAX = 30 * 86_400
KEY_LENGTH_MAX = 200
ID_LENGTH_MAX = 80
_PERIOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,39}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time that a quota counts in: its name, and when it ends (None: never).

    The name is 1 to 40 of letters, digits and ``_.:+-``. Raises InvalidInput.
    """

    name: str
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.ends_at is not None and self.ends_at.tzinfo is None:
            raise InvalidInput("a period ends at a moment with a timezone", field="period")

    def left_s(self, now: datetime) -> float | None:
        """Seconds until the period ends, or None when it does not."""
        return None if self.ends_at is None else max(0.0, (self.ends_at - now).total_seconds())


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _PERIOD.fullmatch(name):
        raise InvalidInput(
            "a period's name is 1 to 40 of letters, digits and _.:+-", field="period"
        )


def hour(now: datetime | None = None) -> Period:
    """The hour in UTC that ``now`` is in: ``2026-11-22T14``."""
    start = _utc(now).replace(minute=0, second=0, microsecond=0)
    return Period(f"{start:%Y-%m-%dT%H}", start + timedelta(hours=1))


def day(now: datetime | None = None) -> Period:
    """The day in UTC that ``now`` is in: ``2026-11-22``."""
    start = _utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return Period(f"{start:%Y-%m-%d}", start + timedelta(days=1))


def month(now: datetime | None = None) -> Period:
    """The month in UTC that ``now`` is in: ``2026-11``."""
    start = _utc(now).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Period(f"{start:%Y-%m}", (start + timedelta(days=32)).replace(day=1))


def _utc(now: datetime | None) -> datetime:
    return utcnow() if now is None else now.astimezone(UTC)


def period_of(period: Any) -> Period:
    """A period that was passed by its name or as itself. Raises InvalidInput."""
    return period if isinstance(period, Period) else Period(period)


def check_whole(field: str, value: Any, lowest: int, highest: int) -> int:
    """A whole number in its limits. Raises InvalidInput."""
    return arguments.check_whole(field, value, lowest, highest, error=InvalidInput)


def check_expiry(expires_s: Any, now: datetime) -> datetime:
    """The moment ``expires_s`` seconds after ``now``. Raises InvalidInput."""
    arguments.check_number("expires_s", expires_s, 0, EXPIRES_S_MAX, above=True, error=InvalidInput)
    return now + timedelta(seconds=expires_s)
