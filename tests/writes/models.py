"""The tables on which the tests of the parts write."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from crowdsafe import Ledger, Log, StateMachine
from crowdsafe.store import BigId, Json, UtcDateTime, utcnow


class Base(DeclarativeBase):
    metadata = MetaData()


class Stock(Base):
    """A counter with a ledger of its own."""

    __tablename__ = "stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int] = mapped_column(
        BigInteger,
        info={
            "crowdsafe.ledger": Ledger(
                table=lambda: Movement, row="stock_id", delta="quantity", balance="balance_after"
            )
        },
    )


class Movement(Base):
    __tablename__ = "movements"
    __table_args__ = (CheckConstraint("kind <> 'forbidden'", name="ck_movement_kind"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    stock_id: Mapped[int] = mapped_column(ForeignKey("stock.id"))
    quantity: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(20))


class Bin(Base):
    """A counter that is kept in ``crowdsafe_ledger``, with a text key."""

    __tablename__ = "bins"

    code: Mapped[str] = mapped_column(String(20), primary_key=True)
    filled: Mapped[int] = mapped_column(BigInteger)


STAGES = StateMachine(
    edges={"winding": {"finishing", "scrapped"}, "finishing": {"packed", "winding"}},
    log=Log(table=lambda: StageLog, row="order_id", note="note"),
)


class Order(Base):
    """Stages, edits, and a relationship that is loaded by a join."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(80), default="")
    notes: Mapped[str | None] = mapped_column(String(200), default=None)
    priority: Mapped[int] = mapped_column(default=0)
    tags: Mapped[list[str]] = mapped_column(Json, default=list)
    stage: Mapped[str] = mapped_column(
        String(20), default="winding", info={"crowdsafe.machine": STAGES}
    )
    client_id: Mapped[int | None] = mapped_column(ForeignKey("clients.id"), default=None)
    client: Mapped[Client | None] = relationship(lazy="joined")
    version: Mapped[int] = mapped_column(default=1)
    updated_by: Mapped[str | None] = mapped_column(String(40), default=None)
    updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class Client(Base):
    __tablename__ = "clients"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))


class StageLog(Base):
    __tablename__ = "stage_log"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    from_state: Mapped[str] = mapped_column(String(20))
    to_state: Mapped[str] = mapped_column(String(20))
    by: Mapped[str | None] = mapped_column(String(40))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    note: Mapped[str | None] = mapped_column(String(200), default=None)


class Lamp(Base):
    """A machine without a log, on a model without a version."""

    __tablename__ = "lamps"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(
        String(20), info={"crowdsafe.machine": StateMachine(edges={"off": {"on"}, "on": {"off"}})}
    )
    plain: Mapped[str] = mapped_column(String(20), default="")


class Sheet(Base):
    """A model whose version SQLAlchemy counts."""

    __tablename__ = "sheets"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(80), default="")
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Profile(Base):
    """For ``mutate``: a number and a JSON document."""

    __tablename__ = "profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    visits: Mapped[int] = mapped_column(default=0)
    prefs: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    colour: Mapped[str | None] = mapped_column(String(20), default=None)
    slug: Mapped[str | None] = mapped_column(String(40), unique=True, default=None)


class Invoice(Base):
    """Its number is not unique here, so that a naive counter can be caught at doubling it."""

    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Payment(Base):
    """The effect of a call under an idempotency key."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(String(40))
    cents: Mapped[int] = mapped_column()
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
