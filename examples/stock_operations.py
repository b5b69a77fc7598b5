"""One operation, which knows no framework: flask_stock.py and fastapi_stock.py both serve it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe import take, write
from crowdsafe.errors import InvalidInput
from crowdsafe.feed import publish

DATABASE = f"sqlite:///{Path(tempfile.gettempdir()) / 'crowdsafe-stock-example.db'}"


class Base(DeclarativeBase):
    """The example's tables."""


class Stock(Base):
    """How much of a product is there."""

    __tablename__ = "example_stock"

    product_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    on_hand: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Allocation:
    """What was set aside, and what is left."""

    product_id: int
    allocated_quantity: int
    remaining_stock: int
    movement_id: int


@write(isolation="read committed")
def allocate(session: Session, *, product_id: int, quantity: int) -> Allocation:
    """Set stock aside. Raises Insufficient (``available``), NotFound, InvalidInput."""
    if type(product_id) is not int or not 0 < product_id < 2**31:
        raise InvalidInput("product_id must be a product's number", field="product_id")
    taken = take(session, Stock.on_hand, quantity, where=product_id, entry={"kind": "allocation"})
    news = {"product_id": product_id, "on_hand": taken.balance}
    publish(session, "stock", "stock.changed", news, key=product_id)
    return Allocation(product_id, taken.quantity, taken.balance, taken.entry_id)


def levels(session: Session) -> list[dict[str, int]]:
    """What is there of each product."""
    rows = session.execute(select(Stock).order_by(Stock.product_id)).scalars()
    return [{"product_id": row.product_id, "on_hand": row.on_hand} for row in rows]


def restock(session: Session) -> None:
    """100 of product 7, if the product is new."""
    if session.get(Stock, 7) is None:
        session.add(Stock(product_id=7, on_hand=100))
