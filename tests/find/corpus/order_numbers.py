"""Numbers of orders and places in a list are drawn from what is there already."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from flask import Flask
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, racy
from tests.find.corpus.kit import engine_url, orm, script


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str]


class Track(Base):
    __tablename__ = "tracks"
    id: Mapped[int] = mapped_column(primary_key=True)
    playlist: Mapped[str]
    title: Mapped[str]
    position: Mapped[int]


@racy(
    "order-number-max",
    Anomaly.DUPLICATE_NUMBER,
    note="both read ADM-2026-0001 as the last, both create ADM-2026-0002",
)
def order_number_max(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/orders", status_code=201)
    def create() -> dict[str, str]:
        with Session(engine) as db:
            last = db.scalar(select(func.max(Order.number)))
            order = Order(number=f"ADM-2026-{int(last[-4:]) + 1:04}")
            db.add(order)
            db.commit()
            return {"number": order.number}

    setup = orm(url, Base, lambda: [Order(number="ADM-2026-0001")])
    return Built(app, ["POST /orders {}"], setup, close=engine.dispose)


@racy(
    "order-number-count",
    Anomaly.DUPLICATE_NUMBER,
    note="both count one order, both become number 2",
)
def order_number_count(url: str) -> Built:
    engine = create_engine(engine_url(url, postgresql="postgresql+psycopg2"))
    app = Flask("orders")

    @app.post("/orders")
    def create() -> Any:
        with engine.begin() as connection:
            number = connection.scalar(text("SELECT count(*) FROM orders")) + 1
            connection.execute(
                text("INSERT INTO orders (number) VALUES (:number)"), {"number": number}
            )
        return {"number": number}, 201

    setup = script(
        url,
        "CREATE TABLE orders (id SERIAL PRIMARY KEY, number INTEGER NOT NULL)",
        "INSERT INTO orders (number) VALUES (1)",
    )
    return Built(app, ["POST /orders"], setup, close=engine.dispose)


@racy(
    "ranking",
    Anomaly.DUPLICATE_NUMBER,
    Anomaly.PHANTOM_INSERT,
    note="two tracks are appended at the same position of one playlist",
)
def ranking(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def append(title: str) -> int:
        with Session(engine) as db:
            last = db.scalar(select(func.max(Track.position)).where(Track.playlist == "party"))
            db.add(Track(playlist="party", title=title, position=last + 1))
            db.commit()
            return last + 1

    def append_waterloo() -> int:
        return append("Waterloo")

    def append_heroes() -> int:
        return append("Heroes")

    setup = orm(url, Base, lambda: [Track(playlist="party", title="Respect", position=1)])
    return Built(None, [append_waterloo, append_heroes], setup, close=engine.dispose)
