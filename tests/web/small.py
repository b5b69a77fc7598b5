"""A small application with everything that the adapter offers, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.errors import Insufficient, TransactionMisuse
from crowdsafe.identity import Identity, Passwords, User, add_user
from crowdsafe.store import AsyncStore, BigId
from crowdsafe.web import auth
from crowdsafe.web.fastapi import (
    CurrentUser,
    IfMatch,
    Limits,
    Services,
    StoreDep,
    idempotent_write,
    install,
    require,
)

PASSWORD = "correct horse"
_hash = Passwords(threads=1).hash(PASSWORD)


class Base(DeclarativeBase):
    metadata = MetaData()


class Sale(Base):
    __tablename__ = "sales"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    product: Mapped[str] = mapped_column(String(200))
    by: Mapped[str] = mapped_column(String(64))


@dataclass(frozen=True)
class Sold:
    id: int
    product: str
    by: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product: Annotated[str, Field(max_length=200)]
    quantity: Annotated[int, Field(ge=1, le=1000)] = 1
    price: float = 1.0


def sell(session: Session, *, product: str, by: str) -> Sold:
    if product == "nothing":
        raise Insufficient("Nothing is left.", available=0)
    sale = Sale(product=product, by=by)
    session.add(sale)
    session.flush()
    return Sold(sale.id, sale.product, sale.by)


def sales(session: Session) -> int:
    return session.query(Sale).count()


def seed(session: Session) -> None:
    for name in ("admin", "sales", "manager"):
        add_user(session, username=name, name=name.title(), roles=[name], password_hash=_hash)


def make_app(url: str, *, limits: Limits | None = None, users: bool = True) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncStore(url) as store:
            await store.create_all(Base.metadata)
            if users:
                await store.write(seed)
            identity = await Identity.open(store)
            app.state.crowdsafe = Services(store, identity)
            yield
            identity.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_writes(app)
    _add_failures(app)
    app.include_router(auth.router)
    install(app, limits=limits)
    return app


def _add_writes(app: FastAPI) -> None:
    @app.post("/sales", status_code=201)
    async def post_sale(
        order: Order,
        request: Request,
        store: StoreDep,
        user: Annotated[User, Depends(require("sales", "admin"))],
    ) -> Response:
        return await idempotent_write(
            store,
            request,
            user,
            sell,
            status_code=201,
            answer_headers=lambda sold: {"ETag": f'"{sold.id}"'},
            product=order.product,
            by=user.username,
        )

    @app.post("/elsewhere/{number}")
    async def elsewhere(
        number: int, order: Order, request: Request, store: StoreDep, user: CurrentUser
    ) -> Response:
        return await idempotent_write(
            store, request, user, sell, product=order.product, by=user.username
        )

    @app.put("/sales/{number}")
    async def put_sale(number: int, version: IfMatch) -> dict[str, Any]:
        return {"number": number, "version": version}


def _add_failures(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the secret is hunter2")

    @app.get("/misuse")
    async def misuse() -> None:
        raise TransactionMisuse("session.commit() in line 7")

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    @app.get("/slow")
    async def slow(seconds: float) -> dict[str, float]:
        await asyncio.sleep(seconds)
        return {"slept": seconds}

    @app.post("/slow")
    async def slow_change(seconds: float) -> dict[str, float]:
        await asyncio.sleep(seconds)
        return {"slept": seconds}

    @app.get("/stream")
    async def stream(seconds: float) -> StreamingResponse:
        async def ticks() -> AsyncIterator[str]:
            for tick in range(round(seconds / 0.05)):
                yield f"data: {tick}\n\n"
                await asyncio.sleep(0.05)
            yield "data: end\n\n"

        return StreamingResponse(ticks(), media_type="text/event-stream")


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application in this process, without a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://small") as client,
    ):
        yield client


async def bearer(client: httpx.AsyncClient, username: str = "sales") -> dict[str, str]:
    """The header of a user who is logged in."""
    answer = await client.post("/auth/login", json={"username": username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}
