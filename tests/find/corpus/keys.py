"""Safe: a unique key decides who is first; and keys and times that differ each time."""

from __future__ import annotations

import random
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException
from flask import Flask, request
from sqlalchemy import DateTime, ForeignKey, create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.find.corpus.case import POSTGRESQL, Built, safe
from tests.find.corpus.kit import connect, engine_url, marks, orm, script, until_closed


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class StoredAnswer(Base):
    __tablename__ = "stored_answers"
    key: Mapped[str] = mapped_column(primary_key=True)
    answer: Mapped[str | None]


class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: str(uuid.uuid4()))
    words: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class Log(Base):
    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("log.id"))
    words: Mapped[str]


class Code(Base):
    __tablename__ = "codes"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str]
    code: Mapped[str]
    expires: Mapped[float]


@safe(
    "on-conflict",
    triples=True,
    note="INSERT ... ON CONFLICT DO NOTHING, then the row that is there",
)
def on_conflict(url: str) -> Built:
    sql = marks(url)

    def first_login() -> str:
        with connect(url) as connection:
            connection.execute(
                sql("INSERT INTO users (email) VALUES (%s) ON CONFLICT (email) DO NOTHING"),
                ("ada@x.org",),
            )
            connection.commit()
            query = sql("SELECT email FROM users WHERE email = %s")
            return str(connection.execute(query, ("ada@x.org",)).fetchone()[0])

    setup = script(url, "CREATE TABLE users (id SERIAL PRIMARY KEY, email TEXT UNIQUE)")
    return Built(None, [first_login], setup)


