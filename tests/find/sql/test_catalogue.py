"""What belongs to PostgreSQL itself is told by its name, and not by how the name begins."""

from __future__ import annotations

import psycopg
import pytest

from crowdsafe.find import Verdict, find
from crowdsafe.find.sql import analyse
from crowdsafe.find.sql.catalogue import is_catalogue


@pytest.mark.postgres
def test_all_relations_of_the_catalogue_are_known(pg_url: str) -> None:
    with psycopg.connect(pg_url.replace("+psycopg", "")) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace"
            " AND relkind IN ('r', 'v')"
        ).fetchall()
    assert len(rows) > 100
    assert [name for (name,) in rows if not is_catalogue(name)] == []


@pytest.mark.parametrize(
    "name", ["pg_catalog.anything", '"pg_class"', "PG_TYPE", "information_schema.tables"]
)
def test_it_is_told_however_it_is_written(name: str) -> None:
    assert is_catalogue(name)


def test_a_table_of_the_users_own_is_a_table() -> None:
    assert not is_catalogue("pg_stock")
    statement = analyse("SELECT on_hand FROM pg_stock WHERE id = 1", "postgresql")
    assert statement.reads == {"pg_stock"}
    assert analyse("SELECT 1 FROM pg_class", "postgresql").reads == frozenset()


@pytest.mark.postgres
def test_a_race_over_a_table_with_such_a_name_is_found(pg_url: str) -> None:
    url = pg_url.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute(b"CREATE TABLE pg_stock (id int PRIMARY KEY, on_hand int)")
        connection.execute(b"INSERT INTO pg_stock VALUES (1, 100)")

    def take() -> str:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT on_hand FROM pg_stock WHERE id = 1").fetchone()
            assert row is not None
            if row[0] < 60:
                return "sold out"
            connection.execute("UPDATE pg_stock SET on_hand = %s WHERE id = 1", [row[0] - 60])
            return "taken"

    report = find(None, [take], database=url)
    assert report.findings[0].verdict is Verdict.RACE, str(report)
