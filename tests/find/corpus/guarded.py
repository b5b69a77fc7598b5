"""Safe: one statement checks and changes, and its row count tells who won."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from typing import Any

import aiosqlite
import asyncpg
import psycopg2
from fastapi import FastAPI, HTTPException
from flask import Flask
from sqlalchemy import JSON, create_engine, insert, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.find.corpus.case import Built, safe
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

STOCK = (
    "CREATE TABLE stock (id SERIAL PRIMARY KEY, on_hand INTEGER NOT NULL)",
    "INSERT INTO stock (on_hand) VALUES (100), (100)",
)


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


class Page(Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    views: Mapped[int] = mapped_column(default=0)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


def _guarded(quantity: int) -> Any:
    return (
        update(Stock)
        .where(Stock.id == 1, Stock.on_hand >= quantity)
        .values(on_hand=Stock.on_hand - quantity)
    )


@safe(
    "guarded-update",
    triples=True,
    note="UPDATE ... WHERE on_hand >= 80 and a look at the row count",
)
def guarded_update(url: str) -> Built:
    factory = sessionmaker(create_engine(engine_url(url)))
    app = FastAPI()

    @app.post("/stock/allocate")
    def allocate() -> dict[str, int]:
        with factory.begin() as db:
            if db.execute(_guarded(80)).rowcount == 0:
                raise HTTPException(400, "insufficient stock")
            db.add(Movement(stock_id=1, delta=-80))
        return {"allocated_quantity": 80}

    setup = orm(url, Base, lambda: [Stock(on_hand=100)])
    return Built(app, ["POST /stock/allocate"], setup, close=factory.kw["bind"].dispose)


@safe(
    "guarded-update-async",
    note="the same over async SQLAlchemy",
)
def guarded_update_async(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+asyncpg")
    )
    app = FastAPI(lifespan=until_closed(engine))

    @app.post("/stock/allocate")
    async def allocate() -> dict[str, int]:
        async with AsyncSession(engine) as db, db.begin():
            if (await db.execute(_guarded(80))).rowcount == 0:
                raise HTTPException(400, "insufficient stock")
            await db.execute(insert(Movement).values(stock_id=1, delta=-80))
        return {"allocated_quantity": 80}

    return Built(app, ["POST /stock/allocate"], orm(url, Base, lambda: [Stock(on_hand=100)]))


@safe(
    "update-returning",
    triples=True,
    note="UPDATE ... RETURNING gives the balance that this statement made",
)
def update_returning(url: str) -> Built:
    sql = marks(url)

    def allocate() -> int:
        with connect(url) as connection:
            row = connection.execute(
                sql(
                    "UPDATE stock SET on_hand = on_hand - %s WHERE id = %s AND on_hand >= %s"
                    " RETURNING on_hand"
                ),
                (40, 1, 40),
            ).fetchone()
            connection.commit()
            if row is None:
                raise ValueError("insufficient stock")
            return int(row[0])

    return Built(None, [allocate], script(url, *STOCK))


@safe(
    "guarded-transition",
    note="UPDATE ... WHERE stage = 'winding': one caller moves it, the other gets 409",
)
def guarded_transition(url: str) -> Built:
    app = Flask("stages")
    sql = marks(url)

    @app.post("/orders/<int:order_id>/advance")
    def advance(order_id: int) -> Any:
        connection: Any = (
            sqlite3.connect(sqlite_path(url)) if is_sqlite(url) else psycopg2.connect(url)
        )
        try:
            cursor = connection.cursor()
            cursor.execute(
                sql("UPDATE orders SET stage = %s WHERE id = %s AND stage = %s"),
                ("finishing", order_id, "winding"),
            )
            if cursor.rowcount == 0:
                return {"detail": "somebody moved it"}, 409
            cursor.execute(sql("INSERT INTO stage_log (order_id) VALUES (%s)"), (order_id,))
            connection.commit()
        finally:
            connection.close()
        return {"stage": "finishing"}

    setup = script(
        url,
        "CREATE TABLE orders (id SERIAL PRIMARY KEY, stage TEXT NOT NULL)",
        "CREATE TABLE stage_log (id SERIAL PRIMARY KEY, order_id INTEGER)",
        "INSERT INTO orders (stage) VALUES ('winding')",
    )
    return Built(app, ["POST /orders/1/advance"], setup)


@safe(
    "delete-once",
    note="DELETE and its row count: a refresh token is taken by one caller only",
)
def delete_once(url: str) -> Built:
    async def exchange_postgresql() -> str:
        connection = await asyncpg.connect(url)
        try:
            done = await connection.execute("DELETE FROM tokens WHERE token = $1", "first")
        finally:
            await connection.close()
        if done == "DELETE 0":
            raise PermissionError("this token was used before")
        return "exchanged"

    async def exchange_sqlite() -> str:
        async with aiosqlite.connect(sqlite_path(url)) as connection:
            cursor = await connection.execute("DELETE FROM tokens WHERE token = ?", ("first",))
            await connection.commit()
        if cursor.rowcount == 0:
            raise PermissionError("this token was used before")
        return "exchanged"

    setup = script(
        url, "CREATE TABLE tokens (token TEXT PRIMARY KEY)", "INSERT INTO tokens VALUES ('first')"
    )
    return Built(None, [exchange_sqlite if is_sqlite(url) else exchange_postgresql], setup)


@safe(
    "increments",
    triples=True,
    note="SET views = views + 1 commutes, and nobody is told the count",
)
def increments(url: str) -> Built:
    engine = create_engine(engine_url(url, postgresql="postgresql+psycopg2"))
    app = Flask("pages")

    @app.post("/pages/<int:page_id>/view")
    def view(page_id: int) -> Any:
        with engine.begin() as connection:
            connection.execute(update(Page).where(Page.id == page_id).values(views=Page.views + 1))
        return {"viewed": True}

    setup = orm(url, Base, lambda: [Page()])
    return Built(app, ["POST /pages/1/view"], setup, close=engine.dispose)


@safe(
    "separate-rows",
    note="read, change, write: but each user's page is a row of its own",
)
def separate_rows(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/pages/{page_id}/theme")
    def save(page_id: int, theme: str) -> dict[str, str]:
        with Session(engine) as db:
            page = db.get_one(Page, page_id)
            page.settings = {**page.settings, "theme": theme}
            db.commit()
            return {"theme": theme}

    operations = ["POST /pages/1/theme?theme=dark", "POST /pages/2/theme?theme=light"]
    setup = orm(url, Base, lambda: [Page(), Page()])
    return Built(app, operations, setup, close=engine.dispose)


@safe(
    "json-merge-in-sql",
    note="the database merges the change into the JSON column itself",
)
def json_merge_in_sql(url: str) -> Built:
    merge = (
        "UPDATE profiles SET settings = json_patch(settings, ?) WHERE id = 1"
        if is_sqlite(url)
        else "UPDATE profiles SET settings = settings || %s::jsonb WHERE id = 1"
    )

    def change(changes: dict[str, Any]) -> str:
        with connect(url) as connection:
            connection.execute(merge, (json.dumps(changes),))
            connection.commit()
            return "saved"

    column = "TEXT" if is_sqlite(url) else "JSONB"
    setup = script(
        url,
        f"CREATE TABLE profiles (id SERIAL PRIMARY KEY, settings {column} NOT NULL)",
        """INSERT INTO profiles (settings) VALUES ('{"theme": "light", "mail": true}')""",
    )
    operations = [partial(change, {"theme": "dark"}), partial(change, {"mail": False})]
    return Built(None, operations, setup)


@safe(
    "transfer-ordered",
    note="both rows change by relative UPDATEs in the order of their keys, in one transaction",
)
def transfer_ordered(url: str) -> Built:
    sql = marks(url)

    def transfer(amount: int) -> str:
        with connect(url) as connection:
            change = sql("UPDATE stock SET on_hand = on_hand + %s WHERE id = %s")
            connection.execute(change, (-amount, 1))
            connection.execute(change, (amount, 2))
            connection.commit()
            return "sent"

    def there() -> str:
        return transfer(30)

    def back() -> str:
        return transfer(-20)

    def report() -> int:
        with connect(url) as connection:
            return int(connection.execute("SELECT sum(on_hand) FROM stock").fetchone()[0])

    return Built(None, [there, back, report], script(url, *STOCK))
