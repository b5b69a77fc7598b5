"""SQLAlchemy, aiosqlite, Django and FastAPI over SQLite: their statements, and who asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.find.database.sqlite import SqliteDatabase
from crowdsafe.find.model import Step
from tests.find.gates.watching import Watching, operating

HERE = str(Path(__file__).relative_to(Path.cwd()))


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int]


def steps_of(keeper: Watching) -> list[Step]:
    """What was done, but for what libraries ask of each new connection."""
    return [step for step in keeper.steps if not step.sql.startswith("PRAGMA")]


def kinds(keeper: Watching) -> list[str]:
    return [step.sql.split(None, 1)[0] for step in steps_of(keeper)]


def lines(keeper: Watching) -> list[str]:
    """The line of each step, which is in this file."""
    found = []
    for step in steps_of(keeper):
        assert step.source is not None, step
        assert step.source.file == HERE
        found.append(step.source.code)
    return found


def test_sqlalchemy_sync(database: SqliteDatabase) -> None:
    engine = create_engine(f"sqlite:///{database.redirect.original}")
    with operating(Watching()) as keeper, Session(engine) as session:
        stock = session.get_one(Stock, 1)
        stock.on_hand -= 1
        session.scalars(select(Stock)).all()
        session.commit()
    engine.dispose()
    assert kinds(keeper) == ["SELECT", "BEGIN", "UPDATE", "SELECT", "COMMIT"]
    assert lines(keeper) == [
        "stock = session.get_one(Stock, 1)",
        *["session.scalars(select(Stock)).all()"] * 3,
        "session.commit()",
    ]
    assert steps_of(keeper)[0].rows == [(1, 100)]
    assert keeper.ended == keeper.steps


def test_sqlalchemy_with_its_own_begin_and_savepoints(database: SqliteDatabase) -> None:
    """The recipe of SQLAlchemy's documentation for real transactions."""
    engine = create_engine(f"sqlite:///{database.redirect.original}")
    event.listen(engine, "connect", lambda dbapi, _: setattr(dbapi, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with operating(Watching()) as keeper, engine.begin() as connection:
        with connection.begin_nested():
            connection.execute(text("DELETE FROM log"))
        connection.execute(text("DELETE FROM stock"))
    engine.dispose()
    assert kinds(keeper) == ["BEGIN", "SAVEPOINT", "DELETE", "RELEASE", "DELETE", "COMMIT"]
    assert len(lines(keeper)) == 6


async def change_async(url: str) -> None:
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        stock = await session.get_one(Stock, 1)
        stock.on_hand -= 1
        await session.flush()
        await session.run_sync(in_a_greenlet)
        await session.commit()
    await engine.dispose()


def in_a_greenlet(session: Session) -> None:
    session.execute(text("DELETE FROM log"))


def test_sqlalchemy_async(database: SqliteDatabase) -> None:
    with operating(Watching(), 4) as keeper:
        asyncio.run(change_async(f"sqlite+aiosqlite:///{database.redirect.original}"))
    assert kinds(keeper) == ["SELECT", "BEGIN", "UPDATE", "DELETE", "COMMIT"]
    assert lines(keeper) == [
        "stock = await session.get_one(Stock, 1)",
        *["await session.flush()"] * 2,
        'session.execute(text("DELETE FROM log"))',
        "await session.commit()",
    ]
    assert {step.operation for step in keeper.steps} == {4}
    assert keeper.ended == keeper.steps


def test_aiosqlite(database: SqliteDatabase) -> None:
    async def change() -> None:
        async with aiosqlite.connect(database.redirect.original) as connection:
            async with connection.execute("SELECT on_hand FROM stock") as cursor:
                assert await cursor.fetchone() == (100,)
            await connection.execute("UPDATE stock SET on_hand = 1")
            await connection.commit()

    with operating(Watching(), 2) as keeper:
        asyncio.run(change())
    assert kinds(keeper) == ["SELECT", "BEGIN", "UPDATE", "COMMIT"]
    assert lines(keeper) == [
        'async with connection.execute("SELECT on_hand FROM stock") as cursor:',
        *['await connection.execute("UPDATE stock SET on_hand = 1")'] * 2,
        "await connection.commit()",
    ]
    assert {step.operation for step in keeper.steps} == {2}


def test_pooled_aiosqlite_threads_serve_one_operation_after_another(
    database: SqliteDatabase,
) -> None:
    async def by_turns() -> list[int]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{database.redirect.original}")
        keeper = Watching()
        for operation in (0, 1):
            with operating(keeper, operation):
                async with engine.connect() as connection:
                    await connection.execute(text("SELECT 1 FROM stock"))
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 2 FROM stock"))
        await engine.dispose()
        return [step.operation for step in keeper.steps if "stock" in step.sql]

    assert asyncio.run(by_turns()) == [0, 1]


@pytest.mark.parametrize("kind", ["def", "async"])
def test_fastapi(database: SqliteDatabase, kind: str) -> None:
    engine = create_engine(f"sqlite:///{database.redirect.original}")
    app = FastAPI()

    def stock() -> Any:
        with engine.connect() as connection:
            return connection.execute(text("SELECT on_hand FROM stock")).scalars().all()

    async def stock_async() -> Any:
        return stock()

    app.get("/stock")(stock if kind == "def" else stock_async)

    async def get() -> Any:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
            return (await client.get("/stock")).json()

    with operating(Watching(), 3) as keeper:
        assert asyncio.run(get()) == [100, 50]
    engine.dispose()
    assert [step.operation for step in steps_of(keeper)] == [3]
    assert lines(keeper) == [
        'return connection.execute(text("SELECT on_hand FROM stock")).scalars().all()'
    ]


DJANGO = """
import json, sys
from crowdsafe.find import gates
from crowdsafe.find.database import open_database
from crowdsafe.find.model import Step
from tests.find.gates.watching import Watching, operating

database = open_database("sqlite:///" + sys.argv[1])
undo = gates.install("sqlite", database.redirect)

import django
from django.conf import settings

options = json.loads(sys.argv[2])
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1],
                           "OPTIONS": options}},
    INSTALLED_APPS=[], DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
from django.db import connection, models, transaction

class Stock(models.Model):
    on_hand = models.IntegerField()
    class Meta:
        app_label = "shop"
        db_table = "stock"

with operating(Watching()) as keeper:
    with transaction.atomic():
        stock = Stock.objects.get(pk=1)
        with transaction.atomic():
            stock.on_hand -= 1
            stock.save()
    made = Stock.objects.create(on_hand=5)
    assert Stock.objects.filter(pk=made.pk).update(on_hand=models.F("on_hand") + 1) == 1
    assert list(Stock.objects.raw("SELECT * FROM stock WHERE id = %s", [1]))[0].on_hand == 99
connection.close()
found = [[s.sql, str(s.parameters), s.source.code if s.source else ""] for s in keeper.steps]
assert keeper.ended == keeper.steps
with operating(Watching()):
    assert Stock.objects.get(pk=made.pk).on_hand == 6
connection.close()
database.close()
assert not database.redirect.strangers, database.redirect.strangers
print(json.dumps(found))
"""


INIT = ("PRAGMA", "select ")


@pytest.mark.parametrize("options", [{}, {"transaction_mode": "IMMEDIATE"}], ids=["", "immediate"])
def test_django(shop: Path, tmp_path: Path, options: dict[str, str]) -> None:
    script = tmp_path / "shop_app.py"
    script.write_text(DJANGO)
    done = subprocess.run(
        [sys.executable, str(script), str(shop), json.dumps(options)],
        env={"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = [step for step in json.loads(done.stdout) if not step[0].startswith(INIT)]
    begin = f"BEGIN {options.get('transaction_mode', '')}".strip()
    words = [sql.split()[0] if not sql.startswith("BEGIN") else sql for sql, _, _ in steps]
    assert words == [
        begin, "SELECT", "SAVEPOINT", "UPDATE", "RELEASE", "COMMIT", "INSERT", "UPDATE", "SELECT",
    ]  # fmt: skip
    assert "?" in steps[1][0]
    assert all(line for _, _, line in steps)
    assert steps[3][2] == "stock.save()"
    assert steps[6][1:] == ["(5,)", "made = Stock.objects.create(on_hand=5)"]
