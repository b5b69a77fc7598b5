"""Safe: a version is compared by the statement that writes; and readers that see one moment."""

# ruff: noqa: B008  (defaults are how FastAPI is told)

from __future__ import annotations

from typing import Any

from fastapi import Body, FastAPI, Header, HTTPException, Request, Response
from flask import Flask, request
from sqlalchemy import JSON, DateTime, create_engine, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.find.corpus.case import POSTGRESQL, Built, safe
from tests.find.corpus.kit import connect, engine_url, marks, orm, script, until_closed


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="")
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Document(Base):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(default=1)


class Visitor(Base):
    __tablename__ = "visitors"
    id: Mapped[int] = mapped_column(primary_key=True)
    last_seen: Mapped[Any] = mapped_column(DateTime, server_default=func.now())


@safe(
    "version-column",
    note="SQLAlchemy's version_id_col: the second save finds no row, a 409",
)
def version_column(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("orders")

    @app.patch("/orders/<int:order_id>")
    def save(order_id: int) -> Any:
        with Session(engine) as db:
            order = db.get_one(Order, order_id)
            if order.version != int(request.form["version"]):
                return {"detail": "somebody saved it"}, 409
            order.note = request.form["note"]
            try:
                db.commit()
            except StaleDataError:
                return {"detail": "somebody saved it"}, 409
        return {"saved": True}

    operations = ["PATCH /orders/1 version=1&note=urgent", "PATCH /orders/1 version=1&note=later"]
    return Built(app, operations, orm(url, Base, lambda: [Order()]), close=engine.dispose)


@safe(
    "if-match",
    note="UPDATE ... WHERE version = the one of If-Match; else 412",
)
def if_match(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.get("/cart")
    def show(response: Response) -> dict[str, Any]:
        with Session(engine) as db:
            cart = db.get_one(Document, 1)
            response.headers["ETag"] = f'"{cart.version}"'
            return cart.content

    @app.put("/cart")
    def save(body: dict[str, Any] = Body(), if_match: str = Header()) -> dict[str, bool]:
        with Session(engine) as db:
            expected = int(if_match.strip('"'))
            done = db.execute(
                update(Document)
                .where(Document.id == 1, Document.version == expected)
                .values(content=body, version=expected + 1)
            )
            if done.rowcount == 0:
                raise HTTPException(412, "the cart has changed")
            db.commit()
        return {"saved": True}

    operation = 'GET /cart && PUT /cart If-Match:{{headers.etag}} {"lamps": %d}'
    setup = orm(url, Base, lambda: [Document(content={"lamps": 0})])
    return Built(app, [operation % 1, operation % 2], setup, close=engine.dispose)


@safe(
    "version-retry",
    note="read, change, UPDATE ... WHERE version = the one read; again when somebody was faster",
)
def version_retry(url: str) -> Built:
    sql = marks(url)

    def add_tag(tag: str) -> str:
        with connect(url) as connection:
            for _ in range(5):
                tags, version = connection.execute(
                    "SELECT tags, version FROM posts WHERE id = 1"
                ).fetchone()
                done = connection.execute(
                    sql("UPDATE posts SET tags = %s, version = %s WHERE id = 1 AND version = %s"),
                    (" ".join(sorted([*tags.split(), tag])), version + 1, version),
                )
                connection.commit()
                if done.rowcount:
                    return "tagged"
        raise RuntimeError("too busy")

    def add_red() -> str:
        return add_tag("red")

    def add_blue() -> str:
        return add_tag("blue")

    setup = script(
        url,
        "CREATE TABLE posts (id SERIAL PRIMARY KEY, tags TEXT NOT NULL, version INTEGER NOT NULL)",
        "INSERT INTO posts (tags, version) VALUES ('', 1)",
    )
    return Built(None, [add_red, add_blue], setup)


@safe(
    "last-seen-middleware",
    note="a middleware writes down when the visitor was here last, on each request",
)
def last_seen_middleware(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+psycopg")
    )
    app = FastAPI(lifespan=until_closed(engine))

    @app.middleware("http")
    async def touch(asked: Request, further: Any) -> Any:
        async with AsyncSession(engine) as db, db.begin():
            await db.execute(update(Visitor).where(Visitor.id == 1).values(last_seen=func.now()))
        return await further(asked)

    @app.post("/log", status_code=201)
    async def write(words: str) -> dict[str, str]:
        async with AsyncSession(engine) as db, db.begin():
            db.add(Document(content={"words": words}))
        return {"words": words}

    operations = ["POST /log?words=one", "POST /log?words=two"]
    return Built(app, operations, orm(url, Base, lambda: [Visitor()]))


@safe(
    "one-statement-report",
    note="a transfer in one transaction, a report in one statement: the sum is always right",
)
def one_statement_report(url: str) -> Built:
    def transfer(_asked: StarletteRequest) -> JSONResponse:
        with connect(url) as connection:
            connection.execute("UPDATE accounts SET balance = balance - 60 WHERE id = 1")
            connection.execute("UPDATE accounts SET balance = balance + 60 WHERE id = 2")
            connection.commit()
        return JSONResponse({"sent": 60})

    def report(_asked: StarletteRequest) -> JSONResponse:
        with connect(url) as connection:
            rows = connection.execute("SELECT balance FROM accounts ORDER BY id").fetchall()
        return JSONResponse([balance for (balance,) in rows])

    app = Starlette(
        routes=[
            Route("/transfer", transfer, methods=["POST"]),
            Route("/report", report, methods=["GET"]),
        ]
    )
    setup = script(
        url,
        "CREATE TABLE accounts (id SERIAL PRIMARY KEY, balance INTEGER NOT NULL)",
        "INSERT INTO accounts (balance) VALUES (60), (60)",
    )
    return Built(app, ["POST /transfer", "GET /report"], setup)


@safe(
    "snapshot-report",
    databases=POSTGRESQL,
    note="two queries of a REPEATABLE READ transaction see the same moment",
)
def snapshot_report(url: str) -> Built:
    engine = create_engine(engine_url(url))
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")

    def rename() -> str:
        with Session(engine) as db, db.begin():
            db.add(Document(content={"words": "new"}))
            db.execute(update(Document).where(Document.id == 1).values(version=2))
        return "renamed"

    def report() -> list[int]:
        with Session(snapshot) as db:
            count = db.scalar(select(func.count()).select_from(Document)) or 0
            return [count, db.get_one(Document, 1).version]

    setup = orm(url, Base, lambda: [Document(content={})])
    return Built(None, [rename, report], setup, close=engine.dispose)
