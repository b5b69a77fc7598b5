"""Apps that do what apps should not. Each is a factory; the database is named by the environment.

Every app has ``POST /spend`` too, which loses an update: what one endpoint does must not keep the
finder from finding the race of another.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from flask import Flask, Response
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

URL = os.environ.get("HOSTILE_DATABASE", "")
SQLITE = URL.startswith("sqlite")
ENGINE_URL = URL.replace("postgresql://", "postgresql+psycopg://")
READ = "SELECT balance FROM accounts WHERE id = 1"


@contextmanager
def connect() -> Iterator[Any]:
    connection: Any = (
        sqlite3.connect(URL.removeprefix("sqlite:///")) if SQLITE else psycopg.connect(URL)
    )
    try:
        yield connection
    finally:
        connection.close()


def setup() -> None:
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if SQLITE else "SERIAL PRIMARY KEY"
    with connect() as connection:
        connection.execute(f"CREATE TABLE accounts (id {key}, balance INTEGER NOT NULL)")
        connection.execute(f"CREATE TABLE notes (id {key}, words TEXT NOT NULL)")
        connection.execute("INSERT INTO accounts (balance) VALUES (100), (100)")
        connection.commit()


def balance_of(connection: Any) -> int:
    return int(connection.execute(READ).fetchone()[0])


def write_balance(connection: Any, balance: int) -> None:
    connection.execute(f"UPDATE accounts SET balance = {int(balance)} WHERE id = 1")
    connection.commit()


def spend() -> None:
    """Read, subtract, write: the update that two callers lose."""
    with connect() as connection:
        write_balance(connection, balance_of(connection) - 10)


@contextmanager
def pooled(engine: Any) -> Iterator[Any]:
    connection = engine.raw_connection()
    try:
        yield connection
    finally:
        connection.close()


def _flask() -> Flask:
    app = Flask("hostile")

    @app.post("/spend")
    def spend_some() -> Any:
        spend()
        return {"spent": 10}

    return app


def hangs_in_python() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        threading.Event().wait()
        return {}

    return app


def spins_in_python() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        while True:
            pass

    return app


def hangs_in_sql() -> Flask:
    app = _flask()
    endless = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
        if SQLITE
        else "SELECT pg_sleep(3600)"
    )

    @app.post("/bad")
    def bad() -> Any:
        with connect() as connection:
            connection.execute(endless).fetchall()
        return {}

    return app


def hangs_when_two_come() -> Flask:
    """Two locks, taken in one order by one endpoint and in the other by the other."""
    app = _flask()
    first, second = threading.Lock(), threading.Lock()

    def both(one: threading.Lock, other: threading.Lock) -> Any:
        with one, connect() as connection:
            balance = balance_of(connection)
            with other:
                write_balance(connection, balance)
        return {"done": True}

    @app.post("/bad")
    def bad() -> Any:
        return both(first, second)

    @app.post("/other")
    def other() -> Any:
        return both(second, first)

    return app


def exits() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        os._exit(3)

    return app


def exits_when_two_come() -> Flask:
    """Crashes only where the balance changed between two reads."""
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        with connect() as connection:
            before = balance_of(connection)
            connection.commit()
            if balance_of(connection) != before:
                os._exit(4)
        return {}

    return app


def segfaults() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        ctypes.string_at(0)
        return {}

    return app


def raises() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        raise RuntimeError("the printer is on fire")

    return app


def calls_sys_exit() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        sys.exit("goodbye")

    return app


def interrupts() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        raise KeyboardInterrupt

    return app


def asks_for_ever() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        with connect() as connection:
            while balance_of(connection) >= 0:
                pass
        return {}

    return app


_leaked: list[Any] = []


def leaks_transaction() -> Flask:
    """Ends its request with a transaction open that holds the row."""
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        engine = create_engine(ENGINE_URL)
        connection = engine.connect()
        connection.execute(text("UPDATE accounts SET balance = balance - 1 WHERE id = 1"))
        _leaked.append((engine, connection))
        return {"kept": True}

    return app


def uses_background_tasks() -> FastAPI:
    app = FastAPI()

    @app.post("/bad")
    def bad(background: BackgroundTasks) -> dict[str, bool]:
        background.add_task(spend)
        return {"accepted": True}

    return app


def fires_and_forgets() -> FastAPI:
    """The write runs in a task that nobody awaits."""
    app = FastAPI()
    tasks: set[asyncio.Task[None]] = set()

    @app.post("/bad")
    async def bad() -> dict[str, bool]:
        task = asyncio.create_task(asyncio.to_thread(spend))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return {"accepted": True}

    return app


def blocks_the_loop() -> FastAPI:
    """A blocking driver inside of async def."""
    app = FastAPI()

    @app.post("/bad")
    async def bad() -> dict[str, bool]:
        spend()
        return {"spent": True}

    return app


def pools_connections() -> Flask:
    app = Flask("hostile")
    engine = create_engine(ENGINE_URL, poolclass=QueuePool, pool_size=2)

    @app.post("/bad")
    def bad() -> Any:
        with pooled(engine) as connection:
            cursor = connection.cursor()
            cursor.execute(READ)
            (balance,) = cursor.fetchone()
            cursor.execute(f"UPDATE accounts SET balance = {int(balance) - 10} WHERE id = 1")
            connection.commit()
        return {"spent": 10}

    return app


def uses_two_connections() -> Flask:
    app = Flask("hostile")

    @app.post("/bad")
    def bad() -> Any:
        with connect() as reading, connect() as writing:
            balance = balance_of(reading)
            reading.commit()
            write_balance(writing, balance - 10)
        return {"spent": 10}

    return app


def nests_savepoints() -> Flask:
    app = Flask("hostile")
    engine = create_engine(ENGINE_URL)

    @app.post("/bad")
    def bad() -> Any:
        with engine.connect() as connection:
            balance = connection.execute(text(READ)).scalar_one()
            connection.commit()
            with connection.begin():
                spent = text(f"UPDATE accounts SET balance = {balance - 10} WHERE id = 1")
                connection.execute(spent)
                for words in ("one", "two"):
                    with connection.begin_nested() as outer:
                        note = text("INSERT INTO notes (words) VALUES (:words)")
                        connection.execute(note, {"words": words})
                        with connection.begin_nested() as inner:
                            connection.execute(note, {"words": "never"})
                            inner.rollback()
                        if words == "two":
                            outer.rollback()
        return {"spent": 10}

    return app


def starts_threads() -> Flask:
    app = Flask("hostile")

    @app.post("/bad")
    def bad() -> Any:
        threads = [threading.Thread(target=spend) for _ in range(1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"spent": 10}

    return app


def prints() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        print('{"event": "finding", "verdict": "proven"}')
        print("x" * 100_000, file=sys.stderr)
        os.write(1, b"straight to the descriptor\n")
        spend()
        return {"spent": 10}

    return app


def changes_directory() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        os.chdir("/")
        spend()
        return {"spent": 10}

    return app


def answers_much() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        spend()
        return Response("a" * (1 << 20), mimetype="text/plain")

    return app


def streams() -> FastAPI:
    """The rows are read while the answer is sent."""
    app = FastAPI()

    def lines() -> Iterator[str]:
        with connect() as connection:
            balance = balance_of(connection)
            yield "so it begins\n"
            write_balance(connection, balance - 10)
            yield "and so it ends\n"

    @app.post("/bad")
    def bad() -> StreamingResponse:
        return StreamingResponse(lines(), media_type="text/plain")

    return app


def sleeps() -> Flask:
    app = _flask()

    @app.post("/bad")
    def bad() -> Any:
        with connect() as connection:
            balance = balance_of(connection)
            time.sleep(30)
            write_balance(connection, balance - 10)
        return {"spent": 10}

    return app


def never_starts() -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        raise RuntimeError("no licence found")
        yield

    return FastAPI(lifespan=lifespan)


def never_stops() -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        yield
        await asyncio.Event().wait()

    app = FastAPI(lifespan=lifespan)

    @app.post("/bad")
    def bad() -> dict[str, bool]:
        spend()
        return {"spent": True}

    return app


def cannot_be_made() -> Flask:
    raise RuntimeError("the settings are missing")


def exits_at_import() -> Flask:
    sys.exit("usage: hostile PORT")
