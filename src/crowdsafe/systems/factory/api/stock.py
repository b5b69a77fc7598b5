"""Stock over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from crowdsafe.errors import InvalidInput, NotFound
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.api.documented import (
    Cursor,
    Do,
    FilterId,
    Limit,
    PathId,
    allowed,
    answers,
)
from crowdsafe.systems.factory.errors import (
    AllocationMoved,
    InsufficientStock,
    OrderClosed,
    WrongClient,
)
from crowdsafe.systems.factory.operations import queries
from crowdsafe.systems.factory.operations.allocating import allocate_stock
from crowdsafe.systems.factory.operations.stock import (
    receive_stock,
    release_allocation,
)
from crowdsafe.web.fastapi import StoreDep, json_answer

router = APIRouter()
AllocationState = Literal["active", "released", "expired", "consumed"]


@router.get("/stock", summary="Stock by client and product", responses=answers(schemas.StockPage))
async def list_stock(
    store: StoreDep,
    client_id: FilterId = None,
    product_id: FilterId = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """`on_hand` can still be allocated; `reserved` is set aside and not yet delivered."""
    page = await store.read(
        queries.list_stock,
        client_id=client_id,
        product_id=product_id,
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.get(
    "/stock/{stock_id}/movements",
    summary="The ledger of one stock row",
    responses=answers(schemas.MovementPage, NotFound),
)
async def movements(
    stock_id: PathId, store: StoreDep, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Newest first. The quantities of all movements add up to on_hand."""
    page = await store.read(queries.stock_movements, stock_id, cursor=cursor, limit=limit)
    return json_answer(page)


@router.get(
    "/stock/allocations",
    summary="What is set aside",
    responses=answers(schemas.ReservationPage),
)
async def allocations(
    store: StoreDep,
    state: Annotated[AllocationState | None, Query()] = "active",
    order_id: FilterId = None,
    stock_id: FilterId = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Allocations of orders, and reservations with the time at which they expire."""
    page = await store.read(
        queries.list_allocations,
        state=state,
        order_id=order_id,
        stock_id=stock_id,
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.post(
    "/stock/receive",
    summary="Add received stock",
    status_code=201,
    responses=answers(schemas.Received, NotFound, InvalidInput, status=201),
)
async def receive(
    body: schemas.ReceiveStock,
    do: Annotated[Do, allowed("stock.receive")],
) -> Response:
    """Writes a receipt into the ledger; makes the stock row when it is the first."""
    return await do(
        receive_stock,
        status_code=201,
        product_id=body.product_id,
        client_id=body.client_id,
        quantity=body.quantity,
        reference=body.reference,
        actor=do.user,
    )


@router.post(
    "/stock/allocate",
    summary="Set stock aside",
    responses=answers(
        schemas.Allocated, InsufficientStock, WrongClient, NotFound, OrderClosed, InvalidInput
    ),
)
async def allocate(
    body: schemas.AllocateStock,
    do: Annotated[Do, allowed("stock.allocate")],
) -> Response:
    """For an order, or as a reservation that gives the stock back by itself after a while.

    400 `insufficient-stock` says in `available` how much could be had. Stock is never sold twice.
    """
    return await do(
        allocate_stock,
        product_id=body.product_id,
        client_id=body.client_id,
        quantity=body.quantity,
        order_reference=body.order_reference or None,
        actor=do.user,
    )


@router.post(
    "/stock/allocations/{allocation_id}/release",
    summary="Give an allocation's stock back",
    responses=answers(schemas.Released, NotFound, AllocationMoved),
)
async def release(
    allocation_id: PathId,
    do: Annotated[Do, allowed("stock.release")],
) -> Response:
    """Exactly once: a second release, a cancelled order or an expiry finds nothing to give."""
    return await do(release_allocation, allocation_id=allocation_id, actor=do.user)