@safe(
    "upsert-counter",
    note="ON CONFLICT DO UPDATE SET n = n + 1",
)
def upsert_counter(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("words")
    count = text(
        "INSERT INTO words (word, n) VALUES (:word, 1)"
        " ON CONFLICT (word) DO UPDATE SET n = words.n + 1"
    )

    @app.post("/words")
    def add() -> Any:
        with engine.begin() as connection:
            connection.execute(count, {"word": request.form["word"]})
        return {"counted": True}

    setup = script(url, "CREATE TABLE words (word TEXT PRIMARY KEY, n INTEGER NOT NULL)")
    return Built(app, ["POST /words word=fox"], setup, close=engine.dispose)


@safe(
    "unique-409",
    note="no look first: the INSERT decides, and its IntegrityError is a 409",
)
def unique_409(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/users", status_code=201)
    def register(email: str) -> dict[str, str]:
        with Session(engine) as db:
            db.add(User(email=email))
            try:
                db.commit()
            except IntegrityError:
                raise HTTPException(409, "this address is taken") from None
        return {"email": email}

    setup = orm(url, Base)
    return Built(app, ["POST /users?email=ada@x.org"], setup, close=engine.dispose)


@safe(
    "savepoint-get-or-create",
    note="the INSERT runs in a savepoint; when it loses, the winner's row is read",
)
def savepoint_get_or_create(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def first_login() -> str:
        with Session(engine) as db:
            mine = select(User).where(User.email == "ada@x.org")
            user = db.scalar(mine)
            if user is None:
                try:
                    with db.begin_nested():
                        user = User(email="ada@x.org")
                        db.add(user)
                except IntegrityError:
                    user = db.scalars(mine).one()
            db.commit()
            return user.email

    return Built(None, [first_login], orm(url, Base), close=engine.dispose)


@safe(
    "idempotency-key-first",
    note="the key is inserted first; whoever resends it waits for it and gets the stored answer",
)
def idempotency_key_first(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("payments")

    @app.post("/payments")
    def pay() -> Any:
        key = request.headers["Idempotency-Key"]
        with Session(engine) as db:
            try:
                db.add(StoredAnswer(key=key, answer="paid 50"))
                db.flush()
            except IntegrityError:
                db.rollback()
                return {"answer": db.get_one(StoredAnswer, key).answer}
            db.add(Payment(amount=50))
            db.commit()
        return {"answer": "paid 50"}

    operations = ["POST /payments Idempotency-Key:7c1d"]
    return Built(app, operations, orm(url, Base), close=engine.dispose)


@safe(
    "insert-where-not-exists",
    note="INSERT ... SELECT ... WHERE NOT EXISTS alone is racy on PostgreSQL; the unique index"
    " under it turns what slips through away",
)
def insert_where_not_exists(url: str) -> Built:
    engine = create_engine(engine_url(url))
    join = text(
        "INSERT INTO members (club, name) SELECT 1, :name"
        " WHERE NOT EXISTS (SELECT 1 FROM members WHERE club = 1 AND name = :name)"
    )

    def join_club() -> str:
        try:
            with engine.begin() as connection:
                if connection.execute(join, {"name": "ada"}).rowcount == 0:
                    return "was a member before"
        except IntegrityError:
            return "was a member before"
        return "joined"

    setup = script(
        url,
        "CREATE TABLE members (id SERIAL PRIMARY KEY, club INTEGER, name TEXT,"
        " UNIQUE (club, name))",
    )
    return Built(None, [join_club], setup, close=engine.dispose)


@safe(
    "append-only-log",
    note="each request adds rows of its own; their ids depend on who came first, and on nothing",
)
def append_only_log(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/log", status_code=201)
    def write(words: str) -> dict[str, Any]:
        with Session(engine) as db:
            head = Log(words=words)
            db.add(head)
            db.flush()
            db.add(Log(parent_id=head.id, words=f"more of {words}"))
            db.commit()
            return {"id": head.id}

    operations = ["POST /log?words=one", "POST /log?words=two"]
    return Built(app, operations, orm(url, Base), close=engine.dispose)


@safe(
    "ids-of-two-transactions",
    note="parent and child are committed one by one, so that ids interleave; each child still"
    " has its own parent",
)
def ids_of_two_transactions(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def write(words: str) -> int:
        with Session(engine) as db:
            head = Log(words=words)
            db.add(head)
            db.commit()
            db.add(Log(parent_id=head.id, words=f"more of {words}"))
            db.commit()
            return head.id

    def write_one() -> int:
        return write("one")

    def write_two() -> int:
        return write("two")

    return Built(None, [write_one, write_two], orm(url, Base), close=engine.dispose)


@safe(
    "random-ids",
    note="uuid keys and timestamps are other ones in each run",
)
def random_ids(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+psycopg")
    )
    app = FastAPI(lifespan=until_closed(engine))

    @app.post("/notes", status_code=201)
    async def write(words: str) -> dict[str, str]:
        async with AsyncSession(engine, expire_on_commit=False) as db:
            note = Note(words=words)
            db.add(note)
            await db.commit()
            return {"id": note.id, "created_at": note.created_at.isoformat()}

    return Built(app, ["POST /notes?words=hello"], orm(url, Base))


@safe(
    "one-time-codes",
    note="a new random code each time, a few valid ones a phone",
)
def one_time_codes(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/codes", status_code=201)
    def send(phone: str) -> dict[str, Any]:
        with Session(engine) as db:
            code = f"{random.randrange(10**6):06}"
            db.add(Code(phone=phone, code=code, expires=time.time() + 300))
            db.commit()
            return {"sent_to": phone, "ticket": secrets.token_hex(8)}

    return Built(app, ["POST /codes?phone=966"], orm(url, Base), close=engine.dispose)


@safe(
    "sequence-with-gaps",
    databases=POSTGRESQL,
    note="numbers out of a sequence: distinct, and a failed order leaves a gap that nobody minds",
)
def sequence_with_gaps(url: str) -> Built:
    def order() -> str:
        with psycopg.connect(url) as connection:
            draft: Any = connection.execute("SELECT nextval('order_numbers')").fetchone()
            connection.rollback()  # the first draft is thrown away, its number too
            row: Any = connection.execute("SELECT nextval('order_numbers')").fetchone()
            number = f"ADM-2026-{row[0]:05}"
            connection.execute("INSERT INTO orders (number) VALUES (%s)", (number,))
            return number if row[0] > draft[0] else "backwards"

    setup = script(
        url,
        "CREATE SEQUENCE order_numbers",
        "CREATE TABLE orders (id SERIAL PRIMARY KEY, number TEXT UNIQUE)",
    )
    return Built(None, [order], setup)


@safe(
    "exclusion-constraint",
    databases=POSTGRESQL,
    note="the database refuses overlapping bookings of one room",
)
def exclusion_constraint(url: str) -> Built:
    def book(first: int, last: int) -> str:
        with psycopg.connect(url) as connection:
            try:
                connection.execute(
                    "INSERT INTO bookings (room, hours) VALUES ('[1,1]', int4range(%s, %s))",
                    (first, last),
                )
            except psycopg.errors.ExclusionViolation:
                raise ValueError("overlaps another booking") from None
            return "booked"

    def book_morning() -> str:
        return book(9, 12)

    def book_noon() -> str:
        return book(11, 14)

    setup = script(
        url,
        "CREATE TABLE bookings (id SERIAL PRIMARY KEY, room INT4RANGE, hours INT4RANGE,"
        " EXCLUDE USING gist (room WITH &&, hours WITH &&))",
    )
    return Built(None, [book_morning, book_noon], setup)
