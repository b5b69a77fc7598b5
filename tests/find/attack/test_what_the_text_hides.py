"""Races of which the text of the statements says nothing: the schema has to."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import psycopg
import pytest

from crowdsafe.find import find
from crowdsafe.find.model import Verdict

pytestmark = pytest.mark.postgres

Operation = Callable[[], object]


def statements(url: str, *texts: str) -> Operation:
    """An operation of a transaction for each text; ``{}`` is what the statement before it read."""

    def operation() -> object:
        seen: object = None
        with psycopg.connect(url) as connection:
            for text in texts:
                cursor = connection.execute(text.format(seen).encode())
                if cursor.description:
                    row = cursor.fetchone()
                    seen = row[0] if row else None
                connection.commit()
        return seen

    return operation


CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "key with a condition": (
        (
            "CREATE TABLE seats (id int PRIMARY KEY, kind text, taken bool);"
            "CREATE UNIQUE INDEX ON seats (kind) WHERE taken;"
            "INSERT INTO seats VALUES (1, 'window', false), (2, 'window', false)"
        ),
        [
            "UPDATE seats SET taken = true WHERE id = 1",
            "UPDATE seats SET taken = false WHERE id = 1",
        ],
        ["UPDATE seats SET taken = true WHERE id = 2"],
    ),
    "exclusion": (
        (
            "CREATE TABLE stays (id int PRIMARY KEY, at int4range, EXCLUDE USING gist (at WITH &&))"
            ";"
            "INSERT INTO stays VALUES (1, '[0,1)'), (2, '[1,2)')"
        ),
        [
            "UPDATE stays SET at = '[5,9)' WHERE id = 1",
            "UPDATE stays SET at = '[0,1)' WHERE id = 1",
        ],
        ["UPDATE stays SET at = '[7,8)' WHERE id = 2"],
    ),
    "trigger of a cascade": (
        (
            "CREATE TABLE carts (id int PRIMARY KEY);"
            "CREATE TABLE items (id int PRIMARY KEY, cart int REFERENCES carts ON DELETE CASCADE);"
            "CREATE TABLE totals (n int);"
            "CREATE FUNCTION less() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            "  UPDATE totals SET n = n - 1; RETURN old; END $$;"
            "CREATE TRIGGER less AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION less();"
            "INSERT INTO carts VALUES (1); INSERT INTO items VALUES (1, 1);"
            "INSERT INTO totals VALUES (5)"
        ),
        ["DELETE FROM carts WHERE id = 1"],
        ["SELECT n FROM totals", "UPDATE totals SET n = {} + 10"],
    ),
    "functions called as the database's are": (
        (
            "CREATE TABLE funds (n int); INSERT INTO funds VALUES (100);"
            "CREATE FUNCTION current_funds() RETURNS int LANGUAGE sql AS 'SELECT n FROM funds';"
            "CREATE FUNCTION make_draw(rest int) RETURNS void LANGUAGE sql AS"
            " 'UPDATE funds SET n = rest'"
        ),
        ["SELECT current_funds()", "SELECT make_draw({} - 10)"],
        ["SELECT current_funds()", "SELECT make_draw({} - 20)"],
    ),
    "default": (
        (
            "CREATE TABLE last (n int); INSERT INTO last VALUES (1);"
            "CREATE FUNCTION next_number() RETURNS int LANGUAGE sql AS 'SELECT n + 1 FROM last';"
            "CREATE TABLE bills (id serial PRIMARY KEY, number int DEFAULT next_number())"
        ),
        ["INSERT INTO bills DEFAULT VALUES RETURNING number", "UPDATE last SET n = {}"],
        ["INSERT INTO bills DEFAULT VALUES RETURNING number", "UPDATE last SET n = {}"],
    ),
    "search path": (
        (
            "CREATE SCHEMA tenant; CREATE TABLE stock (n int); CREATE TABLE tenant.stock (n int);"
            "INSERT INTO stock VALUES (1); INSERT INTO tenant.stock VALUES (100)"
        ),
        [
            "SET search_path TO tenant",
            "SELECT n FROM stock",
            "UPDATE stock SET n = {} - 10",
        ],
        ["SELECT n FROM tenant.stock", "UPDATE tenant.stock SET n = {} - 20"],
    ),
    "upper case": (
        (
            'CREATE TABLE stock (n int); CREATE TABLE "Stock" (n int);'
            'INSERT INTO stock VALUES (1); INSERT INTO "Stock" VALUES (100)'
        ),
        ['SELECT n FROM "Stock"', 'UPDATE "Stock" SET n = {} - 10'],
        ['SELECT n FROM "Stock"', 'UPDATE "Stock" SET n = {} - 20'],
    ),
    "two spellings of a uuid": (
        (
            "CREATE TABLE stock (id uuid PRIMARY KEY, n int);"
            "INSERT INTO stock VALUES ('123e4567-e89b-12d3-a456-426614174000', 100)"
        ),
        [
            "SELECT n FROM stock WHERE id = '123e4567-e89b-12d3-a456-426614174000'",
            "UPDATE stock SET n = {} - 10 WHERE id = '123e4567-e89b-12d3-a456-426614174000'",
        ],
        [
            "SELECT n FROM stock WHERE id = '123E4567e89b12d3a456426614174000'",
            "UPDATE stock SET n = {} - 20 WHERE id = '123E4567e89b12d3a456426614174000'",
        ],
    ),
    "two spellings of a date": (
        (
            "CREATE TABLE days (day date PRIMARY KEY, n int); INSERT INTO days VALUES"
            " ('2026-01-02', 100)"
        ),
        [
            "SELECT n FROM days WHERE day = '2026-01-02'",
            "UPDATE days SET n = {} - 10 WHERE day = '2026-01-02'",
        ],
        [
            "SELECT n FROM days WHERE day = '2 Jan 2026'",
            "UPDATE days SET n = {} - 20 WHERE day = '2 Jan 2026'",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_races_that_only_the_schema_tells_are_found(pg_url: str, name: str) -> None:
    schema, one, other = CASES[name]
    with psycopg.connect(pg_url) as connection:
        connection.execute(schema.encode())
    operations = [statements(pg_url, *one), statements(pg_url, *other)]
    report = find(None, operations, database=pg_url, budget_s=20)
    between = next(f for f in report.findings if f.operations[0] != f.operations[1])
    assert between.verdict is Verdict.RACE, report


def test_what_policies_read_is_seen(pg_url: str) -> None:
    with psycopg.connect(pg_url) as connection:
        connection.execute(
            b"CREATE TABLE papers (id int); CREATE TABLE readers (id int);"
            b"INSERT INTO papers VALUES (1); INSERT INTO readers VALUES (1);"
            b"ALTER TABLE papers ENABLE ROW LEVEL SECURITY;"
            b"CREATE POLICY p ON papers USING (EXISTS (SELECT FROM readers));"
            b"CREATE ROLE reader_of_papers; GRANT SELECT ON papers, readers TO reader_of_papers"
        )

    def read_twice() -> list[int]:
        with psycopg.connect(pg_url) as connection:
            connection.execute("SET ROLE reader_of_papers")
            return [len(connection.execute("SELECT FROM papers").fetchall()) for _ in range(2)]

    try:
        report = find(
            None, [read_twice, statements(pg_url, "DELETE FROM readers")], database=pg_url
        )
        assert [f.verdict for f in report.races], report
    finally:
        with psycopg.connect(pg_url) as connection:
            connection.execute("DROP OWNED BY reader_of_papers; DROP ROLE reader_of_papers")


@pytest.mark.parametrize("named", [True, False], ids=["named", "of-session"])
def test_the_snapshot_that_asyncpg_takes_is_moved_about(pg_url: str, *, named: bool) -> None:
    with psycopg.connect(pg_url) as connection:
        connection.execute("CREATE TABLE cells (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO cells VALUES (1, 0), (2, 0)")
    level = "repeatable read"

    async def read() -> object:
        settings = {} if named else {"default_transaction_isolation": level}
        connection = await asyncpg.connect(pg_url, server_settings=settings)
        try:
            async with connection.transaction(isolation="repeatable_read" if named else None):
                await connection.fetchval("SELECT n FROM cells WHERE id = 2")
                return await connection.fetchval("SELECT n FROM cells WHERE id = 1")
        finally:
            await connection.close()

    add = "UPDATE cells SET n = n + 1 WHERE id = 1"
    report = find(None, [read, statements(pg_url, add, add)], database=pg_url, budget_s=20)
    between = next(f for f in report.findings if f.operations[0] != f.operations[1])
    assert between.verdict is Verdict.RACE, report
