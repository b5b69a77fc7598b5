"""Safe: whoever comes second waits, in the database or before it."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import psycopg
import psycopg2
from fastapi import FastAPI, HTTPException
from flask import Flask
from sqlalchemy import create_engine, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.find.corpus.case import POSTGRESQL, SQLITE, Built, lost, safe
from tests.find.corpus.kit import (
    connect,
    engine_url,
    orm,
    script,
    sqlite_path,
    until_closed,
)


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int]


class Doctor(Base):
    __tablename__ = "doctors"
    id: Mapped[int] = mapped_column(primary_key=True)
    ward: Mapped[int] = mapped_column(default=1)
    on_call: Mapped[bool] = mapped_column(default=True)


STOCK = (
    "CREATE TABLE stock (id SERIAL PRIMARY KEY, on_hand INTEGER NOT NULL)",
    "INSERT INTO stock (on_hand) VALUES (100)",
)


@safe(
    "for-update",
    triples=True,
    sqlite=lost,
    note="SELECT ... FOR UPDATE: the second reader waits. SQLite has no such thing, and SQLAlchemy"
    " leaves it out there without a word",
)
def for_update(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/stock/allocate")
    def allocate() -> dict[str, int]:
        with Session(engine) as db:
            stock = db.get_one(Stock, 1, with_for_update=True)
            if stock.on_hand < 80:
                raise HTTPException(400, "insufficient stock")
            stock.on_hand -= 80
            db.commit()
            return {"remaining_stock": stock.on_hand}

    setup = orm(url, Base, lambda: [Stock(on_hand=100)])
    return Built(app, ["POST /stock/allocate"], setup, close=engine.dispose)


@safe(
    "for-update-async",
    databases=POSTGRESQL,
    note="the same on asyncpg, with one engine for both",
)
def for_update_async(url: str) -> Built:
    engine = create_async_engine(engine_url(url, postgresql="postgresql+asyncpg"))
    app = FastAPI(lifespan=until_closed(engine))

    @app.post("/stock/allocate")
    async def allocate() -> dict[str, int]:
        async with AsyncSession(engine) as db, db.begin():
            query = select(Stock).where(Stock.id == 1).with_for_update()
            stock = (await db.scalars(query)).one()
            if stock.on_hand < 80:
                raise HTTPException(400, "insufficient stock")
            stock.on_hand = stock.on_hand - 80
        return {"allocated_quantity": 80}

    return Built(app, ["POST /stock/allocate"], orm(url, Base, lambda: [Stock(on_hand=100)]))


@safe(
    "begin-immediate",
    databases=SQLITE,
    triples=True,
    note="BEGIN IMMEDIATE takes SQLite's one write lock before the first read",
)
def begin_immediate(url: str) -> Built:
    def allocate() -> int:
        connection = sqlite3.connect(sqlite_path(url), isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            (on_hand,) = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
            left = int(on_hand) - 40
            if left < 0:
                connection.execute("ROLLBACK")
                raise ValueError("insufficient stock")
            connection.execute("UPDATE stock SET on_hand = ? WHERE id = 1", (left,))
            connection.execute("COMMIT")
            return left
        finally:
            connection.close()

    return Built(None, [allocate], script(url, *STOCK))


@safe(
    "begin-immediate-engine",
    databases=SQLITE,
    note="an engine whose transactions all begin with BEGIN IMMEDIATE",
)
def begin_immediate_engine(url: str) -> Built:
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _manual(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    app = Flask("stock")

    @app.post("/stock/allocate")
    def allocate() -> Any:
        with Session(engine) as db:
            stock = db.get_one(Stock, 1)
            if stock.on_hand < 80:
                return {"detail": "insufficient stock"}, 400
            stock.on_hand -= 80
            left = stock.on_hand
            db.commit()
            return {"remaining_stock": left}

    setup = orm(url, Base, lambda: [Stock(on_hand=100)])
    return Built(app, ["POST /stock/allocate"], setup, close=engine.dispose)


@safe(
    "serializable-retry",
    databases=POSTGRESQL,
    note="SERIALIZABLE turns one of the two away (40001), and the loop tries again",
)
def serializable_retry(url: str) -> Built:
    def attempt() -> str:
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            row: Any = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
            if row[0] < 80:
                return "refused"
            connection.execute("UPDATE stock SET on_hand = %s WHERE id = 1", (row[0] - 80,))
            return "allocated"

    def allocate() -> str:
        for _ in range(5):
            try:
                return attempt()
            except psycopg.errors.SerializationFailure:
                continue
        raise RuntimeError("too busy")

    return Built(None, [allocate], script(url, *STOCK))


@safe(
    "serializable-skew-retry",
    databases=POSTGRESQL,
    note="write skew under SERIALIZABLE with a retry: the second attempt sees the first one's row",
)
def serializable_skew_retry(url: str) -> Built:
    engine = create_engine(engine_url(url), isolation_level="SERIALIZABLE")
    app = FastAPI()

    def off_call(doctor_id: int) -> bool:
        with Session(engine) as db, db.begin():
            others = select(func.count()).where(Doctor.on_call, Doctor.id != doctor_id)
            if not db.scalar(others):
                raise HTTPException(409, "somebody has to stay")
            db.get_one(Doctor, doctor_id).on_call = False
        return False

    @app.post("/doctors/{doctor_id}/off-call")
    def off(doctor_id: int) -> dict[str, bool]:
        from sqlalchemy.exc import OperationalError

        for _ in range(5):
            try:
                return {"on_call": off_call(doctor_id)}
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != "40001":
                    raise
        raise HTTPException(503, "too busy", {"Retry-After": "1"})

    setup = orm(url, Base, lambda: [Doctor(), Doctor()])
    operations = ["POST /doctors/1/off-call", "POST /doctors/2/off-call"]
    return Built(app, operations, setup, close=engine.dispose)


@safe(
    "skew-locked-parent",
    databases=POSTGRESQL,
    note="all who change a ward's roster lock the ward's row first",
)
def skew_locked_parent(url: str) -> Built:
    def off_call(doctor: int) -> str:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT id FROM wards WHERE id = 1 FOR UPDATE")
            row: Any = connection.execute(
                "SELECT count(*) FROM doctors WHERE on_call = 1 AND id <> %s", (doctor,)
            ).fetchone()
            if row[0] == 0:
                raise ValueError("somebody has to stay")
            connection.execute("UPDATE doctors SET on_call = 0 WHERE id = %s", (doctor,))
            return "off"

    def first_off() -> str:
        return off_call(1)

    def second_off() -> str:
        return off_call(2)

    setup = script(
        url,
        "CREATE TABLE wards (id SERIAL PRIMARY KEY)",
        "CREATE TABLE doctors (id SERIAL PRIMARY KEY, on_call INTEGER)",
        "INSERT INTO wards DEFAULT VALUES",
        "INSERT INTO doctors (on_call) VALUES (1), (1)",
    )
    return Built(None, [first_off, second_off], setup)


@safe(
    "advisory-lock",
    databases=POSTGRESQL,
    note="pg_advisory_xact_lock before the check, until the commit",
)
def advisory_lock(url: str) -> Built:
    app = Flask("numbers")

    @app.post("/orders")
    def create() -> Any:
        connection = psycopg2.connect(url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (4711,))
                cursor.execute("SELECT coalesce(max(number), 0) + 1 FROM orders")
                (number,) = cursor.fetchone()
                cursor.execute("INSERT INTO orders (number) VALUES (%s)", (number,))
        finally:
            connection.close()
        return {"number": number}, 201

    setup = script(url, "CREATE TABLE orders (id SERIAL PRIMARY KEY, number INTEGER)")
    return Built(app, ["POST /orders"], setup)


@safe(
    "lock-table",
    databases=POSTGRESQL,
    note="LOCK TABLE before the check",
)
def lock_table(url: str) -> Built:
    def enter(start: int, end: int) -> str:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE entries IN SHARE ROW EXCLUSIVE MODE")
            clash: Any = connection.execute(
                "SELECT count(*) FROM entries WHERE starts < %s AND ends > %s", (end, start)
            ).fetchone()
            if clash[0]:
                raise ValueError("these hours are entered already")
            connection.execute("INSERT INTO entries (starts, ends) VALUES (%s, %s)", (start, end))
            return "entered"

    def enter_morning() -> str:
        return enter(8, 12)

    def enter_noon() -> str:
        return enter(10, 14)

    setup = script(
        url, "CREATE TABLE entries (id SERIAL PRIMARY KEY, starts INTEGER, ends INTEGER)"
    )
    return Built(None, [enter_morning, enter_noon], setup)


@safe(
    "skip-locked",
    databases=POSTGRESQL,
    note="workers claim jobs with FOR UPDATE SKIP LOCKED: each gets one that nobody has",
)
def skip_locked(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def claim(worker: str) -> bool:
        with engine.begin() as connection:
            job = connection.scalar(
                text(
                    "SELECT id FROM jobs WHERE worker IS NULL ORDER BY id LIMIT 1"
                    " FOR UPDATE SKIP LOCKED"
                )
            )
            if job is not None:
                connection.execute(
                    text("UPDATE jobs SET worker = :worker WHERE id = :job"),
                    {"worker": worker, "job": job},
                )
        return job is not None

    def claim_for_one() -> bool:
        return claim("one")

    def claim_for_two() -> bool:
        return claim("two")

    setup = script(
        url,
        "CREATE TABLE jobs (id SERIAL PRIMARY KEY, worker TEXT)",
        "INSERT INTO jobs (worker) VALUES (NULL), (NULL), (NULL)",
    )
    return Built(None, [claim_for_one, claim_for_two], setup, close=engine.dispose)


@safe(
    "thread-lock",
    proof=False,
    note="a threading.Lock around the section: right as long as there is one process",
)
def thread_lock(url: str) -> Built:
    app = Flask("stock")
    section = threading.Lock()

    @app.post("/stock/allocate")
    def allocate() -> Any:
        with section, connect(url) as connection:
            (on_hand,) = connection.execute("SELECT on_hand FROM stock WHERE id = 1").fetchone()
            if on_hand < 80:
                return {"detail": "insufficient stock"}, 400
            connection.execute(f"UPDATE stock SET on_hand = {int(on_hand) - 80} WHERE id = 1")
            connection.commit()
        return {"remaining_stock": on_hand - 80}

    return Built(app, ["POST /stock/allocate"], script(url, *STOCK))


@safe(
    "pool-of-one",
    proof=False,
    note="one connection for all: whoever has none waits for it",
)
def pool_of_one(url: str) -> Built:
    engine = create_engine(engine_url(url), pool_size=1, max_overflow=0)

    def allocate() -> int:
        with Session(engine) as db, db.begin():
            stock = db.get_one(Stock, 1)
            if stock.on_hand < 80:
                raise ValueError("insufficient stock")
            stock.on_hand -= 80
            return stock.on_hand

    setup = orm(url, Base, lambda: [Stock(on_hand=100)])
    return Built(None, [allocate], setup, close=engine.dispose)
