"""Payment events over HTTP: the signed webhook, and what an administrator does with the rest."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from crowdsafe.errors import BodyTooLarge, Forbidden, InvalidInput, NotFound
from crowdsafe.identity import User
from crowdsafe.systems.planner import schemas
from crowdsafe.systems.planner.api.common import PlannerDep, answers
from crowdsafe.systems.planner.errors import (
    AlreadyAssigned,
    BadSignature,
    EventReused,
    PaymentsNotConfigured,
)
from crowdsafe.systems.planner.operations.payments import (
    assign_event,
    list_events,
    receive_event,
)
from crowdsafe.systems.planner.payments import (
    BODY_BYTES_MAX,
    HEADER,
    PaymentNews,
    check_signature,
    parse_event,
)
from crowdsafe.web.fastapi import StoreDep, json_answer, require

__all__ = ["router"]

router = APIRouter()
Admin = Annotated[User, Depends(require("admin"))]
_DOCUMENTED: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "required": True,
            "schema": {"type": "string"},
            "description": "`t=<unix seconds>,v1=<hex>`: HMAC-SHA256 of `<t>.<raw body>`.",
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": PaymentNews.model_json_schema()}},
    },
}


@router.post(
    "/payments/webhook",
    summary="Take a payment event",
    responses=answers(
        schemas.Payment,
        BadSignature,
        InvalidInput,
        EventReused,
        BodyTooLarge,
        PaymentsNotConfigured,
    ),
    openapi_extra=_DOCUMENTED,
)
async def webhook(request: Request, planner: PlannerDep, store: StoreDep) -> Response:
    """Signed, not logged in. One effect for each event id, however often it is delivered; an
    older event never undoes a newer one; an unknown payer is parked. Committed when answered."""
    settings = planner.settings
    if settings.payment_secret is None:
        raise PaymentsNotConfigured
    body = await request.body()
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLarge(limit_bytes=BODY_BYTES_MAX)
    check_signature(
        settings.payment_secret,
        request.headers.get(HEADER),
        body,
        now=time.time(),
        tolerance_s=settings.payment_tolerance_s,
    )
    return json_answer(await store.write(receive_event, parse_event(body)))


@router.get(
    "/payments", summary="Payment events", responses=answers(list[schemas.Payment], Forbidden)
)
async def payments(
    store: StoreDep,
    _admin: Admin,
    state: Annotated[Literal["applied", "superseded", "parked"] | None, Query()] = None,
) -> Response:
    """The latest 100, for administrators."""
    return json_answer(await store.read(list_events, state=state))


@router.post(
    "/payments/{event_id:path}/assign",
    summary="Say whose a parked payment is",
    responses=answers(schemas.Payment, Forbidden, NotFound, AlreadyAssigned),
)
async def assign(
    event_id: Annotated[str, Path(max_length=200)],
    body: schemas.Assign,
    store: StoreDep,
    admin: Admin,
) -> Response:
    """For administrators. The event is applied as if its payer had been known."""
    view = await store.write(assign_event, event_id, username=body.username, by=admin.username)
    return json_answer(view)
