"""The factory's pages over HTTP: real data at first paint, and the feed's position beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from crowdsafe.feed import head
from crowdsafe.identity import User
from crowdsafe.systems.factory.api.documented import PathId
from crowdsafe.systems.factory.pages import reads
from crowdsafe.systems.factory.pages.may import may_of
from crowdsafe.systems.factory.schemas import ID_MAX
from crowdsafe.web.fastapi import CurrentUser, store_of
from crowdsafe.web.pages import NavItem, Pages, Section

__all__ = ["SECTION", "page_router"]

EVENTS = "/factory/api/events"

SECTION = Section(
    name="factory",
    title="Misty Manufacturing",
    folder=Path(__file__).parent,
    nav=(
        NavItem("/factory/orders", "Orders"),
        NavItem("/factory/floor", "Floor"),
        NavItem("/factory/stock", "Stock"),
        NavItem("/factory/invoices", "Invoices"),
        NavItem("/factory/timesheets", "Timesheets"),
        NavItem("/factory/leave", "Leave"),
    ),
    summary="Orders, stock, floor, timesheets and invoices of a maker of paper cores. Two people "
    "sell the same stock, edit the same order or approve the same week, and nothing is lost.",
)

Show = Callable[..., Awaitable[Response]]
Text = Annotated[str, Query(max_length=100)]
OptionalId = Annotated[int, Query(ge=0, le=ID_MAX)]


def page_router(pages: Pages) -> APIRouter:
    """All pages under ``/factory``."""

    async def show(
        request: Request, user: User, template: str, read: Callable[..., Any], **kwargs: Any
    ) -> Response:
        def snapshot(session: Session) -> dict[str, Any]:
            return {"last_event_id": head(session), **read(session, **kwargs)}

        frame = {
            "user": user,
            "section": SECTION.name,
            "events": EVENTS,
            "may": asdict(may_of(user)),
        }
        found = await store_of(request).read(snapshot)
        return pages.render(request, f"factory/{template}", frame | found)

    router = pages.router()

    @router.get("/factory")
    async def start() -> Response:
        return RedirectResponse("/factory/orders", status_code=303)

    _order_pages(router, show)
    _stock_pages(router, show)
    _staff_pages(router, show)
    return router


def _order_pages(router: APIRouter, show: Show) -> None:
    @router.get("/factory/orders")
    async def orders(
        request: Request, user: CurrentUser, q: Text = "", stage: Text = "", priority: Text = ""
    ) -> Response:
        return await show(
            request, user, "orders.html", reads.orders, q=q, stage=stage, priority=priority
        )

    @router.get("/factory/orders/{order_id}")
    async def order(request: Request, user: CurrentUser, order_id: PathId) -> Response:
        return await show(request, user, "order.html", reads.order, order_id=order_id)

    @router.get("/factory/floor")
    async def floor(request: Request, user: CurrentUser) -> Response:
        return await show(request, user, "floor.html", reads.floor)

    @router.get("/factory/invoices")
    async def invoices(request: Request, user: CurrentUser, order: OptionalId = 0) -> Response:
        return await show(request, user, "invoices.html", reads.invoices, order_id=order)


def _stock_pages(router: APIRouter, show: Show) -> None:
    @router.get("/factory/stock")
    async def stock(
        request: Request, user: CurrentUser, order: Text = "", client: OptionalId = 0
    ) -> Response:
        return await show(
            request, user, "stock.html", reads.stock, order_number=order, client_id=client
        )

    @router.get("/factory/stock/{stock_id}")
    async def movements(request: Request, user: CurrentUser, stock_id: PathId) -> Response:
        return await show(request, user, "movements.html", reads.movements, stock_id=stock_id)


def _staff_pages(router: APIRouter, show: Show) -> None:
    @router.get("/factory/timesheets")
    async def timesheets(request: Request, user: CurrentUser) -> Response:
        return await show(request, user, "timesheets.html", reads.timesheets, viewer=user)

    @router.get("/factory/leave")
    async def leave(request: Request, user: CurrentUser) -> Response:
        return await show(request, user, "leave.html", reads.leave, viewer=user)
