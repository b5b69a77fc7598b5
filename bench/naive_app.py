"""The endpoint that everybody writes first: read, look, write back. And the same by hand, right.

FastAPI and SQLAlchemy's async ORM, no login, no ledger, no feed; its database by $BENCH_DATABASE.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import bindparam, event, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from bench.tables import Movement, Stock

URL = os.environ["BENCH_DATABASE"]
engine = create_async_engine(URL, pool_size=16, max_overflow=0, pool_timeout=30)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()

if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def tune(raw: Any, _record: Any) -> None:
        """What every guide says: WAL, and wait when busy (sqlite3 waits 5 s anyway)."""
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()


class Allocate(BaseModel):
    """What is wanted."""

    product_id: int
    client_id: int
    quantity: int


class Allocated(BaseModel):
    """What was given."""

    allocated_quantity: int
    remaining_stock: int


async def session_of_request() -> AsyncIterator[AsyncSession]:
    """FastAPI's documented way: a session for each request."""
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(session_of_request)]


@app.post("/naive/stock/allocate")
async def allocate_naively(body: Allocate, session: SessionDep) -> Allocated:
    """Right alone, wrong in a crowd."""
    stock = (await session.scalars(select(Stock).where(Stock.id == body.product_id))).one()
    if stock.on_hand < body.quantity:
        raise HTTPException(400, "insufficient stock")
    stock.on_hand -= body.quantity
    await session.commit()
    return Allocated(allocated_quantity=body.quantity, remaining_stock=stock.on_hand)


TAKE = (
    update(Stock)
    .where(Stock.id == bindparam("row"), Stock.on_hand >= bindparam("quantity"))
    .values(on_hand=Stock.on_hand - bindparam("quantity"))
    .returning(Stock.on_hand)
)


@app.post("/right/stock/allocate")
async def allocate_by_hand(body: Allocate, session: SessionDep) -> Allocated:
    """The conditional UPDATE and its ledger row, on Core, in one transaction."""
    connection = await session.connection()
    values = {"row": body.product_id, "quantity": body.quantity}
    left = (await connection.execute(TAKE, values)).scalar_one_or_none()
    if left is None:
        raise HTTPException(400, "insufficient stock")
    entry = {"stock_id": body.product_id, "quantity": -body.quantity, "balance_after": left}
    await connection.execute(insert(Movement), entry | {"kind": "allocation"})
    await session.commit()
    return Allocated(allocated_quantity=body.quantity, remaining_stock=left)


@app.get("/on-hand/{row}")
async def on_hand(row: int, session: SessionDep) -> int:
    """What is left."""
    return (await session.scalars(select(Stock.on_hand).where(Stock.id == row))).one()
