"""Documents in rows: lists of files, shares and settings that are read, changed and written."""

# ruff: noqa: B008  (defaults are how FastAPI is told)

from __future__ import annotations

import json
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from fastapi import Body, FastAPI, Header, HTTPException, Response
from flask import Flask, request
from sqlalchemy import JSON, create_engine, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

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


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(default=1)


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    shared_with: Mapped[list[str]] = mapped_column(JSON)


class Asset(Base):
    __tablename__ = "assets"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str]
    uses: Mapped[int] = mapped_column(default=1)


@racy(
    "file-metadata",
    Anomaly.LOST_UPDATE,
    note="two uploads add their file to the same list of files: one file is not in it",
)
def file_metadata(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+asyncpg")
    )
    app = FastAPI(lifespan=until_closed(engine))

    @app.post("/files", status_code=201)
    async def add(name: str) -> dict[str, str]:
        async with AsyncSession(engine) as db:
            user = await db.get_one(Document, 1)
            user.content = {**user.content, "files": [*user.content["files"], name]}
            user.version += 1
            await db.commit()
        return {"added": name}

    setup = orm(url, Base, lambda: [Document(content={"files": []})])
    return Built(app, ["POST /files?name=scan.pdf", "POST /files?name=letter.pdf"], setup)


@racy(
    "file-version-unchecked",
    Anomaly.LOST_UPDATE,
    also=(Anomaly.STALE_ANSWER,),
    note="the version is compared in Python with a row that the other one changes meanwhile",
)
def file_version_unchecked(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.put("/documents/{document_id}")
    def save(document_id: int, body: dict[str, Any] = Body()) -> dict[str, int]:
        with Session(engine) as db:
            document = db.get_one(Document, document_id)
            if document.version != body["version"]:
                raise HTTPException(409, f"somebody saved version {document.version}")
            document.content = body["content"]
            document.version += 1
            db.commit()
            return {"version": document.version}

    operations = [
        'PUT /documents/1 {"version": 1, "content": {"title": "mine"}}',
        'PUT /documents/1 {"version": 1, "content": {"title": "yours"}}',
    ]
    setup = orm(url, Base, lambda: [Document(content={"title": ""})])
    return Built(app, operations, setup, close=engine.dispose)


@racy(
    "share-list",
    Anomaly.LOST_UPDATE,
    note="two teachers share one project: the list that is written last lacks the other's group",
)
def share_list(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("projects")

    @app.post("/projects/<int:project_id>/share")
    def share(project_id: int) -> Any:
        with Session(engine) as db:
            project = db.get_one(Project, project_id)
            project.shared_with = [*project.shared_with, request.form["group"]]
            db.commit()
            return {"shared": True}

    operations = ["POST /projects/1/share group=4a", "POST /projects/1/share group=4b"]
    setup = orm(url, Base, lambda: [Project(shared_with=["staff"])])
    return Built(app, operations, setup, close=engine.dispose)


@racy(
    "asset-dedup",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    note="both look the digest up before either row is there: the bytes are stored twice",
)
def asset_dedup(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("assets")

    @app.post("/assets")
    def upload() -> Any:
        digest = request.form["digest"]
        with Session(engine) as db:
            asset = db.scalar(select(Asset).where(Asset.digest == digest))
            if asset is None:
                asset = Asset(digest=digest)
                db.add(asset)
            db.commit()
            return {"asset_id": asset.id}

    return Built(app, ["POST /assets digest=9f86d081"], orm(url, Base), close=engine.dispose)


@racy(
    "user-get-or-create",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    note="two first logins look for the user, find nobody, and both make one",
)
def user_get_or_create(url: str) -> Built:
    async def first_login_postgresql() -> str:
        connection = await asyncpg.connect(url)
        try:
            row = await connection.fetchrow("SELECT id FROM users WHERE email = $1", "ada@x.org")
            if row is None:
                await connection.execute("INSERT INTO users (email) VALUES ($1)", "ada@x.org")
            return "welcome"
        finally:
            await connection.close()

    async def first_login_sqlite() -> str:
        async with aiosqlite.connect(sqlite_path(url)) as connection:
            cursor = await connection.execute(
                "SELECT id FROM users WHERE email = ?", ("ada@x.org",)
            )
            if await cursor.fetchone() is None:
                await connection.execute("INSERT INTO users (email) VALUES (?)", ("ada@x.org",))
                await connection.commit()
            return "welcome"

    setup = script(url, "CREATE TABLE users (id SERIAL PRIMARY KEY, email TEXT NOT NULL)")
    login = first_login_sqlite if is_sqlite(url) else first_login_postgresql
    return Built(None, [login], setup)


@racy(
    "user-unique-500",
    Anomaly.ERROR,
    note="the unique index holds, but the second INSERT fails where nobody expects it: a 500",
)
def user_unique_500(url: str) -> Built:
    app = FastAPI()
    sql = marks(url)

    @app.post("/users", status_code=201)
    def register(email: str) -> dict[str, str]:
        with connect(url) as connection:
            query = sql("SELECT 1 FROM users WHERE email = %s")
            if connection.execute(query, (email,)).fetchone():
                raise HTTPException(409, "this address is taken")
            connection.execute(sql("INSERT INTO users (email) VALUES (%s)"), (email,))
            connection.commit()
        return {"email": email}

    setup = script(url, "CREATE TABLE users (id SERIAL PRIMARY KEY, email TEXT UNIQUE)")
    return Built(app, ["POST /users?email=ada@x.org"], setup)


@racy(
    "unique-name",
    Anomaly.WRITE_SKEW,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    also=(Anomaly.LOST_UPDATE, Anomaly.STALE_ANSWER),
    note="both rooms are renamed to a name that was free when each of them looked",
)
def unique_name(url: str) -> Built:
    sql = marks(url)

    def rename(room: int) -> str:
        with connect(url) as connection:
            taken = connection.execute("SELECT id FROM rooms WHERE name = 'Aurora'").fetchone()
            if taken is not None:
                raise ValueError("the name is taken")
            connection.execute(sql("UPDATE rooms SET name = 'Aurora' WHERE id = %s"), (room,))
            connection.commit()
            return "renamed"

    def rename_first() -> str:
        return rename(1)

    def rename_second() -> str:
        return rename(2)

    setup = script(
        url,
        "CREATE TABLE rooms (id SERIAL PRIMARY KEY, name TEXT NOT NULL)",
        "INSERT INTO rooms (name) VALUES ('Birch'), ('Cedar')",
    )
    return Built(None, [rename_first, rename_second], setup)


@racy(
    "soft-delete",
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    Anomaly.LOST_UPDATE,
    note="two replacements retire the same old key and add one each: two keys are active",
)
def soft_delete(url: str) -> Built:
    sql = marks(url)

    def replace_key(key: str) -> str:
        with connect(url) as connection:
            active = connection.execute(
                "SELECT id FROM api_keys WHERE owner = 'ada' AND deleted = 0"
            ).fetchall()
            for (row,) in active:
                connection.execute(sql("UPDATE api_keys SET deleted = 1 WHERE id = %s"), (row,))
            connection.execute(
                sql("INSERT INTO api_keys (owner, label, deleted) VALUES ('ada', %s, 0)"), (key,)
            )
            connection.commit()
            return key

    def replace_by_laptop() -> str:
        return replace_key("laptop")

    def replace_by_phone() -> str:
        return replace_key("phone")

    setup = script(
        url,
        "CREATE TABLE api_keys (id SERIAL PRIMARY KEY, owner TEXT, label TEXT, deleted INTEGER)",
        "INSERT INTO api_keys (owner, label, deleted) VALUES ('ada', 'old', 0)",
    )
    return Built(None, [replace_by_laptop, replace_by_phone], setup)


@racy(
    "cart-without-if-match",
    Anomaly.LOST_UPDATE,
    note="each reads the cart, adds its line and puts the whole back: the last PUT wins",
)
def cart_without_if_match(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.get("/cart")
    def show(response: Response) -> dict[str, Any]:
        with Session(engine) as db:
            cart = db.get_one(Document, 1)
            response.headers["ETag"] = f'"{cart.version}"'
            return {"total": cart.content["total"], "version": cart.version}

    @app.put("/cart")
    def save(body: dict[str, Any] = Body(), if_match: str = Header("")) -> dict[str, int]:
        with Session(engine) as db:
            cart = db.get_one(Document, 1)
            if if_match and if_match != f'"{cart.version}"':
                raise HTTPException(412, "the cart has changed")
            cart.content = body
            cart.version += 1
            db.commit()
            return {"version": cart.version}

    operation = 'GET /cart && PUT /cart {"total": {{body.total}}, "by": "%s"}'
    setup = orm(url, Base, lambda: [Document(content={"total": 10, "by": ""})])
    return Built(app, [operation % "phone", operation % "laptop"], setup, close=engine.dispose)


@racy(
    "settings-json",
    Anomaly.LOST_UPDATE,
    note="two settings live in one JSON column: changing one puts the other back",
)
def settings_json(url: str) -> Built:
    async def change(asked: Request) -> JSONResponse:
        changes = await asked.json()
        if is_sqlite(url):
            async with aiosqlite.connect(sqlite_path(url)) as connection:
                cursor = await connection.execute("SELECT settings FROM profiles WHERE id = 1")
                row: Any = await cursor.fetchone()
                merged = {**json.loads(row[0]), **changes}
                await connection.execute(
                    "UPDATE profiles SET settings = ? WHERE id = 1", (json.dumps(merged),)
                )
                await connection.commit()
        else:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                cursor = await connection.execute("SELECT settings FROM profiles WHERE id = 1")
                row = await cursor.fetchone()
                merged = {**json.loads(row[0]), **changes}
                await connection.execute(
                    "UPDATE profiles SET settings = %s WHERE id = 1", (json.dumps(merged),)
                )
        return JSONResponse({"saved": True})

    app = Starlette(routes=[Route("/settings", change, methods=["PATCH"])])
    setup = script(
        url,
        "CREATE TABLE profiles (id SERIAL PRIMARY KEY, settings TEXT NOT NULL)",
        """INSERT INTO profiles (settings) VALUES ('{"theme": "light", "mail": true}')""",
    )
    return Built(
        app, ['PATCH /settings {"theme": "dark"}', 'PATCH /settings {"mail": false}'], setup
    )


@racy(
    "like-counter",
    Anomaly.LOST_UPDATE,
    note="both read 7 likes, both write 8",
)
def like_counter(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+psycopg")
    )

    async def like(asked: Request) -> JSONResponse:
        async with AsyncSession(engine) as db, db.begin():
            likes = await db.scalar(
                select(func.max(Asset.uses)).where(Asset.id == asked.path_params["post"])
            )
            await db.execute(
                update(Asset).where(Asset.id == asked.path_params["post"]).values(uses=likes + 1)
            )
        return JSONResponse({"liked": True})

    app = Starlette(
        routes=[Route("/posts/{post:int}/like", like, methods=["POST"])],
        lifespan=until_closed(engine),
    )
    setup = orm(url, Base, lambda: [Asset(digest="post", uses=7)])
    return Built(app, ["POST /posts/1/like"], setup)
