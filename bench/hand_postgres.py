"""Hand-written peers on PostgreSQL, as an expert writes them: statements built once, pool of 16."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
from sqlalchemy import BigInteger, bindparam, func, insert, literal, make_url, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm.exc import StaleDataError

from bench.tables import STOCK, Document, HandCounter, Movement, Stock, VersionedStock
from crowdsafe.store.types import utcnow

POOL_SIZE = 16
RETRY_BASE_S, RETRY_CAP_S = 0.005, 0.5

UPDATE = (
    update(Stock)
    .where(Stock.id == bindparam("row"), Stock.on_hand >= 1)
    .values(on_hand=Stock.on_hand - 1)
    .returning(Stock.on_hand)
)
LOCK = select(Stock.on_hand).where(Stock.id == bindparam("row")).with_for_update()
SET = update(Stock).where(Stock.id == bindparam("row")).values(on_hand=bindparam("left"))
INSERT = insert(Movement).returning(Movement.id)
_updated = (
    update(Stock)
    .where(Stock.id == bindparam("row"), Stock.on_hand >= 1)
    .values(on_hand=Stock.on_hand - 1)
    .returning(Stock.id, Stock.on_hand)
    .cte("updated")
)
UPDATE_AND_INSERT = (
    insert(Movement)
    .from_select(
        ["stock_id", "quantity", "balance_after", "kind", "at"],
        select(
            _updated.c.id,
            literal(-1, BigInteger),
            _updated.c.on_hand,
            bindparam("kind"),
            bindparam("at", type_=Movement.__table__.c.at.type),
        ),
        include_defaults=False,
    )
    .returning(Movement.balance_after)
)
NUMBER = (
    update(HandCounter)
    .where(HandCounter.name == "document")
    .values(value=HandCounter.value + 1)
    .returning(HandCounter.value)
)
INSERT_DOCUMENT = insert(Document)


class CorePeer:
    """SQLAlchemy Core on asyncio; one subclass for each way to take one piece."""

    def __init__(
        self, name: str, url: str, peer_of: str, *, driver: str = "psycopg", rows: int = 1,
        autocommit: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.peer_of: str | None = peer_of
        self.rows = rows
        options: dict[str, Any] = {}
        if autocommit:
            options = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        self.engine = create_async_engine(
            make_url(url).set(drivername=f"postgresql+{driver}"),
            pool_size=POOL_SIZE, max_overflow=0, pool_timeout=30, **options,
        )  # fmt: skip

    def row(self, caller: int) -> int:
        """The row that this caller wants."""
        return caller % self.rows + 1

    async def open(self) -> None:
        """Nothing: the pool fills in the warm-up."""

    async def call(self, caller: int) -> None:
        async with self.engine.begin() as connection:
            result = await connection.execute(UPDATE, {"row": self.row(caller)})
            result.scalar_one()

    async def stored(self) -> int:
        async with self.engine.connect() as connection:
            total = await connection.scalar(select(func.sum(STOCK - Stock.on_hand)))
        return int(total or 0)

    async def close(self) -> None:
        await self.engine.dispose()


class CoreWithLedger(CorePeer):
    """The UPDATE and the ledger's INSERT in one transaction."""

    async def call(self, caller: int) -> None:
        row = self.row(caller)
        async with self.engine.begin() as connection:
            left = (await connection.execute(UPDATE, {"row": row})).scalar_one()
            entry = {"stock_id": row, "quantity": -1, "balance_after": left, "kind": "bench"}
            (await connection.execute(INSERT, entry)).scalar_one()


class CoreOneStatement(CorePeer):
    """The UPDATE and the ledger's INSERT in one statement, committed by itself."""

    async def call(self, caller: int) -> None:
        values = {"row": self.row(caller), "kind": "bench", "at": utcnow()}
        async with self.engine.connect() as connection:
            (await connection.execute(UPDATE_AND_INSERT, values)).scalar_one()


class CoreAutocommit(CorePeer):
    """The UPDATE alone, committed by itself: no BEGIN, no COMMIT to wait for."""

    async def call(self, caller: int) -> None:
        async with self.engine.connect() as connection:
            (await connection.execute(UPDATE, {"row": self.row(caller)})).scalar_one()


class CoreForUpdate(CorePeer):
    """Lock the row, look, write."""

    async def call(self, caller: int) -> None:
        row = self.row(caller)
        async with self.engine.begin() as connection:
            left = (await connection.execute(LOCK, {"row": row})).scalar_one()
            assert left >= 1
            await connection.execute(SET, {"row": row, "left": left - 1})


class OrmVersioned(CorePeer):
    """The ORM's optimistic lock, retried with full jitter until it wins."""

    async def open(self) -> None:
        self.session: async_sessionmaker[AsyncSession] = async_sessionmaker(
            self.engine, expire_on_commit=False
        )

    async def call(self, caller: int) -> None:
        losses = 0
        while not await self._try(self.row(caller)):
            losses += 1
            await asyncio.sleep(random.uniform(0, min(RETRY_CAP_S, RETRY_BASE_S * 2.0**losses)))

    async def _try(self, row: int) -> bool:
        try:
            async with self.session.begin() as session:
                stock = await session.get_one(VersionedStock, row)
                assert stock.on_hand >= 1
                stock.on_hand -= 1
        except StaleDataError:
            return False
        return True

    async def stored(self) -> int:
        async with self.engine.connect() as connection:
            total = await connection.scalar(select(func.sum(STOCK - VersionedStock.on_hand)))
        return int(total or 0)


class CoreNumber(CorePeer):
    """A counter row."""

    async def call(self, caller: int) -> None:
        async with self.engine.begin() as connection:
            (await connection.execute(NUMBER)).scalar_one()

    async def stored(self) -> int:
        async with self.engine.connect() as connection:
            return int(await connection.scalar(select(HandCounter.value)) or 0)


class CoreDocument(CoreNumber):
    """A counter row, and the document that gets its number."""

    async def call(self, caller: int) -> None:
        async with self.engine.begin() as connection:
            number = (await connection.execute(NUMBER)).scalar_one()
            await connection.execute(INSERT_DOCUMENT, {"number": number, "body": "bench"})


class BareAsyncpg:
    """The UPDATE on bare asyncpg: no SQLAlchemy, prepared by the driver, committed by itself."""

    SQL = (
        "UPDATE bench_stock SET on_hand = on_hand - 1 WHERE id = $1 AND on_hand >= 1 "
        "RETURNING on_hand"
    )

    def __init__(self, name: str, url: str, peer_of: str, *, rows: int = 1) -> None:
        self.name = name
        self.peer_of: str | None = peer_of
        self.url = url
        self.rows = rows

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.url, min_size=POOL_SIZE, max_size=POOL_SIZE)

    async def call(self, caller: int) -> None:
        left = await self.pool.fetchval(self.SQL, caller % self.rows + 1)
        assert left is not None

    async def stored(self) -> int:
        total = await self.pool.fetchval(f"SELECT sum({STOCK} - on_hand) FROM bench_stock")
        return int(total or 0)

    async def close(self) -> None:
        await self.pool.close()
