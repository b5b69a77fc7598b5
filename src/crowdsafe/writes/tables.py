"""The tables that the write parts keep for themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import BigId, Json, UtcDateTime, utcnow

__all__ = ["Counter", "LedgerEntry", "OnceRecord"]


class LedgerEntry(CrowdsafeBase):
    """One change of a guarded counter that has no ledger table of its own."""

    __tablename__ = "crowdsafe_ledger"
    __table_args__ = (Index("ix_crowdsafe_ledger_row", "counter", "row_key", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    counter: Mapped[str] = mapped_column(String(130))
    row_key: Mapped[str] = mapped_column(String(80))
    delta: Mapped[int] = mapped_column(BigInteger)
    balance: Mapped[int] = mapped_column(BigInteger)
    entry: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Counter(CrowdsafeBase):
    """The last number given out for a name and scope."""

    __tablename__ = "crowdsafe_counters"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    scope: Mapped[str] = mapped_column(String(80), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class OnceRecord(CrowdsafeBase):
    """The answer that was given under an idempotency key."""

    __tablename__ = "crowdsafe_once"

    scope: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[Any] = mapped_column(Json, nullable=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, index=True)
