"""Rules over several rows: each write keeps them, two at once do not."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException
from flask import Flask
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import POSTGRESQL, Built, racy
from tests.find.corpus.kit import connect, engine_url, marks, orm, script

PHANTOM = (Anomaly.PHANTOM_INSERT, Anomaly.WRITE_SKEW)


class Base(DeclarativeBase):
    pass


class Doctor(Base):
    __tablename__ = "doctors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    on_call: Mapped[bool] = mapped_column(default=True)


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    open: Mapped[bool] = mapped_column(default=True)


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[int]
    title: Mapped[str]


class Course(Base):
    __tablename__ = "courses"
    id: Mapped[int] = mapped_column(primary_key=True)
    places: Mapped[int]


class Participant(Base):
    __tablename__ = "participants"
    id: Mapped[int] = mapped_column(primary_key=True)
    course_id: Mapped[int]
    name: Mapped[str]


class Seat(Base):
    __tablename__ = "seats"
    id: Mapped[int] = mapped_column(primary_key=True)
    taken_by: Mapped[str | None]


ACCOUNTS = (
    "CREATE TABLE accounts (id SERIAL PRIMARY KEY, owner TEXT NOT NULL, balance INTEGER NOT NULL)",
    "INSERT INTO accounts (owner, balance) VALUES ('ada', 60), ('ada', 60)",
)


@racy(
    "bank-write-skew",
    Anomaly.WRITE_SKEW,
    also=(Anomaly.LOST_UPDATE,),
    note="each withdrawal sees 120 on both accounts together; both go through, the sum is -80",
)
def bank_write_skew(url: str) -> Built:
    sql = marks(url)

    def withdraw(account: int) -> str:
        with connect(url) as connection:
            (total,) = connection.execute(
                "SELECT sum(balance) FROM accounts WHERE owner = 'ada'"
            ).fetchone()
            if total < 100:
                raise ValueError("not covered")
            connection.execute(
                sql("UPDATE accounts SET balance = balance - 100 WHERE id = %s"), (account,)
            )
            connection.commit()
            return "withdrawn"

    return Built(None, [partial(withdraw, 1), partial(withdraw, 2)], script(url, *ACCOUNTS))


@racy(
    "bank-repeatable-read",
    Anomaly.WRITE_SKEW,
    databases=POSTGRESQL,
    also=(Anomaly.ABORTS,),
    note="REPEATABLE READ refuses lost updates, but the two write different rows",
)
def bank_repeatable_read(url: str) -> Built:
    def withdraw(account: int) -> str:
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            row: Any = connection.execute(
                "SELECT sum(balance) FROM accounts WHERE owner = 'ada'"
            ).fetchone()
            if row[0] < 100:
                raise ValueError("not covered")
            connection.execute(
                "UPDATE accounts SET balance = balance - 100 WHERE id = %s", (account,)
            )
            return "withdrawn"

    return Built(None, [partial(withdraw, 1), partial(withdraw, 2)], script(url, *ACCOUNTS))


@racy(
    "lost-update-repeatable-read",
    Anomaly.ABORTS,
    databases=POSTGRESQL,
    note="REPEATABLE READ turns the second writer away (40001), and nobody tries again: a 500",
)
def lost_update_repeatable_read(url: str) -> Built:
    engine = create_engine(engine_url(url), isolation_level="REPEATABLE READ")
    app = FastAPI()

    @app.post("/seats/{seat_id}/swap")
    def swap(seat_id: int) -> dict[str, str | None]:
        with Session(engine) as db:
            seat = db.get_one(Seat, seat_id)
            seat.taken_by = {"ada": "bob", "bob": "ada"}[str(seat.taken_by)]
            db.commit()
            return {"swapped": "yes"}

    setup = orm(url, Base, lambda: [Seat(taken_by="ada")])
    return Built(app, ["POST /seats/1/swap"], setup, close=engine.dispose)


@racy(
    "on-call",
    Anomaly.WRITE_SKEW,
    note="two doctors go off call, each because the other one is still on: nobody is",
)
def on_call(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/doctors/{doctor_id}/off-call")
    def off_call(doctor_id: int) -> dict[str, bool]:
        with Session(engine) as db:
            others = select(func.count()).where(Doctor.on_call, Doctor.id != doctor_id)
            if not db.scalar(others):
                raise HTTPException(409, "somebody has to stay")
            db.get_one(Doctor, doctor_id).on_call = False
            db.commit()
            return {"on_call": False}

    setup = orm(url, Base, lambda: [Doctor(name="Alice"), Doctor(name="Bob")])
    operations = ["POST /doctors/1/off-call", "POST /doctors/2/off-call"]
    return Built(app, operations, setup, close=engine.dispose)


@racy(
    "parent-closed",
    *PHANTOM,
    note="the ticket is closed for it has no task, while a task is added for it is open",
)
def parent_closed(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("tickets")

    @app.post("/tickets/<int:ticket_id>/close")
    def close(ticket_id: int) -> Any:
        with Session(engine) as db:
            if db.scalar(select(func.count()).where(Task.ticket_id == ticket_id)):
                return {"detail": "there are tasks left"}, 409
            db.get_one(Ticket, ticket_id).open = False
            db.commit()
            return {"open": False}

    @app.post("/tickets/<int:ticket_id>/tasks")
    def add(ticket_id: int) -> Any:
        with Session(engine) as db:
            if not db.get_one(Ticket, ticket_id).open:
                return {"detail": "the ticket is closed"}, 409
            db.add(Task(ticket_id=ticket_id, title="paint"))
            db.commit()
            return {"added": True}, 201

    operations = ["POST /tickets/1/close", "POST /tickets/1/tasks"]
    return Built(app, operations, orm(url, Base, lambda: [Ticket()]), close=engine.dispose)


@racy(
    "max-participants",
    *PHANTOM,
    Anomaly.DUPLICATE_CREATE,
    note="both see 1 of 2 places taken, both take the last one",
)
def max_participants(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/courses/{course_id}/join", status_code=201)
    def join(course_id: int, name: str) -> dict[str, str]:
        with Session(engine) as db:
            course = db.get_one(Course, course_id)
            taken = select(func.count()).where(Participant.course_id == course_id)
            if (db.scalar(taken) or 0) >= course.places:
                raise HTTPException(409, "full")
            db.add(Participant(course_id=course_id, name=name))
            db.commit()
            return {"joined": name}

    setup = orm(url, Base, lambda: [Course(places=2), Participant(course_id=1, name="Ada")])
    operations = ["POST /courses/1/join?name=Bob", "POST /courses/1/join?name=Cleo"]
    return Built(app, operations, setup, close=engine.dispose)


@racy(
    "seat-booking",
    Anomaly.LOST_UPDATE,
    Anomaly.DOUBLE_TRANSITION,
    also=(Anomaly.STALE_ANSWER,),
    note="both find the seat free; the second name overwrites the first, both have a ticket",
)
def seat_booking(url: str) -> Built:
    engine = create_engine(engine_url(url, postgresql="postgresql+psycopg2"))

    def book(name: str) -> str:
        with Session(engine) as db:
            seat = db.get_one(Seat, 1)
            if seat.taken_by is not None:
                raise ValueError("taken")
            seat.taken_by = name
            db.commit()
            return f"ticket for {name}"

    def book_for_ada() -> str:
        return book("Ada")

    def book_for_bob() -> str:
        return book("Bob")

    setup = orm(url, Base, lambda: [Seat(taken_by=None)])
    return Built(None, [book_for_ada, book_for_bob], setup, close=engine.dispose)


@racy(
    "wallet-torn",
    Anomaly.TORN_STEPS,
    Anomaly.NON_REPEATABLE_READ,
    Anomaly.STALE_ANSWER,
    note="the money is between the wallets when the report is made: 60 instead of 120",
)
def wallet_torn(url: str) -> Built:
    def transfer() -> str:
        with connect(url) as connection:
            connection.execute("UPDATE accounts SET balance = balance - 60 WHERE id = 1")
            connection.commit()
            connection.execute("UPDATE accounts SET balance = balance + 60 WHERE id = 2")
            connection.commit()
            return "sent"

    def report() -> int:
        with connect(url) as connection:
            (total,) = connection.execute("SELECT sum(balance) FROM accounts").fetchone()
            return int(total)

    return Built(None, [transfer, report], script(url, *ACCOUNTS))


@racy(
    "report-two-queries",
    Anomaly.NON_REPEATABLE_READ,
    Anomaly.TORN_STEPS,
    Anomaly.STALE_ANSWER,
    note="the transfer commits between the report's two queries: one account old, one new",
)
def report_two_queries(url: str) -> Built:
    def transfer() -> str:
        with connect(url) as connection:
            connection.execute("UPDATE accounts SET balance = balance - 60 WHERE id = 1")
            connection.execute("UPDATE accounts SET balance = balance + 60 WHERE id = 2")
            connection.commit()
            return "sent"

    def report() -> list[int]:
        with connect(url) as connection:
            query = "SELECT balance FROM accounts WHERE id = "
            return [connection.execute(query + str(n)).fetchone()[0] for n in (1, 2)]

    return Built(None, [transfer, report], script(url, *ACCOUNTS))
