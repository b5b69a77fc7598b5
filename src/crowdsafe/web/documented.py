"""How a system's routers tell OpenAPI what they answer and refuse."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from crowdsafe.errors import CrowdsafeError
from crowdsafe.web.problem import MEDIA_TYPE, problem_of

__all__ = ["answers"]


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
