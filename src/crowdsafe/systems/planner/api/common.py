"""What the planner's routers share: the service, parameters, documented answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel

from crowdsafe.errors import CrowdsafeError
from crowdsafe.systems.planner.operations.queries import PAGE_MAX
from crowdsafe.systems.planner.schemas import ID_MAX
from crowdsafe.systems.planner.service import Planner
from crowdsafe.web.problem import MEDIA_TYPE, problem_of
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


def answers(
    model: type[BaseModel] | Any, *errors: type[CrowdsafeError], status: int = 200
) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: the model of the answer, and an example of each problem."""
    documented: dict[int | str, dict[str, Any]] = {status: {"model": model}}
    for error in errors:
        problem = problem_of(error())
        schema = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        entry = documented.setdefault(
            problem.status, {"description": error.title, "content": {MEDIA_TYPE: schema}}
        )
        examples = entry["content"][MEDIA_TYPE]["examples"]
        examples[error.problem_type] = {"summary": error.title, "value": problem.body}
    return documented
