"""What the planner's routers share: the service, parameters, documented answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from crowdsafe.systems.planner.operations.queries import PAGE_MAX
from crowdsafe.systems.planner.schemas import ID_MAX
from crowdsafe.systems.planner.service import Planner
from crowdsafe.web.documented import answers
from crowdsafe.web.services import services_of

__all__ = ["Cursor", "JobId", "Limit", "PlanId", "PlannerDep", "answers", "planner_of"]

PlanId = Annotated[int, Path(ge=1, le=ID_MAX)]
JobId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Cursor = Annotated[
    int | None, Query(ge=0, le=ID_MAX, description="`next_cursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


def planner_of(request: Request) -> Planner:
    """The application's planner. Raises ConfigError for an application without one."""
    return services_of(request).part(Planner)


PlannerDep = Annotated[Planner, Depends(planner_of)]
