"""What the factory's routers share: who may call, how answers and refusals are documented."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from crowdsafe.identity import User
from crowdsafe.systems.factory.operations.queries import PAGE_MAX
from crowdsafe.systems.factory.permissions import PERMISSIONS
from crowdsafe.systems.factory.schemas import ID_MAX
from crowdsafe.web.documented import answers
from crowdsafe.web.fastapi import Do, doing

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


__all__ = ["Cursor", "Do", "DoDep", "FilterId", "Limit", "PathId", "User", "allowed", "answers"]
