"""Stock is allocated: the check and the change are two steps, written in four ways."""

# ruff: noqa: B008  (defaults are how FastAPI is told)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg2
from fastapi import Depends, FastAPI, HTTPException
from flask import Flask, request
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, racy
from tests.find.corpus.kit import (
    connect,
    engine_url,
    is_sqlite,
    marks,
    orm,
    script,
    sqlite_path,
    until_closed,
)

ALLOCATE = 'POST /stock/allocate {"product_id": 1, "quantity": 80}'


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int]


class Movement(Base):
    __tablename__ = "stock_movements"
    id: Mapped[int] = mapped_column(primary_key=True)
    stock_id: Mapped[int]
    delta: Mapped[int]


class Allocation(BaseModel):
    product_id: int
    quantity: int


@racy(
    "stock-orm",
    Anomaly.LOST_UPDATE,
    note="both read 100, both write 20: 160 go out of 100",
)
def stock_orm(url: str) -> Built:
    engine = create_engine(engine_url(url))
    factory = sessionmaker(engine)
    app = FastAPI()

    def session() -> Iterator[Session]:
        with factory() as opened:
            yield opened

    @app.post("/stock/allocate")
    def allocate(body: Allocation, db: Session = Depends(session)) -> dict[str, int]:
        stock = db.get_one(Stock, body.product_id)
        if stock.on_hand < body.quantity:
            raise HTTPException(400, f"insufficient stock: {stock.on_hand} available")
        stock.on_hand -= body.quantity
        db.add(Movement(stock_id=stock.id, delta=-body.quantity))
        db.commit()
        return {"remaining_stock": stock.on_hand}

    return Built(
        app, [ALLOCATE], orm(url, Base, lambda: [Stock(on_hand=100)]), close=engine.dispose
    )


@racy(
    "stock-async",
    Anomaly.LOST_UPDATE,
    note="both coroutines read 100 before either writes",
)
def stock_async(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+asyncpg")
    )
    factory = async_sessionmaker(engine, expire_on_commit=False)
    app = FastAPI(lifespan=until_closed(engine))

    @app.post("/stock/allocate")
    async def allocate(body: Allocation) -> dict[str, int]:
        async with factory() as db, db.begin():
            stock = await db.get_one(Stock, body.product_id)
            if stock.on_hand < body.quantity:
                raise HTTPException(400, "insufficient stock")
            stock.on_hand = stock.on_hand - body.quantity
            db.add(Movement(stock_id=stock.id, delta=-body.quantity))
        return {"remaining_stock": stock.on_hand}

    return Built(app, [ALLOCATE], orm(url, Base, lambda: [Stock(on_hand=100)]))


@racy(
    "stock-async-psycopg",
    Anomaly.LOST_UPDATE,
    databases=("postgresql",),
    note="both read 100 and write what they made of it",
)
def stock_async_psycopg(url: str) -> Built:
    engine = create_async_engine(engine_url(url), pool_pre_ping=True)
    factory = async_sessionmaker(engine)
    app = FastAPI(lifespan=until_closed(engine))

    async def session() -> Any:
        async with factory() as opened:
            yield opened

    @app.post("/stock/allocate")
    async def allocate(body: Allocation, db: Any = Depends(session)) -> dict[str, int]:
        stock = await db.get_one(Stock, body.product_id)
        left = stock.on_hand - body.quantity
        if left < 0:
            raise HTTPException(400, "insufficient stock")
        stock.on_hand = left
        await db.commit()
        return {"remaining_stock": left}

    return Built(app, [ALLOCATE], orm(url, Base, lambda: [Stock(on_hand=100)]))


@racy(
    "stock-two-transactions",
    Anomaly.LOST_UPDATE,
    Anomaly.TORN_STEPS,
    note="both checks pass before either decrement: 100 - 80 - 80 is negative",
)
def stock_two_transactions(url: str) -> Built:
    app = Flask("stock")
    sql = marks(url)

    def opened() -> Any:
        if is_sqlite(url):
            return sqlite3.connect(sqlite_path(url))
        return psycopg2.connect(url)

    def available(stock_id: int) -> int:
        connection = opened()
        try:
            cursor = connection.cursor()
            cursor.execute(sql("SELECT on_hand FROM stock WHERE id = %s"), (stock_id,))
            return int(cursor.fetchone()[0])
        finally:
            connection.close()

    @app.post("/stock/allocate")
    def allocate() -> Any:
        body = request.get_json()
        if available(body["product_id"]) < body["quantity"]:
            return {"detail": "insufficient stock"}, 400
        connection = opened()
        try:
            connection.cursor().execute(
                sql("UPDATE stock SET on_hand = on_hand - %s WHERE id = %s"),
                (body["quantity"], body["product_id"]),
            )
            connection.commit()
        finally:
            connection.close()
        return {"allocated_quantity": body["quantity"]}

    setup = script(
        url,
        "CREATE TABLE stock (id SERIAL PRIMARY KEY, on_hand INTEGER NOT NULL)",
        "INSERT INTO stock (on_hand) VALUES (100)",
    )
    return Built(app, [ALLOCATE], setup)


@racy(
    "stock-function",
    Anomaly.LOST_UPDATE,
    note="the second check reads before the first one's UPDATE is committed",
)
def stock_function(url: str) -> Built:
    sql = marks(url)

    def allocate_80() -> str:
        with connect(url) as connection:
            row = connection.execute(
                sql("SELECT 1 FROM stock WHERE id = %s AND on_hand >= %s"), (1, 80)
            ).fetchone()
            if row is None:
                return "refused"
            connection.execute(
                sql("UPDATE stock SET on_hand = on_hand - %s WHERE id = %s"), (80, 1)
            )
            connection.commit()
            return "allocated"

    setup = script(
        url,
        "CREATE TABLE stock (id SERIAL PRIMARY KEY, on_hand INTEGER NOT NULL)",
        "INSERT INTO stock (on_hand) VALUES (100)",
    )
    return Built(None, [allocate_80], setup)
