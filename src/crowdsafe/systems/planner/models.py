"""The planner's tables.

A plan is one unit of its owner's daily quota, whoever made it and however: the row and the charge
commit together (``operations/finishing.py``). Jobs, quotas, breakers and events live in the tables
of the rooms that do them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from crowdsafe.store.types import BigId, Json, UtcDateTime, utcnow

__all__ = [
    "SYSTEM_USER_ID",
    "PaymentEvent",
    "Plan",
    "PlannerBase",
    "Profile",
    "SavedSection",
    "Sharer",
    "metadata",
]

SYSTEM_USER_ID = 0
"""Who owns the plans that nobody asked for; no login has this id."""


class PlannerBase(DeclarativeBase):
    """Base of the tables named ``planner_*``."""


metadata = PlannerBase.metadata


class Profile(PlannerBase):
    """A user's tier, and which payment event it came from: only a newer one may change it."""

    __tablename__ = "planner_profiles"
    __table_args__ = (
        CheckConstraint("tier IN ('free', 'pro', 'pro_plus')", name="ck_planner_profiles_tier"),
    )

    user_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    tier: Mapped[str] = mapped_column(String(20), default="free")
    tier_event_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    tier_event_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Plan(PlannerBase):
    """A finished plan, never changed; ``body`` is what every answer about it says.

    ``flight`` names who may share it: see ``operations/submitting.py``.
    """

    __tablename__ = "planner_plans"
    __table_args__ = (
        Index("ix_planner_plans_flight", "flight", "created_at"),
        Index("ix_planner_plans_user", "user_id", "id"),
        CheckConstraint("audience IN ('private', 'public')", name="ck_planner_plans_audience"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(BigId)
    flight: Mapped[str] = mapped_column(String(120))
    audience: Mapped[str] = mapped_column(String(10))
    business_type: Mapped[str] = mapped_column(String(100))
    idea: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(20))
    calls: Mapped[int] = mapped_column(Integer)
    request: Mapped[dict[str, Any]] = mapped_column(Json)
    body: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class SavedSection(PlannerBase):
    """What one finished section of a running job holds, so that a second run need not pay again."""

    __tablename__ = "planner_saved_sections"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    section: Mapped[str] = mapped_column(String(60), primary_key=True)
    body: Mapped[Any] = mapped_column(Json)
    saved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Sharer(PlannerBase):
    """A user who asked for the public plan of another's job: they may follow and read it.

    ``joined_at`` is None once the plan is there; a row of a job without a plan is forgotten.
    """

    __tablename__ = "planner_sharers"
    __table_args__ = (Index("ix_planner_sharers_joined", "joined_at"),)

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    joined_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=utcnow)


class PaymentEvent(PlannerBase):
    """A payment event that was delivered with a good signature; one row however often it came.

    ``state``: applied, superseded (a newer one was applied before), parked (nobody knows the
    payer; an administrator assigns it).
    """

    __tablename__ = "planner_payment_events"
    __table_args__ = (
        Index("ix_planner_payment_events_state", "state", "received_at"),
        CheckConstraint(
            "state IN ('applied', 'superseded', 'parked')", name="ck_planner_payment_events_state"
        ),
    )

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    type: Mapped[str] = mapped_column(String(40))
    payer: Mapped[str] = mapped_column(String(200))
    tier: Mapped[str] = mapped_column(String(20))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(20))
    user_id: Mapped[int | None] = mapped_column(BigId)
    assigned_by: Mapped[str | None] = mapped_column(String(64))
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
