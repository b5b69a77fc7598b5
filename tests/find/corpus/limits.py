"""Quotas, buckets, coupons, tokens and keys that are checked first and used afterwards."""

# ruff: noqa: B008  (defaults are how FastAPI is told)

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Header, HTTPException
from flask import Flask, request
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, racy
from tests.find.corpus.kit import connect, engine_url, marks, orm, script, until_closed


class Base(DeclarativeBase):
    pass


class Profile(Base):
    __tablename__ = "profiles"
    id: Mapped[int] = mapped_column(primary_key=True)
    used_today: Mapped[int] = mapped_column(default=0)
    allowed: Mapped[int] = mapped_column(default=1)


class Plan(Base):
    __tablename__ = "plans"
    id: Mapped[int] = mapped_column(primary_key=True)
    profile_id: Mapped[int]
    idea: Mapped[str]


class RefreshToken(Base):
    __tablename__ = "refresh_tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str]
    used: Mapped[bool] = mapped_column(default=False)


class StoredAnswer(Base):
    __tablename__ = "stored_answers"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    answer: Mapped[str]


class Bucket(Base):
    __tablename__ = "buckets"
    id: Mapped[int] = mapped_column(primary_key=True)
    tokens: Mapped[int]
    updated_at: Mapped[float]


@racy(
    "quota",
    Anomaly.LOST_UPDATE,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    note="a free user asks for two plans at once: both find 0 of 1 used",
)
def quota(url: str) -> Built:
    engine = create_async_engine(
        engine_url(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+asyncpg")
    )
    app = FastAPI(lifespan=until_closed(engine))

    async def session() -> Any:
        async with AsyncSession(engine) as opened:
            yield opened

    @app.post("/plans", status_code=201)
    async def generate(idea: str, db: AsyncSession = Depends(session)) -> dict[str, str]:
        profile = await db.get_one(Profile, 1)
        if profile.used_today >= profile.allowed:
            raise HTTPException(429, "no plan left today")
        db.add(Plan(profile_id=1, idea=idea))
        profile.used_today += 1
        await db.commit()
        return {"idea": idea}

    setup = orm(url, Base, lambda: [Profile()])
    return Built(app, ["POST /plans?idea=bakery", "POST /plans?idea=brewery"], setup)


@racy(
    "quota-count",
    Anomaly.PHANTOM_INSERT,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.WRITE_SKEW,
    note="the quota is what count(*) says, and neither counts the other's plan",
)
def quota_count(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def generate(idea: str) -> str:
        with Session(engine) as db:
            if db.scalar(select(func.count()).select_from(Plan)):
                raise PermissionError("no plan left today")
            db.add(Plan(profile_id=1, idea=idea))
            db.commit()
            return "generated"

    operations = [partial(generate, "bakery"), partial(generate, "brewery")]
    return Built(None, operations, orm(url, Base), close=engine.dispose)


@racy(
    "refresh-token",
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.LOST_UPDATE,
    note="one stolen or resent refresh token is exchanged twice: two live successors",
)
def refresh_token(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/auth/refresh")
    def refresh(token: str) -> dict[str, str]:
        with Session(engine) as db:
            old = db.scalar(select(RefreshToken).where(RefreshToken.token == token))
            if old is None or old.used:
                raise HTTPException(401, "this token was used before")
            old.used = True
            fresh = RefreshToken(token=secrets.token_urlsafe(16))
            db.add(fresh)
            db.commit()
            return {"refresh_token": fresh.token}

    setup = orm(url, Base, lambda: [RefreshToken(token="first")])
    return Built(app, ["POST /auth/refresh?token=first"], setup, close=engine.dispose)


@racy(
    "coupon-both-won",
    Anomaly.STALE_ANSWER,
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.LOST_UPDATE,
    note="the row ends as redeemed either way, but both callers were told that they won",
)
def coupon_both_won(url: str) -> Built:
    engine = create_engine(engine_url(url, postgresql="postgresql+psycopg2"))
    app = Flask("coupons")

    @app.post("/coupons/<code>/redeem")
    def redeem(code: str) -> Any:
        with engine.begin() as connection:
            redeemed = connection.scalar(
                text("SELECT redeemed FROM coupons WHERE code = :code"), {"code": code}
            )
            if redeemed:
                return {"won": False}
            connection.execute(
                text("UPDATE coupons SET redeemed = 1 WHERE code = :code"), {"code": code}
            )
            return {"won": True}

    setup = script(
        url,
        "CREATE TABLE coupons (code TEXT PRIMARY KEY, redeemed INTEGER NOT NULL)",
        "INSERT INTO coupons VALUES ('SPRING', 0)",
    )
    return Built(app, ["POST /coupons/SPRING/redeem"], setup, close=engine.dispose)


@racy(
    "idempotency-key-late",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    note="the key is looked up first and stored last, with no unique index: the resent order runs",
)
def idempotency_key_late(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("payments")

    @app.post("/payments")
    def pay() -> Any:
        key = request.headers["Idempotency-Key"]
        with Session(engine) as db:
            stored = db.scalar(select(StoredAnswer).where(StoredAnswer.key == key))
            if stored is None:
                db.add(Plan(profile_id=1, idea="payment of 50"))
                stored = StoredAnswer(key=key, answer="paid 50")
                db.add(stored)
                db.commit()
            return {"answer": stored.answer}

    return Built(app, ["POST /payments Idempotency-Key:7c1d"], orm(url, Base), close=engine.dispose)


@racy(
    "token-bucket",
    Anomaly.LOST_UPDATE,
    note="both read one token left, both take it",
)
def token_bucket(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.get("/search")
    def search() -> dict[str, str]:
        with Session(engine) as db:
            bucket = db.get_one(Bucket, 1)
            if bucket.tokens < 1:
                raise HTTPException(429, "slow down", {"Retry-After": "1"})
            bucket.tokens -= 1
            bucket.updated_at = time.time()
            db.commit()
        return {"found": "nothing"}

    setup = orm(url, Base, lambda: [Bucket(tokens=1, updated_at=time.time())])
    return Built(app, ["GET /search"], setup, close=engine.dispose)


@racy(
    "api-calls-left",
    Anomaly.LOST_UPDATE,
    note="a dependency counts each call before the endpoint runs: of two calls one is counted",
)
def api_calls_left(url: str) -> Built:
    app = FastAPI()
    sql = marks(url)

    def count_call(x_key: str = Header()) -> None:
        with connect(url) as connection:
            query = sql("SELECT calls FROM clients WHERE api_key = %s")
            (calls,) = connection.execute(query, (x_key,)).fetchone()
            if calls >= 100:
                raise HTTPException(429, "come back tomorrow")
            connection.execute(
                sql("UPDATE clients SET calls = %s WHERE api_key = %s"), (calls + 1, x_key)
            )
            connection.commit()

    @app.get("/weather", dependencies=[Depends(count_call)])
    def weather() -> dict[str, str]:
        return {"sky": "clear"}

    setup = script(
        url,
        "CREATE TABLE clients (api_key TEXT PRIMARY KEY, calls INTEGER NOT NULL)",
        "INSERT INTO clients VALUES ('k1', 99)",
    )
    return Built(app, ["GET /weather X-Key:k1"], setup)
