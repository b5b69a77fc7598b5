"""The tables that every contender writes: the same rows for ours and for the peers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from crowdsafe import Ledger
from crowdsafe.store.types import BigId, UtcDateTime, utcnow

STOCK = 10**12
"""Pieces in each row at the start: more than any run takes."""
ROWS = 64


class Base(DeclarativeBase):
    """Base of the benchmark's tables."""


class Stock(Base):
    """The counter that everybody wants, with a ledger."""

    __tablename__ = "bench_stock"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    on_hand: Mapped[int] = mapped_column(
        BigInteger,
        info={
            "crowdsafe.ledger": Ledger(
                table=lambda: Movement, row="stock_id", delta="quantity", balance="balance_after"
            )
        },
    )


class Movement(Base):
    """One change of a counter."""

    __tablename__ = "bench_movements"
    __table_args__ = (Index("ix_bench_movements_row", "stock_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    stock_id: Mapped[int] = mapped_column(BigInteger)
    quantity: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(20))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class VersionedStock(Base):
    """The counter under SQLAlchemy's optimistic lock."""

    __tablename__ = "bench_versioned_stock"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    on_hand: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy reads it so)


class HandCounter(Base):
    """A hand-written counter row: the last number given out."""

    __tablename__ = "bench_counters"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class Document(Base):
    """What gets a number without gaps."""

    __tablename__ = "bench_documents"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    body: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
