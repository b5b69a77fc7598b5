"""How a working copy of a PostgreSQL database comes to be and goes, and why it may not."""

from __future__ import annotations

import psycopg
import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.database import open_database
from crowdsafe.find.database.postgres import PostgresDatabase
from crowdsafe.find.database.postgres_copy import parse_address
from tests.support.pg_server import PgServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def filled(pg_url: str) -> str:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE stock (id int PRIMARY KEY, qty int)")
        connection.execute("INSERT INTO stock VALUES (1, 80)")
    return pg_url


def quantity(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT qty FROM stock").fetchone()
    assert row is not None
    return int(row[0])


def test_original_is_never_written(filled: str, pg_server: PgServer) -> None:
    database = open_database(filled.replace("postgresql:", "postgresql+asyncpg:"))
    assert isinstance(database, PostgresDatabase)
    assert database.working_url.startswith("postgresql+asyncpg:")
    working = database.redirect.working
    database.keep()
    plain = database.working_url.replace("+asyncpg", "")
    with psycopg.connect(plain) as target:
        target.execute("UPDATE stock SET qty = 0")
    assert quantity(filled) == 80
    database.close()
    assert pg_server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{working}'") == []
    assert quantity(filled) == 80


def test_settings_of_the_database_come_along(filled: str) -> None:
    name = filled.rpartition("/")[2]
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET search_path = app, public")
        connection.execute(f"ALTER DATABASE {name} SET my.setting = 'it''s'")
        connection.execute(f"ALTER ROLE postgres IN DATABASE {name} SET work_mem = '7MB'")
    database = PostgresDatabase(filled)
    try:
        with psycopg.connect(database.working_url) as target:
            for setting, value in (
                ("search_path", "app, public"),
                ("my.setting", "it's"),
                ("work_mem", "7MB"),
                ("deadlock_timeout", "10ms"),
                ("synchronous_commit", "off"),
            ):
                assert target.execute(f"SHOW {setting}").fetchone() == (value,)
    finally:
        database.close()


def test_others_are_connected(filled: str) -> None:
    with (
        psycopg.connect(filled, application_name="shop"),
        pytest.raises(ConfigError, match=r"shop.*--in-place"),
    ):
        PostgresDatabase(filled)


def test_no_such_database_or_server(pg_server: PgServer) -> None:
    with pytest.raises(ConfigError, match="no database 'not_there'"):
        PostgresDatabase(pg_server.url("not_there"))
    with pytest.raises(ConfigError, match="no connection"):
        PostgresDatabase("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match="names no database"):
        PostgresDatabase("postgresql://127.0.0.1")


def test_role_without_the_right(filled: str, pg_server: PgServer) -> None:
    role = f"poor_{filled.rpartition('_')[2]}"
    pg_server.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(ConfigError, match="CREATEDB"):
            PostgresDatabase(filled.replace("postgres@", f"{role}@"))
    finally:
        pg_server.execute(f"DROP ROLE {role}")


def test_password_is_not_shown() -> None:
    address = parse_address("postgresql+psycopg://me:s%40crt@db.example:5433/shop?sslmode=prefer")
    assert address.shown == "postgresql+psycopg://me:***@db.example:5433/shop?sslmode=prefer"
    assert dict(address.params)["password"] == "s@crt"
    assert address.with_dbname("copy").url == (
        "postgresql+psycopg://me:s%40crt@db.example:5433/copy?sslmode=prefer"
    )


def test_address_without_a_host() -> None:
    address = parse_address("postgresql:///shop?host=/run/pg&password=secret")
    assert address.dbname == "shop"
    assert address.shown == "postgresql:///shop?host=/run/pg&password=***"
    assert address.with_dbname("copy").url == (
        "postgresql:///copy?host=%2Frun%2Fpg&password=secret"
    )
    assert parse_address("postgresql://u@/shop").with_dbname("c").url == "postgresql://u@/c"


def test_in_place_puts_the_database_back(filled: str) -> None:
    with psycopg.connect(filled) as other:
        database = PostgresDatabase(filled, in_place=True)
        assert database.working_url == filled
        database.keep()
        other.execute("UPDATE stock SET qty = 0")
        other.commit()
        database.restore()
        assert quantity(filled) == 80
        other.execute("UPDATE stock SET qty = 1")
        other.commit()
        database.close()
        assert quantity(filled) == 80
        rows = other.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'crowdsafe_find'")
        assert rows.fetchall() == []
        triggers = other.execute("SELECT 1 FROM pg_trigger WHERE NOT tgisinternal").fetchall()
        assert triggers == []


def test_in_place_after_a_crash(filled: str) -> None:
    killed = PostgresDatabase(filled, in_place=True)
    killed.keep()
    with psycopg.connect(filled) as other:
        other.execute("UPDATE stock SET qty = 0")
    again = PostgresDatabase(filled, in_place=True)
    assert quantity(filled) == 80
    again.close()
    killed._side.close()
    killed._watch.close()


def test_unknown_isolation_level(filled: str) -> None:
    database = PostgresDatabase(filled)
    try:
        with pytest.raises(ConfigError, match="isolation level"):
            database.set_isolation("loose")
    finally:
        database.close()


def test_psycopg_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"crowdsafe\[find,postgres\]"):
        PostgresDatabase("postgresql://127.0.0.1/x")


def test_own_connections_are_not_redirected(filled: str) -> None:
    """With the gates in place, the finder's connections still go where it says."""
    from crowdsafe.find import gates

    database = PostgresDatabase(filled)
    undo = gates.install("postgresql", database.redirect)
    try:
        database.keep()
        with psycopg.connect(filled) as target:
            target.execute("UPDATE stock SET qty = 0")
        assert database.read()["stock"].rows == [(1, 0)]
        database.restore()
        assert database.read()["stock"].rows == [(1, 80)]
    finally:
        database.close()
        undo()
    assert quantity(filled) == 80
