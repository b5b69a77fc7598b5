"""The tables on which the tests of the store write."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    metadata = MetaData()


class Account(Base):
    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance >= 0", name="ck_balance"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger, default=0)
    version: Mapped[int] = mapped_column(default=1)


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(80), unique=True)


class Claim(Base):
    """Its reference is checked at the commit only."""

    __tablename__ = "claims"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(
        ForeignKey("accounts.id", deferrable=True, initially="DEFERRED")
    )


class Counted(Base):
    __tablename__ = "counted"

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


def note(session: Session, text: str) -> int:
    """A short write."""
    row = Note(text=text)
    session.add(row)
    session.flush()
    return row.id


def notes(session: Session) -> list[str]:
    """Every text, in order of insertion."""
    return [row.text for row in session.query(Note).order_by(Note.id)]


def deposit(session: Session, amount: int, account: int = 1) -> int:
    """A read-modify-write of the plainest kind: right only when it runs as if alone."""
    row = session.get_one(Account, account)
    row.balance += amount
    return row.balance


def balance(session: Session, account: int = 1) -> int:
    return session.get_one(Account, account).balance
