"""What counts as a driver's talk with the server about itself."""

from __future__ import annotations

import pytest

from crowdsafe.find.gates.roundtrip import force_isolation, is_chatter, with_isolation


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "SELECT 1",
        "select pg_catalog.version()",
        "SHOW standard_conforming_strings",
        "SET datestyle TO 'ISO'",
        "SELECT set_config('TimeZone', %s, false)",
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        "SELECT t.oid FROM pg_type t JOIN pg_namespace ns ON t.typnamespace = ns.oid",
        "-- ping\nSELECT 1;",
        "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        "DEALLOCATE ALL",
        "with recursive t(a) as (select oid from pg_type) select * from t",
    ],
)
def test_chatter(sql: str) -> None:
    assert is_chatter(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM stock",
        "SELECT 1 FROM stock LIMIT 1",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT nextval('s')",
        "SELECT take_stock(1)",
        "SELECT t.oid FROM pg_type t, stock",
        "SELECT (SELECT qty FROM stock)",
        "BEGIN",
        "COMMIT",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET LOCAL lock_timeout = 0",
        "SELECT 1; DELETE FROM stock",
        "WITH gone AS (DELETE FROM stock RETURNING *) SELECT * FROM gone",
        "WITH a AS (SELECT 1) SELECT * FROM a JOIN stock ON true",
    ],
)
def test_no_chatter(sql: str) -> None:
    assert not is_chatter(sql)


def test_forced_isolation_is_written_where_a_transaction_begins() -> None:
    force_isolation("serializable")
    try:
        assert with_isolation("BEGIN;") == "BEGIN ISOLATION LEVEL SERIALIZABLE"
        assert with_isolation("begin isolation level read committed read only") == (
            "begin ISOLATION LEVEL SERIALIZABLE read only"
        )
        assert with_isolation("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ") == (
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        )
        assert with_isolation("SELECT 'begin'") == "SELECT 'begin'"
    finally:
        force_isolation(None)
    assert with_isolation("BEGIN;") == "BEGIN;"
