"""An office and a floor: invoices, timesheets, leave, stages of an order."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

import psycopg2
from fastapi import FastAPI, HTTPException
from flask import Flask
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, racy
from tests.find.corpus.kit import connect, engine_url, is_sqlite, marks, orm, script, sqlite_path


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]
    invoiced: Mapped[bool] = mapped_column(default=False)


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    amount: Mapped[int]


class Employee(Base):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    annual_h: Mapped[int]


class Leave(Base):
    __tablename__ = "leave_requests"
    id: Mapped[int] = mapped_column(primary_key=True)
    employee_id: Mapped[int]
    first_day: Mapped[str]
    last_day: Mapped[str]
    hours: Mapped[int]
    state: Mapped[str] = mapped_column(default="requested")


class Timesheet(Base):
    __tablename__ = "timesheets"
    id: Mapped[int] = mapped_column(primary_key=True)
    hours: Mapped[int]
    state: Mapped[str] = mapped_column(default="submitted")


class Pay(Base):
    __tablename__ = "pay_calculations"
    id: Mapped[int] = mapped_column(primary_key=True)
    timesheet_id: Mapped[int]
    amount: Mapped[int]


@racy(
    "invoice-twice",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.PHANTOM_INSERT,
    note="both look for an invoice of the order, both find none",
)
def invoice_twice(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = Flask("invoices")

    @app.post("/orders/<int:order_id>/invoice")
    def invoice(order_id: int) -> Any:
        with Session(engine) as db:
            order = db.get_one(Order, order_id)
            if db.scalar(select(Invoice).where(Invoice.order_id == order_id)):
                return {"detail": "already invoiced"}, 409
            made = Invoice(order_id=order_id, amount=order.total)
            db.add(made)
            db.commit()
            return {"invoice_id": made.id}, 201

    setup = orm(url, Base, lambda: [Order(total=500)])
    return Built(app, ["POST /orders/1/invoice"], setup, close=engine.dispose)


@racy(
    "invoice-flag",
    Anomaly.DUPLICATE_CREATE,
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.LOST_UPDATE,
    note="both read invoiced = false; the flag is set twice, the invoice made twice",
)
def invoice_flag(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/orders/{order_id}/invoice", status_code=201)
    def invoice(order_id: int) -> dict[str, int]:
        with Session(engine) as db, db.begin():
            order = db.get_one(Order, order_id)
            if order.invoiced:
                raise HTTPException(409, "already invoiced")
            order.invoiced = True
            db.add(Invoice(order_id=order_id, amount=order.total))
            return {"amount": order.total}

    setup = orm(url, Base, lambda: [Order(total=500)])
    return Built(app, ["POST /orders/1/invoice"], setup, close=engine.dispose)


@racy(
    "timesheet-overlap",
    Anomaly.PHANTOM_INSERT,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.WRITE_SKEW,
    note="neither sees the other's hours: 8 to 12 and 10 to 14 are both entered",
)
def timesheet_overlap(url: str) -> Built:
    sql = marks(url)

    def enter(start: int, end: int) -> str:
        with connect(url) as connection:
            clash = connection.execute(
                sql(
                    "SELECT count(*) FROM entries"
                    " WHERE employee_id = %s AND starts < %s AND ends > %s"
                ),
                (1, end, start),
            ).fetchone()
            if clash[0]:
                raise ValueError("these hours are entered already")
            connection.execute(
                sql("INSERT INTO entries (employee_id, starts, ends) VALUES (%s, %s, %s)"),
                (1, start, end),
            )
            connection.commit()
            return "entered"

    setup = script(
        url,
        "CREATE TABLE entries (id SERIAL PRIMARY KEY, employee_id INTEGER, starts INTEGER,"
        " ends INTEGER)",
    )
    return Built(None, [partial(enter, 8, 12), partial(enter, 10, 14)], setup)


@racy(
    "timesheet-approved-twice",
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.LOST_UPDATE,
    note="both read 'submitted': one timesheet, two pay calculations",
)
def timesheet_approved_twice(url: str) -> Built:
    engine = create_engine(engine_url(url))

    def approve() -> str:
        with Session(engine) as db:
            sheet = db.get_one(Timesheet, 1)
            if sheet.state != "submitted":
                return "already approved"
            sheet.state = "approved"
            db.add(Pay(timesheet_id=1, amount=sheet.hours * 30))
            db.commit()
            return "approved"

    setup = orm(url, Base, lambda: [Timesheet(hours=38)])
    return Built(None, [approve], setup, close=engine.dispose)


@racy(
    "leave-balance",
    Anomaly.LOST_UPDATE,
    also=(Anomaly.DOUBLE_TRANSITION,),
    note="two requests of one employee are approved at once: the balance loses one deduction",
)
def leave_balance(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/leave/{leave_id}/approve")
    def approve(leave_id: int) -> dict[str, int]:
        with Session(engine) as db:
            leave = db.get_one(Leave, leave_id)
            employee = db.get_one(Employee, leave.employee_id)
            if leave.state != "requested" or employee.annual_h - leave.hours < -76:
                raise HTTPException(409, "cannot be approved")
            leave.state = "approved"
            employee.annual_h = employee.annual_h - leave.hours
            db.commit()
            return {"balance": employee.annual_h}

    def rows() -> list[object]:
        day = {"first_day": "2026-01-05", "last_day": "2026-01-05", "employee_id": 1}
        return [Employee(annual_h=0), Leave(**day, hours=40), Leave(**day, hours=60)]

    operations = ["POST /leave/1/approve", "POST /leave/2/approve"]
    return Built(app, operations, orm(url, Base, rows), close=engine.dispose)


@racy(
    "leave-overlap",
    Anomaly.PHANTOM_INSERT,
    Anomaly.DUPLICATE_CREATE,
    Anomaly.WRITE_SKEW,
    note="two overlapping requests are both checked before either is there",
)
def leave_overlap(url: str) -> Built:
    engine = create_engine(engine_url(url))
    app = FastAPI()

    @app.post("/leave", status_code=201)
    def ask(first: str, last: str) -> dict[str, str]:
        with Session(engine) as db:
            overlapping = select(Leave).where(
                Leave.employee_id == 1, Leave.first_day <= last, Leave.last_day >= first
            )
            if db.scalars(overlapping).first():
                raise HTTPException(409, "overlaps another request")
            db.add(Leave(employee_id=1, first_day=first, last_day=last, hours=8))
            db.commit()
            return {"from": first, "to": last}

    operations = [
        "POST /leave?first=2026-03-02&last=2026-03-06",
        "POST /leave?first=2026-03-05&last=2026-03-09",
    ]
    return Built(app, operations, orm(url, Base), close=engine.dispose)


@racy(
    "stage-move",
    Anomaly.DOUBLE_TRANSITION,
    Anomaly.LOST_UPDATE,
    note="both read 'winding': one move, two lines in the log, both told that they moved it",
)
def stage_move(url: str) -> Built:
    app = Flask("stages")
    sql = marks(url)

    @app.post("/orders/<int:order_id>/advance")
    def advance(order_id: int) -> Any:
        connection: Any = (
            sqlite3.connect(sqlite_path(url)) if is_sqlite(url) else psycopg2.connect(url)
        )
        try:
            cursor = connection.cursor()
            cursor.execute(sql("SELECT stage FROM orders WHERE id = %s"), (order_id,))
            (stage,) = cursor.fetchone()
            if stage != "winding":
                return {"detail": f"the order is in {stage}"}, 409
            cursor.execute(
                sql("UPDATE orders SET stage = %s WHERE id = %s"), ("finishing", order_id)
            )
            cursor.execute(
                sql("INSERT INTO stage_log (order_id, stage) VALUES (%s, %s)"),
                (order_id, "finishing"),
            )
            connection.commit()
        finally:
            connection.close()
        return {"stage": "finishing"}

    setup = script(
        url,
        "CREATE TABLE orders (id SERIAL PRIMARY KEY, stage TEXT NOT NULL)",
        "CREATE TABLE stage_log (id SERIAL PRIMARY KEY, order_id INTEGER, stage TEXT)",
        "INSERT INTO orders (stage) VALUES ('winding')",
    )
    return Built(app, ["POST /orders/1/advance"], setup)


@racy(
    "stage-relative",
    Anomaly.LOST_UPDATE,
    Anomaly.DOUBLE_TRANSITION,
    note="two relative moves read the same stage: one of the two is lost",
)
def stage_relative(url: str) -> Built:
    stages = ["order_entered", "pending_material", "paper_slitting", "winding"]

    def forward() -> str:
        with connect(url) as connection:
            (stage,) = connection.execute("SELECT stage FROM jobs WHERE id = 1").fetchone()
            further = stages[stages.index(stage) + 1]
            connection.execute(marks(url)("UPDATE jobs SET stage = %s WHERE id = 1"), (further,))
            connection.commit()
            return further

    setup = script(
        url,
        "CREATE TABLE jobs (id SERIAL PRIMARY KEY, stage TEXT NOT NULL)",
        "INSERT INTO jobs (stage) VALUES ('order_entered')",
    )
    return Built(None, [forward], setup)
