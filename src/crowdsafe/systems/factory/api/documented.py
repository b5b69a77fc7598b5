"""What the factory's routers share: who may call, how answers and refusals are documented."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel

from crowdsafe.errors import CrowdsafeError
from crowdsafe.identity import User
from crowdsafe.systems.factory.operations.queries import PAGE_MAX
from crowdsafe.systems.factory.permissions import PERMISSIONS
from crowdsafe.systems.factory.schemas import ID_MAX
from crowdsafe.web.fastapi import Do, doing
from crowdsafe.web.problem import MEDIA_TYPE, problem_of

PathId = Annotated[int, Path(ge=1, le=ID_MAX)]
FilterId = Annotated[int | None, Query(ge=1, le=ID_MAX)]
Cursor = Annotated[
    int | None, Query(ge=0, le=ID_MAX, description="`next_cursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


DoDep = Annotated[Do, doing()]


def allowed(operation: str) -> Any:
    """The dependency that gives ``Do`` to who may do this operation."""
    return doing(*PERMISSIONS[operation])


def answers(
    model: type[BaseModel] | Any, *errors: type[CrowdsafeError], status: int = 200
) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: the model of the answer, and an example of each problem."""
    documented: dict[int | str, dict[str, Any]] = {status: {"model": model}}
    for error in errors:
        problem = problem_of(error())
        entry = documented.setdefault(
            problem.status,
            {
                "description": error.title,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        examples = entry["content"][MEDIA_TYPE]["examples"]
        examples[error.problem_type] = {"summary": error.title, "value": problem.body}
    return documented


__all__ = ["Cursor", "Do", "DoDep", "FilterId", "Limit", "PathId", "User", "allowed", "answers"]
