"""Functions as operations: what they return is plain data, what they raise is an answer."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer
from crowdsafe.find.targets import call, load, spec_of
from crowdsafe.find.targets.messages import sqlstate_of
from crowdsafe.find.targets.plain import plain


def allocate(product: int = 1, amount: int = 2) -> dict[str, int]:
    return {"product": product, "amount": amount}


async def allocate_later(product: int) -> int:
    await asyncio.sleep(0)
    return product


class Service:
    async def __call__(self) -> str:
        return "called"


def run(operation: Any) -> Answer:
    made = load(None).operation(spec_of(operation))
    return asyncio.run(made.run_async()) if made.is_async else made.run()


@pytest.mark.parametrize(
    ("operation", "name", "body"),
    [
        (allocate, "allocate()", {"product": 1, "amount": 2}),
        (call(allocate, 3, amount=4), "allocate(3, amount=4)", {"product": 3, "amount": 4}),
        (call(allocate_later, 5, name="later"), "later", 5),
        (functools.partial(allocate_later, 6), "allocate_later()", 6),
        (Service(), "Service()", "called"),
        (lambda: None, "<lambda>()", None),
    ],
    ids=["function", "call", "async", "partial", "callable", "lambda"],
)
def test_kinds(operation: Any, name: str, body: Any) -> None:
    (reply,) = run(operation).replies
    assert (reply.request, reply.status, reply.body) == (name, None, body)


def test_reference_names_only_what_another_process_can_import() -> None:
    assert call(allocate).reference == f"{__name__}:allocate"
    assert call(allocate, 1).reference is None
    assert call(lambda: None).reference is None


def test_an_exception_is_an_answer() -> None:
    def failing() -> None:
        try:
            sqlite3.connect(":memory:").execute("SELECT * FROM nothing")
        except sqlite3.Error as error:
            raise ValueError("no stock") from error

    answer = run(failing)
    (reply,) = answer.replies
    assert (reply.error, reply.message, reply.sqlstate) == (
        "ValueError",
        "no stock",
        "SQLITE_ERROR",
    )
    assert answer.stopped_at == 0


def generate() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "why"),
    [(generate, "generator"), (allocate_later, "cannot be called so"), (42, "not a function")],
    ids=["generator", "arguments", "result"],
)
def test_what_is_no_operation(function: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        call(function)


def test_a_lambda_around_a_coroutine_is_told_what_to_write() -> None:
    (reply,) = run(lambda: allocate_later(1)).replies
    assert (reply.error, "call(function" in str(reply.message)) == ("ConfigError", True)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    lines: Mapped[list[Line]] = relationship()


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("order.id"))


def test_mapped_objects_give_what_is_loaded_and_ask_for_nothing() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Order(id=1, number="A", lines=[Line(id=1)]))
        session.commit()
        order = session.get(Order, 1)
        asked: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
        assert plain(order) == {"id": 1, "number": "A"}
        assert asked == []


def test_sqlstate_through_sqlalchemy_and_a_cycle() -> None:
    original = sqlite3.IntegrityError("UNIQUE")
    original.sqlite_errorname = "SQLITE_CONSTRAINT_UNIQUE"
    error = IntegrityError("INSERT", {}, original)
    outer = RuntimeError("x")
    outer.__context__, error.__cause__ = error, outer
    assert sqlstate_of(outer) == "SQLITE_CONSTRAINT_UNIQUE"
    assert sqlstate_of(ExceptionGroup("both", [ValueError(), error])) == "SQLITE_CONSTRAINT_UNIQUE"


def test_sqlstate_looks_no_further_than_ten_links() -> None:
    error: BaseException = sqlite3.OperationalError("busy")
    error.sqlite_errorname = "SQLITE_BUSY"
    for _ in range(10):
        outer = RuntimeError()
        outer.__cause__, error = error, outer
    assert sqlstate_of(error) is None
    assert sqlstate_of(error.__cause__) == "SQLITE_BUSY"


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    at: datetime


def test_plain_data() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    value = {
        1: Decimal("1.50"),
        "p": Point(1, at),
        "c": [Colour.RED, (1, 2)],
        "s": {2, 1},
        "b": b"\x00\xff",
        "u": uuid.UUID(int=1),
        "o": object(),
    }
    assert plain(value) == {
        "1": "1.50",
        "p": {"x": 1, "at": at.isoformat()},
        "c": ["red", [1, 2]],
        "s": [1, 2],
        "b": "00ff",
        "u": str(uuid.UUID(int=1)),
        "o": "<object object>",
    }


def test_plain_data_of_a_knot_ends() -> None:
    knot: list[Any] = []
    knot.append(knot)
    assert len(repr(plain(knot))) < 100
