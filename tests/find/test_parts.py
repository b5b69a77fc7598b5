"""The toolkit's parts under every schedule of two and three callers, statement by statement.

Each part is called as a plain function of a SQLAlchemy session, without the store: READ COMMITTED
on PostgreSQL and ``BEGIN IMMEDIATE`` on SQLite, as the store begins there; and once more under
SERIALIZABLE with the retry that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.errors import CrowdsafeError
from crowdsafe.find import Verdict, find
from crowdsafe.store import BigId, CrowdsafeBase, Json, UtcDateTime
from crowdsafe.writes import (
    Ledger,
    Log,
    StateMachine,
    edit,
    get_or_create,
    give,
    mutate,
    next_number,
    number_block,
    once,
    take,
    transition,
)

TRIES = 6


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int] = mapped_column(
        info={"crowdsafe.ledger": Ledger(table=lambda: Movement, row="stock_id", delta="delta")}
    )


class Movement(Base):
    __tablename__ = "stock_movements"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    stock_id: Mapped[int]
    delta: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="old")
    notes: Mapped[str] = mapped_column(default="old")
    tags: Mapped[list[str]] = mapped_column(Json, default=list)
    version: Mapped[int] = mapped_column(default=1)
    stage: Mapped[str] = mapped_column(
        default="winding",
        info={
            "crowdsafe.machine": StateMachine(
                edges={"winding": {"finishing", "scrapped"}},
                log=Log(table=lambda: Moves, row="order_id", by="by", at="at"),
            )
        },
    )


class Moves(Base):
    __tablename__ = "moves"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    order_id: Mapped[int]
    from_state: Mapped[str]
    to_state: Mapped[str]
    by: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(unique=True)


def take_80(session: Session) -> int:
    return take(session, Stock.on_hand, 80, where=1).balance


def give_30(session: Session) -> int:
    return give(session, Stock.on_hand, 30, where=1, ceiling=140).balance


def finish(session: Session) -> str:
    return transition(session, Order, 1, "stage", from_="winding", to="finishing").to


def scrap(session: Session) -> str:
    return transition(session, Order, 1, "stage", from_="winding", to="scrapped").to


def retitle(session: Session) -> list[str]:
    return list(edit(session, Order, 1, base={"title": "old"}, changes={"title": "new"}).applied)


def annotate(session: Session) -> list[str]:
    return list(edit(session, Order, 1, base={"notes": "old"}, changes={"notes": "urgent"}).applied)


def retitle_otherwise(session: Session) -> list[str]:
    return list(edit(session, Order, 1, base={"title": "old"}, changes={"title": "other"}).applied)


def tag_red(session: Session) -> list[str]:
    return list(mutate(session, Order, 1, lambda order: order.tags.append("red")).tags)


def tag_blue(session: Session) -> list[str]:
    return list(mutate(session, Order, 1, lambda order: order.tags.append("blue")).tags)


def invoice(session: Session) -> int:
    number = next_number(session, "invoice", scope="2026")
    session.add(Invoice(number=number))
    return number


def reserve_numbers(session: Session) -> list[int]:
    return list(number_block(session, "invoice", 3, scope="2026"))


def pay_once(session: Session) -> Any:
    def pay() -> dict[str, int]:
        session.add(Invoice(number=500))
        return {"paid": 500}

    return once(session, "key-1", pay, request={"amount": 500}, scope="user:1").answer


def tag_of_word(session: Session) -> str:
    return get_or_create(session, Tag, word="blue")[0].word


PARTS = {
    "take-give": [take_80, give_30],
    "transition": [finish, scrap],
    "edit": [retitle, annotate],
    "edit-same-field": [retitle, retitle_otherwise],
    "mutate": [tag_red, tag_blue],
    "next-number": [invoice],
    "number-block": [invoice, reserve_numbers],
    "once": [pay_once],
    "get-or-create": [tag_of_word],
}


def engine_for(url: str, isolation: str | None) -> Engine:
    if url.startswith("postgresql"):
        address = url.replace("postgresql://", "postgresql+psycopg://")
        return create_engine(address, **({"isolation_level": isolation} if isolation else {}))
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _no_begin_of_its_own(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin_immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def operation(engine: Engine, part: Callable[[Session], Any]) -> Callable[[], Any]:
    """The part in a transaction of its own, run again when the database says so."""

    def run() -> Any:
        for attempt in range(TRIES):
            try:
                with Session(engine) as session, session.begin():
                    return part(session)
            except OperationalError as error:
                lost = getattr(error.orig, "sqlstate", None) in {"40001", "40P01"}
                if not lost or attempt == TRIES - 1:
                    raise
        raise AssertionError("not reached")

    run.__qualname__ = run.__name__ = part.__name__
    return run


def setup(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    CrowdsafeBase.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Stock(on_hand=100), Order()])


def prove(
    url: str,
    parts: Sequence[Callable[[Session], Any]],
    isolation: str | None,
    *,
    triples: bool = True,
) -> None:
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).touch()
    engine = engine_for(url, isolation)
    try:
        report = find(
            None,
            [operation(engine, part) for part in parts],
            database=url,
            setup=lambda: setup(engine),
            triples=triples,
            budget_s=200,
        )
    finally:
        engine.dispose()
    assert len(report.findings) >= len(parts)
    told = {finding.operations: (finding.verdict, finding.reason) for finding in report.findings}
    assert {verdict for verdict, _ in told.values()} == {Verdict.PROVEN}, told


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_proven_for_two_and_three_callers(db_url: str, name: str) -> None:
    prove(db_url, PARTS[name], None)


@pytest.mark.postgres
@pytest.mark.parametrize(
    "triples", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["pairs", "triples"]
)
@pytest.mark.parametrize("name", ["take-give", "once", "next-number"])
def test_a_part_is_proven_under_serializable_with_its_retry(
    pg_url: str, name: str, triples: bool
) -> None:
    prove(pg_url, PARTS[name][:1], "SERIALIZABLE", triples=triples)


def test_what_a_part_refuses_is_an_error_of_the_toolkit(sqlite_url: str) -> None:
    engine = engine_for(sqlite_url, None)
    setup(engine)
    allocate = operation(engine, take_80)
    assert allocate() == 20
    with pytest.raises(CrowdsafeError):
        allocate()
    engine.dispose()
