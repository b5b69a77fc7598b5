"""Tables that the store itself needs, and the base class for every ``crowdsafe_*`` table."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table
from sqlalchemy.orm import DeclarativeBase

__all__ = ["GATE_TABLE", "SCHEMA_VERSION", "CrowdsafeBase", "gate", "metadata", "schema"]

SCHEMA_VERSION = 1
"""Version of the ``crowdsafe_*`` tables that this release reads and writes."""

GATE_TABLE = "crowdsafe_gate"


class CrowdsafeBase(DeclarativeBase):
    """Base of the tables named ``crowdsafe_*``; ``Store.create_all`` creates them."""


metadata = CrowdsafeBase.metadata

schema = Table(
    "crowdsafe_schema",
    metadata,
    Column("component", String(40), primary_key=True),
    Column("version", Integer, nullable=False),
)

gate = Table(GATE_TABLE, metadata, Column("id", Integer, primary_key=True))
"""Holds no rows. On PostgreSQL each write locks it shared and an escalated write exclusively."""
