"""Orders and their invoices over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from crowdsafe.errors import (
    ForbiddenTransition,
    InvalidInput,
    NotFound,
    PreconditionRequired,
    StaleVersion,
)
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
    AlreadyInvoiced,
    EditConflict,
    ExceedsOrdered,
    ItemInvoiced,
    OrderClosed,
    StageMoved,
)
from crowdsafe.systems.factory.operations import queries
from crowdsafe.systems.factory.operations.editing import edit_order
from crowdsafe.systems.factory.operations.invoices import invoice_order
from crowdsafe.systems.factory.operations.orders import (
    cancel_order,
    create_order,
    delete_order,
    move_stage,
)
from crowdsafe.web.fastapi import (
    OptionalIfMatch,
    StoreDep,
    etag_of,
    json_answer,
)

router = APIRouter()
_EDIT_EXAMPLE = {
    "version": 7,
    "base": {"contact_name": "Jane Roe", "items.12.quantity": 4000},
    "changes": {"contact_name": "John Doe", "items.12.quantity": 5000},
}


def _order_headers(order: Any) -> Mapping[str, str]:
    return {
        "ETag": etag_of(order["version"]),
        "Location": f"/factory/api/orders/{order['id']}",
    }


def _etag(result: Any) -> Mapping[str, str]:
    return {"ETag": etag_of(result["version"])}


def _edited_etag(result: Any) -> Mapping[str, str]:
    return {"ETag": etag_of(result["order"]["version"])}


@router.get("/orders", summary="Orders, newest first", responses=answers(schemas.OrderPage))
async def list_orders(
    store: StoreDep,
    stage: schemas.AnyStage | None = None,
    client_id: FilterId = None,
    priority: schemas.Priority | None = None,
    open_only: Annotated[bool, Query(description="Neither cleared nor cancelled.")] = False,
    search: Annotated[
        schemas.Line, Query(description="In number, client, contact or purchase order.")
    ] = "",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Follow `next_cursor` for the next page."""
    page = await store.read(
        queries.list_orders,
        stage=stage,
        client_id=client_id,
        priority=priority,
        open_only=open_only,
        search=search,
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.post(
    "/orders",
    summary="Enter an order",
    status_code=201,
    responses=answers(schemas.Order, NotFound, InvalidInput, status=201),
)
async def create(
    body: schemas.NewOrder,
    do: Annotated[Do, allowed("order.create")],
) -> Response:
    """Its number follows the one before without a gap, and is never given again."""
    return await do(
        create_order,
        status_code=201,
        answer_headers=_order_headers,
        client_id=body.client_id,
        items=[item.model_dump() for item in body.items],
        priority=body.priority,
        due_date=body.due_date,
        contact_name=body.contact_name,
        purchase_order=body.purchase_order,
        delivery_address=body.delivery_address,
        notes=body.notes,
        actor=do.user,
    )


@router.get(
    "/orders/{order_id}",
    summary="One order with everything on it",
    responses=answers(schemas.Order, NotFound),
)
async def get_order(order_id: PathId, store: StoreDep) -> Response:
    """The ETag is the version: send it in If-Match with an edit."""
    order = await store.read(queries.get_order, order_id)
    return json_answer(order, headers={"ETag": etag_of(order["version"])})


@router.patch(
    "/orders/{order_id}",
    summary="Edit an order: three-way merge",
    responses=answers(
        schemas.Edited,
        EditConflict,
        OrderClosed,
        ItemInvoiced,
        NotFound,
        InvalidInput,
        PreconditionRequired,
    ),
)
async def edit(
    order_id: PathId,
    body: Annotated[
        schemas.EditOrder, Body(openapi_examples={"two fields": {"value": _EDIT_EXAMPLE}})
    ],
    do: Annotated[Do, allowed("order.edit")],
    if_match: OptionalIfMatch,
) -> Response:
    """What only one side changed is merged. A field that both changed is a 409 `edit-conflict`:
    `conflicts` has base, yours and theirs of each, with `version`, `by` and `at` of the other
    save. The version comes in If-Match or in the body.
    """
    return await do(
        edit_order,
        answer_headers=_edited_etag,
        order_id=order_id,
        base=body.base,
        changes=body.changes,
        version=_version(if_match, body.version),
        actor=do.user,
    )


@router.delete(
    "/orders/{order_id}",
    summary="Delete an order that was entered by mistake",
    responses=answers(schemas.Deleted, NotFound, OrderClosed, AlreadyInvoiced, StaleVersion),
)
async def delete(
    order_id: PathId,
    do: Annotated[Do, allowed("order.delete")],
    if_match: OptionalIfMatch,
) -> Response:
    """Only in stage order_entered; with If-Match only if nobody changed it.

    Its number stays used."""
    return await do(delete_order, order_id=order_id, version=if_match, actor=do.user)


@router.post(
    "/orders/{order_id}/stage",
    summary="Move an order to another stage",
    responses=answers(schemas.Moved, StageMoved, ForbiddenTransition, NotFound, InvalidInput),
)
async def stage(
    order_id: PathId,
    body: schemas.MoveStage,
    do: Annotated[Do, allowed("order.stage")],
) -> Response:
    """`from_stage` is what the caller saw: 409 `stage-moved` when somebody was first, with
    `current`, `by` and `at`. `{"from_stage": "winding", "move": "next"}` moves by one.
    """
    return await do(
        move_stage,
        answer_headers=_etag,
        order_id=order_id,
        from_stage=body.from_stage,
        to_stage=body.to_stage,
        move=body.move,
        note=body.note,
        actor=do.user,
    )


@router.post(
    "/orders/{order_id}/cancel",
    summary="Cancel an order and give its stock back",
    responses=answers(schemas.Cancelled, StageMoved, OrderClosed, AlreadyInvoiced, NotFound),
)
async def cancel(
    order_id: PathId,
    do: Annotated[Do, allowed("order.cancel")],
    body: schemas.Decision | None = None,
) -> Response:
    """The stock comes back exactly once; a second cancel is a 409 `stage-moved`."""
    return await do(
        cancel_order,
        answer_headers=_etag,
        order_id=order_id,
        note=body.note if body else "",
        actor=do.user,
    )


@router.post(
    "/orders/{order_id}/invoice",
    summary="Invoice an order, whole or in part",
    status_code=201,
    responses=answers(
        schemas.Invoice,
        AlreadyInvoiced,
        ExceedsOrdered,
        OrderClosed,
        NotFound,
        InvalidInput,
        status=201,
    ),
)
async def invoice(
    order_id: PathId,
    do: Annotated[Do, allowed("order.invoice")],
    body: schemas.InvoiceOrder | None = None,
) -> Response:
    """Without `items`: all that is not invoiced yet. When nothing is left: 409 `already-invoiced`
    with the first invoice's number in `invoice_number`.
    """
    parts = body.items if body else None
    return await do(
        invoice_order,
        status_code=201,
        answer_headers=lambda made: {"Location": f"/factory/api/invoices/{made['id']}"},
        order_id=order_id,
        items=None if parts is None else [part.model_dump() for part in parts],
        actor=do.user,
    )


@router.get("/invoices", summary="Invoices, newest first", responses=answers(schemas.InvoicePage))
async def list_invoices(
    store: StoreDep,
    order_id: FilterId = None,
    client_id: FilterId = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Follow `next_cursor` for the next page."""
    page = await store.read(
        queries.list_invoices,
        order_id=order_id,
        client_id=client_id,
        cursor=cursor,
        limit=limit,
    )
    return json_answer(page)


@router.get(
    "/invoices/{invoice_id}",
    summary="One invoice with its lines",
    responses=answers(schemas.Invoice, NotFound),
)
async def get_invoice(invoice_id: PathId, store: StoreDep) -> Response:
    """As it was issued; an invoice does not change."""
    return json_answer(await store.read(queries.get_invoice, invoice_id))


def _version(if_match: int | None, in_body: int | None) -> int:
    """The version from If-Match or from the body. Raises PreconditionRequired, InvalidInput."""
    if if_match is not None and in_body is not None and if_match != in_body:
        raise InvalidInput(
            f"If-Match says version {if_match}, the body says {in_body}; send one.",
            field="version",
        )
    version = if_match if if_match is not None else in_body
    if version is None:
        raise PreconditionRequired
    return version
