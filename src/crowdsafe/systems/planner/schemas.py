"""What the planner's HTTP API gives, as pydantic models; ``request.PlanRequest`` is what it takes.

Times are ISO 8601 in UTC, waits and limits in seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crowdsafe.systems.planner.generation.sections import Section, SectionName, Source

__all__ = [
    "ID_MAX",
    "Assign",
    "JobBody",
    "LimitsBody",
    "Payment",
    "PlanBody",
    "PlanPage",
    "ProfileBody",
    "QueueBody",
    "Queued",
    "Starter",
]

ID_MAX = 2**53

Tier = Literal["free", "pro", "pro_plus"]
State = Literal["queued", "running", "done", "failed", "cancelled"]


class Queued(BaseModel):
    """The job that will make the plan: follow ``events`` or ask ``status_url`` again."""

    job_id: str
    state: State
    position: Annotated[int | None, Field(description="Jobs before it; 0: it runs or is next.")]
    estimated_wait_s: float | None
    events: str
    status_url: str


class JobBody(Queued):
    """A job; ``progress`` has the state of each section once it runs."""

    progress: dict[str, Any]
    plan_id: int | None
    cancel_requested: bool
    attempts: int
    idea: str
    business_type: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    last_event_id: int = 0


class PlanBody(BaseModel):
    """A plan: the same for everyone who asked for the same. Money in whole units of currency."""

    plan_id: int
    created_at: str
    request: dict[str, Any]
    title: str
    pitch: str
    currency: str
    sections: dict[SectionName, Section]
    source: Annotated[Source, Field(description="`offline` and `mixed` say what no model wrote.")]
    model: str | None
    calls: int


class PlanSummary(BaseModel):
    """A plan in a list."""

    plan_id: int
    idea: str
    business_type: str
    audience: Literal["private", "public"]
    source: Source
    created_at: str


class PlanPage(BaseModel):
    """Plans, newest first; ``next_cursor`` leads to the older ones."""

    items: list[PlanSummary]
    next_cursor: int | None


class QuotaBody(BaseModel):
    """Units of today (UTC): ``limit`` and ``left`` are null where there is no limit."""

    limit: int | None
    used: int
    reserved: int
    left: int | None
    resets_at: str | None
    resets_in_s: int


class UserLimits(BaseModel):
    """What one user may have at once."""

    running_max: int
    queued_max: int


class ProfileBody(BaseModel):
    """What a user may still do today, and what of theirs runs and waits."""

    user_id: int
    tier: Tier
    quota: QuotaBody
    limits: UserLimits
    running: int
    queued: int


class LimitsBody(BaseModel):
    """Every limit that a request for a plan can meet, in the order in which they are looked at."""

    ip_rate: str
    per_day: dict[Tier, int | None]
    running_per_user: int
    queued_per_user: int
    running: int
    queued: int
    answer_within_s: float
    plan_fresh_s: float
    upstream: Literal["configured", "simulated", "none"]


class QueueBody(BaseModel):
    """The queue by user, for operators."""

    model_config = ConfigDict(extra="allow")

    queued: int
    running: int


class Payment(BaseModel):
    """A payment event and what became of it."""

    id: str
    type: str
    payer: str
    tier: Tier
    at: str
    state: Literal["applied", "superseded", "parked"]
    duplicate: bool = False


class Assign(BaseModel):
    """Whose a parked payment event is."""

    model_config = ConfigDict(extra="forbid")

    username: Annotated[str, Field(min_length=1, max_length=64)]


class Starter(BaseModel):
    """A ready-made request to start from; sent as it is, it shares one public plan."""

    model_config = ConfigDict(extra="allow")

    business_type: str
    idea: str
