"""Who may make how many plans."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.systems.planner.models import Profile
from crowdsafe.writes import get_or_create
from crowdsafe.writes.rows import lock_row

__all__ = ["ensure_profile", "has_profile", "profile_of", "quota_key", "set_tier", "tier_of"]


def quota_key(user_id: int) -> str:
    """The name of a user's daily quota."""
    return f"planner:plans:{user_id}"


def profile_of(session: Session, user_id: int) -> Profile:
    """A user's profile, made on first use: tier free."""
    return get_or_create(session, Profile, {"tier": "free"}, user_id=user_id)[0]


@write(isolation="read committed")
def ensure_profile(session: Session, user_id: int) -> None:
    """Make a user's profile unless it is there."""
    profile_of(session, user_id)


def has_profile(session: Session, user_id: int) -> bool:
    """Whether a user has used the planner before."""
    return session.get(Profile, user_id) is not None


def tier_of(session: Session, user_id: int) -> str:
    """A user's tier; free before there is a profile."""
    return session.scalar(select(Profile.tier).where(Profile.user_id == user_id)) or "free"


def set_tier(
    session: Session, user_id: int, tier: str, *, event_at: datetime, event_id: str
) -> bool:
    """Give a user the tier of a payment event, unless a newer event was applied before.

    Of two events of the same moment the one with the greater id counts as newer, so that the
    outcome does not depend on the order of their arrival. Returns whether it was applied.
    """
    profile_of(session, user_id)
    profile = lock_row(session, Profile, user_id)
    if profile.tier_event_at is not None and (
        (event_at, event_id) < (profile.tier_event_at, profile.tier_event_id or "")
    ):
        return False
    profile.tier = tier
    profile.tier_event_at = event_at
    profile.tier_event_id = event_id
    return True
