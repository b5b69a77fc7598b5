"""The table behind ``DatabaseCache``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase

__all__ = ["CacheRow"]


class CacheRow(CrowdsafeBase):
    """A value, the lease of whoever makes a new one, and how the last execution failed.

    ``address`` is a SHA-256 of scope and key. Times are milliseconds since 1970, tokens
    microseconds, both by the database's clock.
    """

    __tablename__ = "crowdsafe_cache"
    __table_args__ = (Index("ix_crowdsafe_cache_end", "name", "keep_until"),)

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    address: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(Integer, default=0)
    value_token: Mapped[int] = mapped_column(BigInteger, default=0)
    fresh_until: Mapped[int] = mapped_column(BigInteger, default=0)
    stale_until: Mapped[int] = mapped_column(BigInteger, default=0)
    keep_until: Mapped[int] = mapped_column(BigInteger, default=0)
    token: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_until: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[str | None] = mapped_column(Text)
