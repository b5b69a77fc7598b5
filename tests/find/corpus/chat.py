"""Bursts of messages that are answered as one batch."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, racy
from tests.find.corpus.kit import connect, engine_url, marks, orm, script


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str]
    words: Mapped[str]
    answered: Mapped[bool] = mapped_column(default=False)


class Reply(Base):
    __tablename__ = "replies"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str]
    words: Mapped[str]


def _app(url: str) -> tuple[FastAPI, Any]:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/webhook")
    def receive(words: str) -> dict[str, bool]:
        with Session(engine) as db:
            db.add(Message(phone="966", words=words))
            db.commit()
            return {"accepted": True}

    @app.post("/close-batch")
    def close_batch() -> dict[str, int]:
        mine = (Message.phone == "966", Message.answered.is_(False))
        with Session(engine) as db:
            waiting = db.scalars(select(Message.words).where(*mine).order_by(Message.id)).all()
            if not waiting:
                return {"answered": 0}
            db.add(Reply(phone="966", words="about " + ", ".join(waiting)))
            db.execute(update(Message).where(*mine).values(answered=True))
            db.commit()
            return {"answered": len(waiting)}

    return app, engine


@racy(
    "batch-loses-message",
    Anomaly.PHANTOM_INSERT,
    Anomaly.LOST_UPDATE,
    Anomaly.WRITE_SKEW,
    Anomaly.TORN_STEPS,
    also=(Anomaly.DUPLICATE_CREATE, Anomaly.DOUBLE_TRANSITION),
    note="a message that comes after the SELECT is marked as answered, and no reply speaks of it",
)
def batch_loses_message(url: str) -> Built:
    app, engine = _app(url)
    operations = ["POST /webhook?words=price", "POST /close-batch"]
    setup = orm(url, Base, lambda: [Message(phone="966", words="hello")])
    return Built(app, operations, setup, close=engine.dispose)


@racy(
    "batch-answered-twice",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.LOST_UPDATE,
    Anomaly.PHANTOM_INSERT,
    note="two workers close the same batch: two replies to one burst",
)
def batch_answered_twice(url: str) -> Built:
    app, engine = _app(url)
    setup = orm(url, Base, lambda: [Message(phone="966", words="hello")])
    return Built(app, ["POST /close-batch"], setup, close=engine.dispose)


@racy(
    "message-order",
    Anomaly.DUPLICATE_NUMBER,
    Anomaly.LOST_UPDATE,
    note="the next place in the chat is read from the chat's row, and given out twice",
)
def message_order(url: str) -> Built:
    sql = marks(url)

    def say(words: str) -> int:
        with connect(url) as connection:
            (last,) = connection.execute("SELECT last_seq FROM chats WHERE id = 1").fetchone()
            connection.execute(sql("UPDATE chats SET last_seq = %s WHERE id = 1"), (last + 1,))
            connection.execute(
                sql("INSERT INTO lines (seq, words) VALUES (%s, %s)"), (last + 1, words)
            )
            connection.commit()
            return int(last + 1)

    def say_hello() -> int:
        return say("hello")

    def say_goodbye() -> int:
        return say("goodbye")

    setup = script(
        url,
        "CREATE TABLE chats (id SERIAL PRIMARY KEY, last_seq INTEGER NOT NULL)",
        "CREATE TABLE lines (id SERIAL PRIMARY KEY, seq INTEGER NOT NULL, words TEXT)",
        "INSERT INTO chats (last_seq) VALUES (4)",
    )
    return Built(None, [say_hello, say_goodbye], setup)
