"""crowdsafe's contenders: the public API with its default settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from bench.tables import STOCK, Document, Stock
from crowdsafe import AsyncStore, Settings, next_number, take
from crowdsafe.writes.tables import Counter

MODULE_UPDATE = update(Stock).where(Stock.id == 1).values(on_hand=Stock.on_hand - 1)


class Ours:
    """An AsyncStore and one call on it."""

    def __init__(
        self, name: str, url: str, settings: Settings | None = None, *, peer_of: str | None = None
    ) -> None:
        self.name = name
        self.peer_of = peer_of
        self.store = AsyncStore(url, settings)

    async def open(self) -> None:
        await self.store.start()

    async def call(self, caller: int) -> None:
        raise NotImplementedError

    async def stored(self) -> int:
        total = await self.store.read(
            lambda session: session.scalar(select(func.sum(STOCK - Stock.on_hand)))
        )
        return int(total or 0)

    async def close(self) -> None:
        await self.store.close()


class Take(Ours):
    """``store.write(take, ...)`` on one row, or on a row for each caller."""

    rows = 1

    async def call(self, caller: int) -> None:
        await self.store.write(
            take, Stock.on_hand, 1, where=caller % self.rows + 1, entry={"kind": "bench"}
        )


class TakeApart(Take):
    """Each caller takes from a row of its own."""

    rows = 64


class Number(Ours):
    """``store.write(next_number, ...)``."""

    async def call(self, caller: int) -> None:
        await self.store.write(next_number, "document")

    async def stored(self) -> int:
        return int(await self.store.read(lambda session: session.scalar(select(Counter.value))))


def number_document(session: Session) -> int:
    """A document with the next number."""
    number = next_number(session, "document")
    session.connection().execute(insert(Document), {"number": number, "body": "bench"})
    return number


class NumberedDocument(Number):
    """A closure in a lane: the number, and the document that gets it."""

    async def call(self, caller: int) -> None:
        await self.store.write(number_document, lane=("document",), isolation="read committed")


class Closure(Ours):
    """Any function of a session, through the lane."""

    def __init__(
        self, name: str, url: str, fn: Callable[[Session], Any], settings: Settings | None = None,
        *, peer_of: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, url, settings, peer_of=peer_of)
        self.fn = fn

    async def call(self, caller: int) -> None:
        await self.store.write(self.fn)


def core_at_module(session: Session) -> None:
    """A Core statement that was built once."""
    session.connection().execute(MODULE_UPDATE)


def core_in_closure(session: Session) -> None:
    """The same statement, built in each call."""
    statement = update(Stock).where(Stock.id == 1).values(on_hand=Stock.on_hand - 1)
    session.connection().execute(statement)


def orm_update(session: Session) -> None:
    """The same again, by session.execute: SQLAlchemy then treats it as an ORM bulk update."""
    session.execute(update(Stock).where(Stock.id == 1).values(on_hand=Stock.on_hand - 1))


def orm_closure(session: Session) -> None:
    """Load, change, let the session write."""
    stock = session.get_one(Stock, 1)
    stock.on_hand -= 1
