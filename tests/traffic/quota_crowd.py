"""What the tests of quotas share: databases that stay, keys that are new, the naive version."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe import Store
from crowdsafe.errors import QuotaExceeded
from crowdsafe.store.types import utcnow
from crowdsafe.traffic.quota import QuotaState, charge, quota_state, refund, reserve
from crowdsafe.traffic.quota.tables import Quota, QuotaReservation

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


class Base(DeclarativeBase):
    metadata = MetaData()


class Plan(Base):
    """What a unit pays for."""

    __tablename__ = "plans"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), index=True)


class NaiveQuota(Base):
    __tablename__ = "naive_quotas"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)


def prepare(url: str) -> None:
    with Store(url) as store:
        store.create_all(Base.metadata)


def new_key() -> str:
    return f"user:{uuid.uuid4().hex}"


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def hold(session: Session, key: str, limit: int | None, amount: int = 1, **more: Any) -> str:
    """Reserve for a minute in the period "d"; the reservation's id."""
    more = {"period": "d", "expires_s": 60, **more}
    return reserve(session, key, limit=limit, amount=amount, **more).id


def hold_slowly(session: Session, key: str, limit: int) -> str:
    reserved = hold(session, key, limit)
    time.sleep(0.005)
    return reserved


def naive_hold(session: Session, key: str, limit: int) -> str:
    quota = session.get_one(NaiveQuota, key)
    if quota.used >= limit:
        raise QuotaExceeded(limit=limit, used=quota.used, reserved=0)
    time.sleep(0.1)
    quota.used += 1
    return "granted"


def plan_and_charge(session: Session, reservation_id: str, key: str) -> bool:
    """Store what was paid for and charge it, together."""
    charged = charge(session, reservation_id)
    if charged:
        session.add(Plan(id=reservation_id, key=key))
    return charged


def state(session: Session, key: str, limit: int | None = None, **more: Any) -> QuotaState:
    return quota_state(session, key, "d", limit, **more)


def books(session: Session, key: str) -> tuple[int, int, int, int]:
    """By plain sums: used and reserved of the quota, charged and held of its reservations."""
    sums = [func.coalesce(func.sum(column), 0) for column in (Quota.used, Quota.reserved)]
    used, reserved = map(int, session.execute(select(*sums).where(Quota.key == key)).one())

    def sum_of(what: str) -> int:
        rows = QuotaReservation.key == key, QuotaReservation.state == what
        query = select(func.coalesce(func.sum(QuotaReservation.amount), 0)).where(*rows)
        return int(session.scalar(query) or 0)

    return used, reserved, sum_of("charged"), sum_of("held")


def plans_of(session: Session, key: str) -> int:
    return int(session.scalar(select(func.count()).where(Plan.key == key)) or 0)


def serve_until_killed(url: str, key: str, limit: int, seed: int) -> None:
    """Reserve, then charge or refund or forget, again and again, until killed."""
    rng = random.Random(seed)
    with Store(url) as store:
        while True:
            try:
                reserved = store.write(hold, key, limit, expires_s=rng.choice([0.05, 5]))
            except QuotaExceeded:
                time.sleep(0.01)
                continue
            fate = rng.random()
            if fate < 0.1:
                store.write(plan_and_charge, reserved, key)
            elif fate < 0.9:
                store.write(refund, reserved)


def later(seconds: float) -> datetime:
    return utcnow() + timedelta(seconds=seconds)
