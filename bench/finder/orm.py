"""Stock with SQLAlchemy, sync and async, plain and behind FastAPI and Flask; and what is written
to have each finder try it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import frontrun
import httpx
from fastapi import FastAPI, HTTPException
from flask import Flask
from frontrun.contrib.sqlalchemy import (
    get_async_connection,
    get_connection,
    sqlalchemy_dpor,
)
from sqlalchemy import Connection, Engine, create_engine, text, update
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find import Report, find

URL = os.environ.get("FINDER_URL", "")
engine = create_engine(URL.replace("postgresql:", "postgresql+psycopg:") or "sqlite://")
async_engine = create_async_engine(
    URL.replace("postgresql:", "postgresql+asyncpg:") or "sqlite+aiosqlite://"
)


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int]
    taken: Mapped[int] = mapped_column(default=0)


def fill() -> None:
    """The table with what each run begins with."""
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Stock(id=1, on_hand=100, taken=0))
    engine.dispose()


def racy(bind: Engine | Connection = engine) -> str:
    with Session(bind) as session, session.begin():
        stock = session.get_one(Stock, 1)
        if stock.on_hand < 60:
            return "sold out"
        stock.on_hand -= 60
        stock.taken = Stock.taken + 60
        return "taken"


def guarded(bind: Engine | Connection = engine) -> str:
    with Session(bind) as session, session.begin():
        done = session.execute(
            update(Stock)
            .where(Stock.id == 1, Stock.on_hand >= 60)
            .values(on_hand=Stock.on_hand - 60, taken=Stock.taken + 60)
        )
        return "taken" if done.rowcount else "sold out"  # type: ignore[attr-defined]


async def async_racy(bind: AsyncEngine | AsyncConnection = async_engine) -> str:
    async with AsyncSession(bind) as session, session.begin():
        stock = await session.get_one(Stock, 1)
        if stock.on_hand < 60:
            return "sold out"
        stock.on_hand -= 60
        stock.taken = Stock.taken + 60
        return "taken"


fastapi_app = FastAPI()
flask_app = Flask(__name__)


@fastapi_app.post("/allocate")
def allocate() -> dict[str, str]:
    if racy() == "sold out":
        raise HTTPException(409)
    return {"state": "taken"}


@flask_app.post("/allocate")
def allocate_in_flask() -> tuple[dict[str, str], int]:
    state = racy()
    return {"state": state}, 200 if state == "taken" else 409


def ours(operation: Callable[[], Any], users: int) -> Report:
    return find(None, [operation], database=URL, triples=users == 3)


def ours_fastapi(_operation: object, _users: int) -> Report:
    return find("bench.finder.orm:fastapi_app", ["POST /allocate"], database=URL)


def ours_flask(_operation: object, _users: int) -> Report:
    return find("bench.finder.orm:flask_app", ["POST /allocate"], database=URL)


def peer(operation: Callable[..., str], users: int, **options: Any) -> Any:
    def reset() -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE stock SET on_hand = 100, taken = 0"))

    def adds_up(_: None) -> bool:
        with engine.connect() as connection:
            on_hand, taken = connection.execute(text("SELECT on_hand, taken FROM stock")).one()
            return bool(on_hand >= 0 and on_hand + taken == 100)

    return sqlalchemy_dpor(
        engine=engine,
        setup=reset,
        threads=[lambda _: operation(get_connection())] * users,
        invariant=adds_up,
        **options,
    )


def peer_async(
    operation: Callable[..., Coroutine[Any, Any, str]], users: int, **options: Any
) -> Any:
    def reset() -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE stock SET on_hand = 100, taken = 0"))

    def adds_up(_: None) -> bool:
        with engine.connect() as connection:
            on_hand, taken = connection.execute(text("SELECT on_hand, taken FROM stock")).one()
            return bool(on_hand >= 0 and on_hand + taken == 100)

    async def allocate(_: None) -> None:
        await operation(get_async_connection())

    return asyncio.run(
        sqlalchemy_dpor(
            engine=async_engine,
            setup=reset,
            tasks=[allocate] * users,
            invariant=adds_up,
            **options,
        )
    )


def peer_fastapi(_operation: object, users: int, **options: Any) -> Any:
    def reset() -> None:
        engine.dispose()
        with engine.begin() as connection:
            connection.execute(text("UPDATE stock SET on_hand = 100, taken = 0"))

    def adds_up(_: None) -> bool:
        with engine.connect() as connection:
            on_hand, taken = connection.execute(text("SELECT on_hand, taken FROM stock")).one()
            return bool(on_hand >= 0 and on_hand + taken == 100)

    async def post(_: None) -> None:
        transport = httpx.ASGITransport(app=fastapi_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/allocate")

    return asyncio.run(
        frontrun.explore(setup=reset, workers=post, count=users, invariant=adds_up, **options)
    )


def peer_flask(_operation: object, users: int, **options: Any) -> Any:
    def reset() -> None:
        engine.dispose()
        with engine.begin() as connection:
            connection.execute(text("UPDATE stock SET on_hand = 100, taken = 0"))

    def adds_up(_: None) -> bool:
        with engine.connect() as connection:
            on_hand, taken = connection.execute(text("SELECT on_hand, taken FROM stock")).one()
            return bool(on_hand >= 0 and on_hand + taken == 100)

    def post(_: None) -> None:
        flask_app.test_client().post("/allocate")

    return frontrun.explore(setup=reset, workers=post, count=users, invariant=adds_up, **options)
