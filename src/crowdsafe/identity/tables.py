"""The tables of identity: users, and secrets that all processes of one database share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, String
from sqlalchemy.orm import Mapped, mapped_column

from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import BigId, Json, UtcDateTime, utcnow

__all__ = ["SecretRow", "UserRow"]


class UserRow(CrowdsafeBase):
    """A user; ``roles`` is a JSON list of names, ``password_hash`` an argon2id string."""

    __tablename__ = "crowdsafe_users"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    password_hash: Mapped[str] = mapped_column(String(255))
    roles: Mapped[list[Any]] = mapped_column(Json)
    active: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class SecretRow(CrowdsafeBase):
    """A secret made once for each database, such as the key that signs access tokens."""

    __tablename__ = "crowdsafe_secrets"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
