"""The comparisons whose callers are tasks of this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import hand_postgres as pg
from bench import hand_sqlite as lite
from bench import ours
from bench.databases import Postgres, fill
from bench.goals import Comparison, Goal, Row, counted
from bench.measure import Contender, Plan, Results, ratio, run
from crowdsafe import Settings

TAKE = "crowdsafe: store.write(take), with ledger row"
CORE = "Core UPDATE, psycopg"
CORE_LEDGER = "Core UPDATE + ledger INSERT, psycopg"
VERSIONED = "ORM version_id_col + retry, psycopg"


async def hot_row(postgres: Postgres, plan: Plan) -> Comparison:
    """Everybody takes one piece from one row."""
    db = postgres.database
    contenders: list[Contender] = [
        ours.Take(TAKE, db()),
        pg.CorePeer(CORE, db(), TAKE),
        pg.CorePeer("Core UPDATE, asyncpg", db(), TAKE, driver="asyncpg"),
        pg.CoreAutocommit("Core UPDATE, AUTOCOMMIT, psycopg", db(), TAKE, autocommit=True),
        pg.BareAsyncpg("bare asyncpg UPDATE", db(), TAKE),
        pg.CoreForUpdate("Core SELECT FOR UPDATE, psycopg", db(), TAKE),
        pg.OrmVersioned(VERSIONED, db(), TAKE),
        pg.CoreWithLedger(CORE_LEDGER, db(), TAKE),
        pg.CoreOneStatement(
            "Core UPDATE + ledger INSERT in one statement, AUTOCOMMIT, psycopg",
            db(), TAKE, autocommit=True,
        ),
    ]  # fmt: skip
    goals = [
        Goal("hot row, 64 callers: against the atomic UPDATE", TAKE, CORE, 64, 10),
        Goal("hot row, 64 callers: against version_id_col with retry", TAKE, VERSIONED, 64, 50),
        Goal("hot row, 64 callers: p99 below the atomic UPDATE's", TAKE, CORE, 64, 1, "p99"),
        Goal("hot row, 64 callers: p99 below version_id_col's", TAKE, VERSIONED, 64, 1, "p99"),
    ]
    about = (
        "Take one piece from one row, never below zero. crowdsafe also writes the ledger row; "
        "of the peers only the last two do. “Core” is SQLAlchemy Core on asyncio."
    )
    return await _compare("hot-row", "PostgreSQL, one hot row", about, contenders, goals, plan)


async def distinct_rows(postgres: Postgres, plan: Plan) -> Comparison:
    """Nobody is in anybody's way."""
    db = postgres.database
    contenders: list[Contender] = [
        ours.TakeApart(TAKE, db()),
        pg.CorePeer(CORE, db(), TAKE, rows=64),
        pg.CoreWithLedger(CORE_LEDGER, db(), TAKE, rows=64),
        pg.BareAsyncpg("bare asyncpg UPDATE", db(), TAKE, rows=64),
    ]
    goals = [Goal("distinct rows, 64 callers: against the UPDATE", TAKE, CORE, 64, 0.9)]
    about = "Each of 64 callers takes from a row of its own. crowdsafe also writes the ledger row."
    title = "PostgreSQL, distinct rows"
    return await _compare("distinct-rows", title, about, contenders, goals, plan)


async def numbers(postgres: Postgres, plan: Plan) -> Comparison:
    """Numbers in order, without gaps."""
    db = postgres.database
    number = "crowdsafe: store.write(next_number)"
    document = "crowdsafe: number + document, closure in a lane"
    row, row_document = "Core counter row", "Core counter row + document"
    contenders: list[Contender] = [
        ours.Number(number, db()),
        pg.CoreNumber(row, db(), number),
        ours.NumberedDocument(document, db()),
        pg.CoreDocument(row_document, db(), document),
    ]
    goals = [Goal("numbers without gaps, 64 callers: against a counter row", number, row, 64, 10)]
    about = (
        "The next number without a gap; then the number and a document row that carries it, in "
        "one transaction. The peers are SQLAlchemy Core on asyncio, psycopg."
    )
    title = "PostgreSQL, numbers without gaps"
    return await _compare("numbers", title, about, contenders, goals, plan)


