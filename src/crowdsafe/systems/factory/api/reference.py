"""Clients, products, and the live feed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.api.documented import (
    Do,
    allowed,
    answers,
)
from crowdsafe.systems.factory.errors import Duplicate
from crowdsafe.systems.factory.operations import catalogue, queries
from crowdsafe.systems.factory.operations.common import STAFF_TOPIC, TOPIC, employee_topic
from crowdsafe.systems.factory.permissions import sees_staff
from crowdsafe.web.fastapi import (
    CurrentUser,
    FeedDep,
    StoreDep,
    json_answer,
)
from crowdsafe.web.sse import event_stream

router = APIRouter()


@router.get("/clients", summary="Clients by name", responses=answers(list[schemas.Client]))
async def clients(store: StoreDep) -> Response:
    """At most 1000."""
    return json_answer(await store.read(queries.list_clients))


@router.post(
    "/clients",
    summary="Add a client",
    status_code=201,
    responses=answers(schemas.Client, Duplicate, status=201),
)
async def add_client(
    body: schemas.NewClient,
    do: Annotated[Do, allowed("client.add")],
) -> Response:
    """Names are unique."""
    return await do(catalogue.add_client, status_code=201, **body.model_dump())


@router.get("/products", summary="Products by code", responses=answers(list[schemas.Product]))
async def products(store: StoreDep) -> Response:
    """At most 1000. Prices are in cents without GST."""
    return json_answer(await store.read(queries.list_products))


@router.post(
    "/products",
    summary="Add a product",
    status_code=201,
    responses=answers(schemas.Product, Duplicate, status=201),
)
async def add_product(
    body: schemas.NewProduct,
    do: Annotated[Do, allowed("product.add")],
) -> Response:
    """Codes are unique."""
    return await do(catalogue.add_product, status_code=201, **body.model_dump())


@router.get(
    "/events",
    summary="Live changes as server-sent events",
    responses={
        200: {
            "description": "Events: order.changed, order.deleted, stock.changed, "
            "invoice.created, timesheet.changed, leave.changed; `resync` when some were missed.",
            "content": {"text/event-stream": {}},
        }
    },
)
async def events(request: Request, store: StoreDep, hub: FeedDep, user: CurrentUser) -> Response:
    """Resumes after `Last-Event-ID`. Timesheets and leave: your own, or all for managers."""
    topics = [TOPIC]
    if sees_staff(user.roles):
        topics.append(STAFF_TOPIC)
    else:
        employee_id = await store.read(queries.employee_id_of, user.username)
        if employee_id is not None:
            topics.append(employee_topic(employee_id))
    return event_stream(request, hub, topics)
