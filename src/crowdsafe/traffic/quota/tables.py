"""The tables of quotas: one row for each key and period, one for each reservation."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import UtcDateTime

__all__ = ["CHARGED", "EXPIRED", "HELD", "REFUNDED", "Quota", "QuotaReservation"]

HELD, CHARGED, REFUNDED, EXPIRED = "held", "charged", "refunded", "expired"


class Quota(CrowdsafeBase):
    """What is used of one quota, and what all its reservations in state ``held`` come to."""

    __tablename__ = "crowdsafe_quotas"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    period: Mapped[str] = mapped_column(String(40), primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    reserved: Mapped[int] = mapped_column(BigInteger)
    ceiling: Mapped[int] = mapped_column(BigInteger)
    """The limit under which the last reservation was granted."""
    ends_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class QuotaReservation(CrowdsafeBase):
    """Units set aside: ``held`` until they are charged, refunded, or found to have expired."""

    __tablename__ = "crowdsafe_quota_reservations"
    __table_args__ = (
        Index("ix_crowdsafe_quota_reservations_key", "key", "period", "state", "expires_at"),
        Index("ix_crowdsafe_quota_reservations_expiry", "state", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    key: Mapped[str] = mapped_column(String(200))
    period: Mapped[str] = mapped_column(String(40))
    amount: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