async def sqlite_lane(folder: Path, plan: Plan) -> Comparison:
    """The write lane against one commit for each request."""

    def file(name: str) -> Path:
        path = folder / f"{name}.db"
        fill(f"sqlite:///{path}")
        return path

    def url(name: str) -> str:
        return f"sqlite:///{file(name)}"

    normal = Settings(synchronous="NORMAL")
    lane, lane_normal = "crowdsafe: Core closure, FULL", "crowdsafe: Core closure, NORMAL"
    built = "crowdsafe: Core closure that builds its statement, FULL"
    take, orm = "crowdsafe: take, FULL", "crowdsafe: ORM closure, FULL"
    core, bare = "Core in one thread, FULL", "bare sqlite3 in one thread, FULL"
    bare_normal = "bare sqlite3 in one thread, NORMAL"
    contenders: list[Contender] = [
        ours.Closure(lane, url("lane"), ours.core_at_module),
        ours.Closure(lane_normal, url("normal"), ours.core_at_module, normal, peer_of=lane),
        ours.Closure(built, url("built"), ours.core_in_closure),
        ours.Closure("crowdsafe: session.execute(update(...)), FULL", url("bulk"), ours.orm_update),
        ours.Take(take, url("take")),
        ours.Take("crowdsafe: take, NORMAL", url("take-normal"), normal, peer_of=take),
        ours.Closure(orm, url("orm"), ours.orm_closure),
        lite.Core(core, file("core"), lane, lite.core_update),
        lite.CoreAiosqlite("Core on aiosqlite, FULL", file("aiosqlite"), lane),
        lite.Bare(bare, file("bare"), lane, "FULL"),
        lite.Bare(bare_normal, file("bare-normal"), lane, "NORMAL"),
        lite.Core("Core + ledger INSERT in one thread, FULL", file("ledger"), take,
                  lite.core_update_with_ledger),
        lite.Orm("ORM in one thread, FULL", file("hand-orm"), orm, lite.core_update),
    ]  # fmt: skip
    goals = [
        Goal("SQLite FULL, 64 callers: the lane against one commit each", lane, core, 64, 5),
        Goal("SQLite, 64 callers: FULL against its own NORMAL", lane, lane_normal, 64, 0.8),
        Goal("SQLite, 64 callers: Core closures against bare sqlite3 in one thread, NORMAL "
             "(7,000 where that does 23,000)", lane, bare_normal, 64, 7 / 23),
        Goal("SQLite, 64 callers: the same for closures that build their statement",
             built, bare_normal, 64, 7 / 23),
    ]  # fmt: skip
    about = (
        "One UPDATE of one row. “In one thread” is an executor of one thread that commits each "
        "request; “Core” is SQLAlchemy Core. FULL and NORMAL are SQLite's `synchronous`, in WAL."
    )
    return await _compare("sqlite-lane", "SQLite, the write lane", about, contenders, goals, plan)


async def _compare(
    name: str, title: str, about: str, contenders: Sequence[Contender], goals: Sequence[Goal],
    plan: Plan,
) -> Comparison:  # fmt: skip
    results, lost = await run(contenders, plan)
    verdicts = [verdict for goal in goals if (verdict := goal.judge(results))]
    return Comparison(
        name, title, about, rows_of(contenders, results, plan), verdicts,
        ["errors"], {each: count for each, count in lost.items() if count},
    )  # fmt: skip


def rows_of(contenders: Sequence[Contender], results: Results, plan: Plan) -> list[Row]:
    """The table's lines: by callers, then in the order of the contenders."""
    rows = []
    for callers in plan.callers:
        for each in contenders:
            cell = results[each.name, callers]
            ours_is = ratio(results, each.peer_of, each.name, callers) if each.peer_of else None
            rows.append(
                Row(str(callers), each.name, cell.rate, (min(cell.rates), max(cell.rates)),
                    cell.quantile_ms(0.5), cell.quantile_ms(0.99), ours_is)
            )  # fmt: skip
            rows[-1].more = [counted(cell.errors)]
    return rows
