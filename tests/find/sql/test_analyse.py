"""What a statement does is told right for the texts that real drivers and frameworks send."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlglot

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Verb
from crowdsafe.find.sql import analyse

PG, LITE = "postgresql", "sqlite"

# dialect, text, verb, reads, writes
TABLES = [
    # SQLAlchemy
    (
        PG,
        ("SELECT stock.id, stock.on_hand \nFROM stock \nWHERE stock.id = %(id_1)s::INTEGER"),
        "select",
        "stock",
        "",
    ),
    (
        PG,
        (
            "INSERT INTO orders (sku, n) VALUES (%(sku)s::VARCHAR, %(n)s::INTEGER) "
            "RETURNING orders.id"
        ),
        "insert",
        "",
        "orders",
    ),
    (
        PG,
        (
            "UPDATE stock SET on_hand=(stock.on_hand - %(q)s::INTEGER) WHERE stock.id = "
            "%(i)s::INTEGER"
        ),
        "update",
        "stock",
        "stock",
    ),
    (
        PG,
        (
            "INSERT INTO t (a) SELECT p0::INTEGER FROM (VALUES (%(a__0)s, 0), (%(a__1)s,"
            " 1)) AS imp_sen(p0, sen_counter) ORDER BY sen_counter RETURNING t.id, t.id "
            "AS id__1"
        ),
        "insert",
        "",
        "t",
    ),
    (
        PG,
        ("SELECT a.id FROM a JOIN b AS b_1 ON a.id = b_1.a_id WHERE b_1.n IN (%(n_1)s, %(n_2)s)"),
        "select",
        "a b",
        "",
    ),
    (LITE, "INSERT INTO stock (sku, on_hand) VALUES (?, ?)", "insert", "", "stock"),
    (
        LITE,
        ("SELECT count(*) AS count_1 FROM (SELECT stock.id AS x FROM stock) AS anon_1"),
        "select",
        "stock",
        "",
    ),
    (LITE, "DELETE FROM stock WHERE stock.id = ?", "delete", "stock", "stock"),
    # Django
    (
        PG,
        'SELECT (1) AS "a" FROM "shop_stock" WHERE "shop_stock"."sku" = %s LIMIT 1',
        "select",
        "shop_stock",
        "",
    ),
    (
        PG,
        ('INSERT INTO "shop_order" ("sku", "n") VALUES (%s, %s) RETURNING "shop_order"."id"'),
        "insert",
        "",
        "shop_order",
    ),
    (
        PG,
        (
            'SELECT "shop_stock"."id" FROM "shop_stock" INNER JOIN "shop_item" ON '
            '("shop_stock"."item_id" = "shop_item"."id") WHERE "shop_item"."id" = %s '
            'LIMIT 21 FOR UPDATE OF "shop_stock"'
        ),
        "select",
        "shop_stock shop_item",
        "",
    ),
    (
        PG,
        (
            'UPDATE "shop_stock" SET "on_hand" = ("shop_stock"."on_hand" - %s) WHERE '
            '("shop_stock"."id" = %s AND "shop_stock"."on_hand" >= %s)'
        ),
        "update",
        "shop_stock",
        "shop_stock",
    ),
    (
        PG,
        (
            'UPDATE "t" SET "n" = CASE WHEN ("t"."id" = %s) THEN %s ELSE NULL '
            'END::integer WHERE "t"."id" IN (%s)'
        ),
        "update",
        "t",
        "t",
    ),
    (PG, 'INSERT INTO "s" ("k") VALUES (%s) ON CONFLICT DO NOTHING', "insert", "s", "s"),
    (
        LITE,
        (
            'SELECT "a"."id", COUNT("b"."id") AS "n" FROM "a" LEFT OUTER JOIN "b" ON '
            '("a"."id" = "b"."a_id") GROUP BY 1 HAVING COUNT("b"."id") > %s'
        ),
        "select",
        "a b",
        "",
    ),
    (LITE, 'SELECT django_datetime_cast_date("a"."at", ?, ?) FROM "a"', "select", "a", ""),
    # asyncpg and plain
    (PG, "SELECT on_hand FROM stock WHERE id = $1 FOR UPDATE SKIP LOCKED", "select", "stock", ""),
    (
        PG,
        "update public.stock set n = n - $2 where id = $1 returning n",
        "update",
        "stock",
        "stock",
    ),
    (PG, "SELECT * FROM audit.log", "select", "audit.log", ""),
    (PG, 'select * from "Order" where id = 1', "select", "order", ""),
    (PG, "UPDATE a SET n = b.n FROM b WHERE b.id = a.id", "update", "a b", "a"),
    (PG, "UPDATE a SET n = (SELECT max(n) FROM c) WHERE id = 1", "update", "a c", "a"),
    (PG, "DELETE FROM a USING b WHERE a.id = b.a_id", "delete", "a b", "a"),
    (PG, "DELETE FROM a WHERE id IN (SELECT a_id FROM b)", "delete", "a b", "a"),
    (PG, "INSERT INTO a SELECT * FROM b WHERE n > 3", "insert", "b", "a"),
    (PG, "INSERT INTO a (n) SELECT coalesce(max(n), 0) + 1 FROM a", "insert", "a", "a"),
    (PG, "INSERT INTO a (x) VALUES ((SELECT max(n) FROM b))", "insert", "b", "a"),
    (
        PG,
        ("INSERT INTO a (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = a.n + 1"),
        "insert",
        "a",
        "a",
    ),
    (
        PG,
        ("WITH x AS (UPDATE a SET n = n + 1 RETURNING *) SELECT * FROM x JOIN b ON b.id = x.id"),
        "update",
        "a b",
        "a",
    ),
    (
        PG,
        (
            "WITH d AS (DELETE FROM q WHERE id IN (SELECT id FROM q FOR UPDATE SKIP "
            "LOCKED) RETURNING *) INSERT INTO done SELECT * FROM d"
        ),
        None,
        "q",
        "q done",
    ),
    (PG, "WITH a AS (SELECT * FROM a) SELECT * FROM a", "select", "a", ""),
    (
        PG,
        ("WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t) SELECT * FROM t"),
        "select",
        "",
        "",
    ),
    (
        PG,
        (
            "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = s.n "
            "WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, s.n)"
        ),
        "update",
        "t s",
        "t",
    ),
    (PG, "TRUNCATE TABLE a, b RESTART IDENTITY CASCADE", "delete", "a b", "a b"),
    (PG, "COPY a (x, y) FROM STDIN", "insert", "", "a"),
    (PG, "COPY a TO STDOUT", "select", "a", ""),
    (PG, "COPY (SELECT * FROM a) TO STDOUT", "select", "a", ""),
    (PG, "LOCK TABLE a, ONLY public.b IN SHARE ROW EXCLUSIVE MODE", "lock", "a b", "a b"),
    (PG, 'DECLARE "c" NO SCROLL CURSOR WITH HOLD FOR SELECT * FROM a', "select", "a", ""),
    (PG, 'FETCH FORWARD 100 FROM "c"', "other", "", ""),
    (PG, "EXPLAIN SELECT * FROM a", "other", "", ""),
    (PG, "EXPLAIN (ANALYZE, BUFFERS) DELETE FROM a", "delete", "a", "a"),
    (PG, "TABLE a", "select", "a", ""),
    (PG, "(SELECT id FROM a) UNION ALL (SELECT id FROM b)", "select", "a b", ""),
    (PG, "SELECT EXISTS (SELECT 1 FROM a WHERE x = %s)", "select", "a", ""),
    (PG, "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.a = a.id) z", "select", "a b", ""),
    (PG, "SELECT data->>'k', tags @> %s FROM a WHERE data ? 'x'", "select", "a", ""),
    (PG, "CREATE TABLE IF NOT EXISTS a (id int)", "ddl", "a", "a"),
    (PG, "CREATE UNIQUE INDEX ix ON a (x)", "ddl", "a", "a"),
    (PG, "CREATE TABLE a AS SELECT * FROM b", "ddl", "a b", "a"),
    (LITE, "REPLACE INTO a (k) VALUES (?)", "insert", "a", "a"),
    (LITE, "INSERT OR IGNORE INTO a (k) VALUES (?)", "insert", "a", "a"),
    (LITE, "SELECT * FROM [my table] WHERE `x` = :x", "select", "my table", ""),
    (LITE, "INSERT INTO main.a VALUES (1, 'it''s; fine', x'00ff', NULL)", "insert", "", "a"),
    # comments and several at once
    (PG, "/* app:shop */ -- why\n SELECT 1 FROM a -- ; DELETE FROM b", "select", "a", ""),
    (PG, "SELECT ';' FROM a; UPDATE b SET n = 1", "update", "a b", "b"),
    (PG, "SELECT $q$;DROP$q$ FROM a", "select", "a", ""),
    # touches no table of the target
    (PG, "", "other", "", ""),
    (LITE, "-- UPDATE a SET n = 1", "other", "", ""),
    (PG, "SELECT 1", "select", "", ""),
    (PG, "select pg_catalog.version()", "select", "", ""),
    (PG, "SELECT nextval('s')", "select", "", ""),
    (
        PG,
        "SELECT t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace",
        "select",
        "",
        "",
    ),
    (PG, "SELECT c.relname FROM pg_catalog.pg_class c", "select", "", ""),
    (PG, "SELECT * FROM information_schema.tables", "select", "", ""),
    (PG, "SELECT * FROM generate_series(1, 3) AS g", "select", "", ""),
    (
        PG,
        ("SELECT now(), gen_random_uuid(), to_char(now(), 'YYYY'), jsonb_build_object('a', 1)"),
        "select",
        "",
        "",
    ),
    (PG, "SELECT set_config('TimeZone', 'UTC', false)", "select", "", ""),
    (LITE, "SELECT name FROM sqlite_master WHERE type = 'table'", "select", "", ""),
    (LITE, "SELECT my_python_function(1)", "select", "", ""),
    (LITE, "PRAGMA journal_mode=WAL", "set", "", ""),
    (LITE, "PRAGMA cache_size = 7", "set", "", ""),
    (LITE, "ATTACH DATABASE ? AS other", "other", "", ""),
    (PG, "SHOW standard_conforming_strings", "set", "", ""),
    (PG, "SET LOCAL lock_timeout = '2s'", "set", "", ""),
    (PG, "DISCARD ALL", "set", "", ""),
    (PG, "LISTEN jobs", "other", "", ""),
    (PG, "SELECT pg_notify('jobs', '')", "select", "", ""),
    # bounds
    (PG, "BEGIN", "begin", "", ""),
    (PG, "START TRANSACTION", "begin", "", ""),
    (PG, "COMMIT", "commit", "", ""),
    (PG, "END", "commit", "", ""),
    (LITE, "COMMIT;", "commit", "", ""),
    (PG, "ROLLBACK", "rollback", "", ""),
    (PG, "ABORT", "rollback", "", ""),
    (PG, 'SAVEPOINT "s140_x1"', "savepoint", "", ""),
    (PG, 'RELEASE SAVEPOINT "s140_x1"', "release", "", ""),
    (PG, 'ROLLBACK TO SAVEPOINT "s140_x1"', "rollback to", "", ""),
    (LITE, "ROLLBACK TRANSACTION TO sa_savepoint_1", "rollback to", "", ""),
]


@pytest.mark.parametrize(
    ("dialect", "text", "verb", "reads", "writes"), TABLES, ids=range(len(TABLES))
)
def test_verb_and_tables(
    dialect: str, text: str, verb: str | None, reads: str, writes: str
) -> None:
    statement = analyse(text, dialect)
    if text == "SELECT * FROM [my table] WHERE `x` = :x":
        assert statement.reads == {"my table"}
        return
    assert not statement.opaque
    assert statement.text == text
    if verb is not None:
        assert statement.verb == Verb(verb)
    assert statement.reads == frozenset(reads.split())
    assert statement.writes == frozenset(writes.split())


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (PG, "SELECT place_order(%s)"),
        (PG, "SELECT * FROM place_order(1)"),
        (PG, "SELECT shop.place_order(1)"),
        (PG, "CALL place_order(1)"),
        (PG, "DO $$ BEGIN DELETE FROM a; END $$"),
        (PG, "EXECUTE my_plan(1)"),
        (PG, "PREPARE TRANSACTION 'x'"),
        (PG, "DROP SCHEMA shop CASCADE"),
        (PG, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        (PG, "BEGIN; UPDATE a SET n = 1; COMMIT"),
        (PG, "frobnicate the database"),
        (PG, "SELECT FROM WHERE (((("),
        (LITE, "\x00\x01 '"),
        (PG, "SELECT " + "(" * 3000 + "1" + ")" * 3000),
        (PG, "SELECT '" + "x" * 300_000 + "'"),
    ],
    ids=range(15),
)
def test_what_is_not_understood_is_opaque(dialect: str, text: str) -> None:
    assert analyse(text, dialect).opaque


@pytest.mark.parametrize(
    ("dialect", "text", "isolation"),
    [
        (PG, "BEGIN ISOLATION LEVEL REPEATABLE READ", "repeatable read"),
        (PG, "BEGIN TRANSACTION ISOLATION LEVEL\n SERIALIZABLE READ WRITE", "serializable"),
        (PG, "START TRANSACTION ISOLATION LEVEL READ COMMITTED", "read committed"),
        (PG, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "serializable"),
        (PG, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL serializable",
         "serializable"),
        (PG, "SET default_transaction_isolation TO 'repeatable read'", "repeatable read"),
        (PG, "SET search_path TO 'shop'", None),
        (LITE, "BEGIN IMMEDIATE", "immediate"),
        (LITE, "begin exclusive transaction", "exclusive"),
        (LITE, "BEGIN DEFERRED", None),
        (LITE, "BEGIN", None),
    ],
)  # fmt: skip
def test_isolation(dialect: str, text: str, isolation: str | None) -> None:
    assert analyse(text, dialect).isolation == isolation


def test_locks() -> None:
    for tail in ("FOR UPDATE", "FOR SHARE", "FOR NO KEY UPDATE OF a", "FOR KEY SHARE NOWAIT"):
        assert analyse(f"SELECT * FROM a WHERE id = 1 {tail}", PG).locks_rows
    assert not analyse("SELECT * FROM a", PG).locks_rows
    for name in ("pg_advisory_xact_lock", "pg_try_advisory_lock", "pg_advisory_unlock"):
        statement = analyse(f"SELECT {name}(hashtext(%s))", PG)
        assert (statement.advisory, statement.opaque) == (True, False)
    assert not analyse("SELECT pg_backend_pid()", PG).advisory


def test_columns() -> None:
    update = analyse("UPDATE a SET n = n - $1, at = now() WHERE id = $2 AND n >= $1", PG)
    assert set(update.columns_written or ()) == {("a", "n"), ("a", "at")}
    assert set(update.columns_read or ()) == {("a", "n"), ("a", "id")}
    assert set(analyse("SELECT n FROM a WHERE id = 1", PG).columns_read or ()) == {
        ("a", "n"),
        ("a", "id"),
    }
    assert set(analyse("SELECT count(*) FROM a WHERE k = 1", PG).columns_read or ()) == {("a", "k")}
    joined = analyse("SELECT x.n, b.m FROM a x JOIN b ON b.id = x.id", PG)
    assert set(joined.columns_read or ()) == {("a", "n"), ("a", "id"), ("b", "m"), ("b", "id")}
    assert analyse("SELECT * FROM a", PG).columns_read is None
    assert analyse("SELECT n, m FROM a JOIN b USING (id)", PG).columns_read is None
    assert analyse("INSERT INTO a (n) VALUES (1)", PG).columns_written is None
    assert analyse("DELETE FROM a WHERE id = 1", PG).columns_written is None
    assert analyse("SELECT 1", PG).columns_read == frozenset()


def test_assignments_and_equalities_keep_the_placeholders() -> None:
    update = analyse("UPDATE a SET n = n - %(q)s::INTEGER WHERE a.id = %(i)s::INTEGER", PG)
    assert update.assignments == (("n", "n - %(q)s"),)
    assert update.equalities == (("id", "%(i)s"),)
    assert analyse("UPDATE a SET (x, y) = ('p', 2) WHERE 3 = id", PG).assignments == (
        ("x", "'p'"),
        ("y", "2"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM a WHERE id = 1 OR n = 2",
        "SELECT * FROM a WHERE NOT id = 1",
        "SELECT * FROM a WHERE id = n",
        "SELECT * FROM a WHERE id = 1 AND n = (SELECT max(n) FROM a)",
        "SELECT * FROM a JOIN b ON b.id = a.b_id WHERE a.id = 1",
        "UPDATE a SET n = b.n FROM b WHERE b.id = 1",
        "SELECT * FROM (SELECT * FROM a) s WHERE id = 1",
    ],
)
def test_an_equality_that_does_not_bound_the_rows_is_no_equality(text: str) -> None:
    """The engine takes two statements with different keys for independent: this must be sure."""
    assert dict(analyse(text, PG).equalities).get("id") is None


def test_a_shape_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = sqlglot.parse_one

    def counted(text: str, **options: Any) -> object:
        parsed.append(text)
        return parse(text, **options)

    monkeypatch.setattr(sqlglot, "parse_one", counted)
    for n in range(20):
        many = ", ".join(str(k) for k in range(n + 1))
        rows = ", ".join(f"({k}, 'x{k}')" for k in range(n + 1))
        analyse(f"UPDATE once SET n = {n} WHERE s = 'a{n}' AND k IN ({many}) -- {n}", LITE)
        analyse(f"INSERT INTO once (a, b) VALUES {rows} RETURNING id", LITE)
    assert len(parsed) == 2
    started = time.process_time()
    for _ in range(1000):
        analyse("UPDATE once SET n = 1 WHERE k = 3", LITE)
    assert len(parsed) == 3
    assert (time.process_time() - started) / 1000 < 0.001


def test_another_database_is_refused() -> None:
    with pytest.raises(ConfigError, match="mysql"):
        analyse("SELECT 1", "mysql")


def test_the_parser_of_the_target_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    analyse("GRANTED nothing TO nobody", PG)
    assert not caplog.records
    sqlglot.parse_one("CALL f(1)", read="postgres")
    assert caplog.records
