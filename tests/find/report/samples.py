"""Findings made by hand, as the engine and the judge would give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from crowdsafe.find.model import (
    Anomaly,
    Answer,
    Finding,
    Reply,
    Rows,
    Run,
    Schedule,
    Severity,
    Source,
    State,
    Step,
    Verdict,
)
from crowdsafe.find.report import Report

Row = tuple[Any, ...]


def step(
    operation: int,
    sql: str,
    parameters: Any = None,
    at: str | None = None,
    code: str = "",
    *,
    columns: Sequence[str] | None = None,
    rows: Sequence[Row] | None = None,
    driver: str = "sqlite3",
    **more: Any,
) -> Step:
    """One statement; ``at`` is "file:line" of the target."""
    source = None
    if at:
        file, _, line = at.rpartition(":")
        source = Source(file, int(line), "allocate", code)
    return Step(
        operation,
        0,
        sql,
        parameters,
        driver=driver,
        source=source,
        columns=tuple(columns) if columns else None,
        rows=[tuple(row) for row in rows] if rows is not None else None,
        **more,
    )


def schedule_of(steps: Iterable[Step]) -> Schedule:
    pairs: list[tuple[int, int]] = []
    for each in steps:
        if pairs and pairs[-1][0] == each.operation:
            pairs[-1] = (each.operation, pairs[-1][1] + 1)
        else:
            pairs.append((each.operation, 1))
    return tuple(pairs)


def run(
    steps: list[Step], state: State | None = None, *answers: Reply | Answer, **more: Any
) -> Run:
    """A run with its steps numbered within their operations."""
    seen: dict[int, int] = {}
    for each in steps:
        each.index = seen.get(each.operation, 0)
        seen[each.operation] = each.index + 1
    told = [each if isinstance(each, Answer) else Answer([each]) for each in answers]
    return Run(schedule_of(steps), steps, told, state, **more)


def table(columns: str, *rows: Row, key: str = "id") -> Rows:
    return Rows(tuple(columns.split()), (key,), list(rows))


def reply(request: str, status: int | None = 200, body: Any = None, **more: Any) -> Reply:
    return Reply(request, status, body, **more)


# --- racy stock ---------------------------------------------------------------------------

ALLOCATE = 'POST /stock/allocate {"product_id": 1, "quantity": 80}'
READ_STOCK = "SELECT stock.id, stock.on_hand FROM stock WHERE stock.id = ?"
SET_STOCK = "UPDATE stock SET on_hand = ? WHERE stock.id = ?"
_SHOP = "shop/stock.py"


def stock_steps(driver: str = "sqlite3") -> list[Step]:
    """Both read 100, A writes 20 and commits, B writes 20 over it."""

    def read(operation: int) -> Step:
        return step(
            operation,
            READ_STOCK,
            (1,),
            f"{_SHOP}:41",
            "stock = session.get(Stock, product_id)",
            columns=("id", "on_hand"),
            rows=[(1, 100)],
            driver=driver,
        )

    def write(operation: int) -> Step:
        return step(
            operation,
            SET_STOCK,
            (20, 1),
            f"{_SHOP}:44",
            "session.commit()",
            rowcount=1,
            driver=driver,
        )

    def commit(operation: int) -> Step:
        return step(operation, "COMMIT", None, f"{_SHOP}:44", "session.commit()", driver=driver)

    return [read(0), read(1), write(0), commit(0), write(1), commit(1)]


def stock_state(on_hand: int) -> State:
    return {"stock": table("id on_hand", (1, on_hand))}


def stock_serial(names: tuple[str, ...] = (ALLOCATE, ALLOCATE)) -> dict[tuple[int, ...], Run]:
    def refused(request: str) -> Reply:
        return reply(request, 400, {"detail": "not enough in stock"})

    yes = reply(names[0], 200, {"allocated": 80})
    return {
        (0, 1): run([], stock_state(20), yes, refused(names[1])),
        (1, 0): run([], stock_state(20), refused(names[0]), yes),
    }


def racy_stock() -> Finding:
    yes = reply(ALLOCATE, 200, {"allocated": 80})
    found = run(stock_steps(), stock_state(20), yes, reply(ALLOCATE, 200, {"allocated": 80}))
    return Finding(
        (ALLOCATE, ALLOCATE),
        Verdict.RACE,
        Anomaly.LOST_UPDATE,
        Severity.HIGH,
        ("stock",),
        (f"{_SHOP}:41", f"{_SHOP}:44"),
        "B wrote stock.on_hand over A's, from a value that it had read before A's write.",
        differences=("answer of B: 400 after A in any order, here 200",),
        schedule=found.schedule,
        token="cs1-eJyrVkrLz1eyUqhW",
        run=found,
        serial=stock_serial(),
        cures=(
            (
                "Check and change in one statement",
                "UPDATE stock SET on_hand = on_hand - :n WHERE id = :id AND on_hand >= :n",
                "store.write(take, Stock.on_hand, quantity, where=Stock.id == id)",
            ),
        ),
        schedules=12,
        schedules_to_find=3,
        seconds=0.21,
    )


# --- the other names ----------------------------------------------------------------------

APPROVE = "POST /leave/7/approve"


def double_transition() -> Finding:
    read = 'SELECT "leave"."id", "leave"."state" FROM "leave" WHERE "leave"."id" = %s'
    move = 'UPDATE "leave" SET "state" = %s WHERE "leave"."id" = %s'
    pay = 'INSERT INTO "ledger" ("leave_id", "days") VALUES (%s, %s) RETURNING "ledger"."id"'
    pg = {"driver": "psycopg"}

    def approve(who: int) -> list[Step]:
        seen = [(7, "requested")]
        return [
            step(
                who,
                read,
                (7,),
                "leave/views.py:18",
                "leave = Leave.objects.get(pk=pk)",
                columns=("id", "state"),
                rows=seen,
                **pg,
            ),
            step(who, move, ("approved", 7), "leave/views.py:22", "leave.save()", rowcount=1, **pg),
            step(who, pay, (7, -3), "leave/views.py:23", "Ledger.objects.create(", **pg),
            step(who, "COMMIT", None, "leave/views.py:16", "with transaction.atomic():", **pg),
        ]

    a, b = approve(0), approve(1)
    for late in b[1:2]:
        late.waited_for = (0,)
    leave = table("id state", (7, "approved"))
    both = {"leave": leave, "ledger": table("id leave_id days", (1, 7, -3), (2, 7, -3))}
    one = {"leave": leave, "ledger": table("id leave_id days", (1, 7, -3))}
    yes, no = reply(APPROVE, 200, {"state": "approved"}), reply(APPROVE, 409, {"detail": "moved"})
    found = run([a[0], b[0], *a[1:], *b[1:]], both, yes, reply(APPROVE, 200, {"state": "approved"}))
    return Finding(
        (APPROVE, APPROVE),
        Verdict.RACE,
        Anomaly.DOUBLE_TRANSITION,
        Severity.HIGH,
        ("leave", "ledger"),
        ("leave/views.py:18", "leave/views.py:22"),
        "A and B both moved leave.state from 'requested', and both were told so.",
        differences=("ledger: 1 row after any order, here 2",),
        schedule=found.schedule,
        token="cs1-abc",
        run=found,
        serial={(0, 1): run([], one, yes, no), (1, 0): run([], one, no, yes)},
        schedules=9,
        schedules_to_find=2,
        seconds=0.4,
    )


SIGN_UP = 'POST /users {"email": "mara@example.test"}'


def duplicate_create() -> Finding:
    look = "SELECT id FROM users WHERE email = $1"
    add = "INSERT INTO users (email, name) VALUES ($1, $2) RETURNING id"
    pg = {"driver": "asyncpg"}

    def sign_up(who: int, new: int) -> list[Step]:
        return [
            step(
                who,
                look,
                ("mara@example.test",),
                "accounts/api.py:12",
                "row = await conn.fetchrow(",
                columns=("id",),
                rows=[],
                rowcount=0,
                **pg,
            ),
            step(
                who,
                add,
                ("mara@example.test", "Mara"),
                "accounts/api.py:16",
                "new = await conn.fetchval(",
                columns=("id",),
                rows=[(new,)],
                rowcount=1,
                **pg,
            ),
        ]

    a, b = sign_up(0, 1), sign_up(1, 2)
    columns = "id email name"
    one = {"users": table(columns, (1, "mara@example.test", "Mara"))}
    two = {
        "users": table(columns, (1, "mara@example.test", "Mara"), (2, "mara@example.test", "Mara"))
    }
    yes, no = reply(SIGN_UP, 201, {"id": 1}), reply(SIGN_UP, 409, {"detail": "taken"})
    found = run([a[0], b[0], a[1], b[1]], two, yes, reply(SIGN_UP, 201, {"id": 2}))
    return Finding(
        (SIGN_UP, SIGN_UP),
        Verdict.RACE,
        Anomaly.DUPLICATE_CREATE,
        Severity.HIGH,
        ("users",),
        ("accounts/api.py:12", "accounts/api.py:16"),
        "A and B both looked for a row in users, found none, and inserted one each.",
        differences=("users: 1 row after any order, here 2",),
        schedule=found.schedule,
        token="cs1-dup",
        run=found,
        serial={(0, 1): run([], one, yes, no), (1, 0): run([], one, no, yes)},
        schedules=4,
        schedules_to_find=1,
        seconds=0.05,
    )


def write_skew() -> Finding:
    """Two doctors go off call; each sees the other on call."""
    look = "SELECT count(*) AS on_call FROM doctors WHERE on_call = true"
    off = "UPDATE doctors SET on_call = false WHERE name = %(name)s"
    pg = {"driver": "psycopg"}

    def go_home(who: int, name: str) -> list[Step]:
        return [
            step(
                who,
                look,
                None,
                "hospital/shifts.py:8",
                'n = conn.execute("SELECT count(*) ...").fetchone()',
                columns=("on_call",),
                rows=[(2,)],
                **pg,
            ),
            step(who, off, {"name": name}, "hospital/shifts.py:11", "conn.execute(", **pg),
            step(who, "COMMIT", None, "hospital/shifts.py:12", "conn.commit()", **pg),
        ]

    a, b = go_home(0, "alice"), go_home(1, "bob")

    def doctors(alice: bool, bob: bool) -> State:
        return {"doctors": table("name on_call", ("alice", alice), ("bob", bob), key="name")}

    names = ("alice goes home", "bob goes home")
    yes = [reply(name, None, True) for name in names]
    no = [reply(name, None, False) for name in names]
    found = run([a[0], b[0], a[1], b[1], a[2], b[2]], doctors(False, False), *yes)
    return Finding(
        names,
        Verdict.RACE,
        Anomaly.WRITE_SKEW,
        Severity.HIGH,
        ("doctors",),
        ("hospital/shifts.py:8", "hospital/shifts.py:11"),
        "A and B each read what the other then changed, and changed different rows.",
        differences=("doctors bob on_call: true after A then B, here false",),
        schedule=found.schedule,
        token="cs1-skew",
        run=found,
        serial={
            (0, 1): run([], doctors(False, True), yes[0], no[1]),
            (1, 0): run([], doctors(True, False), no[0], yes[1]),
        },
        schedules=8,
        schedules_to_find=2,
        seconds=0.1,
    )


def long_one(statements: int = 120) -> Finding:
    """The racy stock among many statements on other tables, with strange values in them."""
    middle = stock_steps()

    def others(who: int, count: int) -> list[Step]:
        return [
            step(
                who,
                f"SELECT id, body FROM pages_{number % 7} WHERE slug = ?",
                (f"<script>alert({number})</script>\x07",),
                f"site/middleware.py:{10 + number % 5}",
                "page = load(slug)",
                columns=("id", "body"),
                rows=[(number, "x" * 300)],
            )
            for number in range(count)
        ]

    half = (statements - 3) // 2
    steps = [*others(0, half), middle[0], *others(1, half), middle[1], *others(0, half)]
    steps += [middle[2], middle[3], *others(1, half), middle[4], middle[5]]
    finding = racy_stock()
    finding.run = run(steps, stock_state(20), *finding.run.answers)  # type: ignore[union-attr]
    finding.schedule = finding.run.schedule
    return finding


def three_at_once() -> Finding:
    finding = racy_stock()
    assert finding.run is not None
    names = (ALLOCATE,) * 3
    more = [step(2, each.sql, each.parameters, f"{_SHOP}:{41 + n}") for n, each in
            enumerate(stock_steps()[:1] + stock_steps()[2:4])]  # fmt: skip
    more[0].columns, more[0].rows = ("id", "on_hand"), [(1, 100)]
    steps = finding.run.steps
    found = run(
        [*steps[:2], more[0], *steps[2:], *more[1:]],
        stock_state(20),
        *(reply(ALLOCATE, 200, {"allocated": 80}) for _ in range(3)),
    )
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    yes, no = reply(ALLOCATE, 200, {"allocated": 80}), reply(ALLOCATE, 400, {"detail": "no"})
    finding.serial = {
        order: run([], stock_state(20), *(yes if order[0] == who else no for who in range(3)))
        for order in orders
    }
    finding.operations, finding.run, finding.schedule = names, found, found.schedule
    return finding


def aborts() -> Finding:
    steps = [
        step(0, READ_STOCK, (1,), f"{_SHOP}:41", columns=("id", "on_hand"), rows=[(1, 100)]),
        step(1, READ_STOCK, (1,), f"{_SHOP}:41", columns=("id", "on_hand"), rows=[(1, 100)]),
        step(0, SET_STOCK, (20, 1), f"{_SHOP}:44", rowcount=1),
        step(
            1,
            SET_STOCK,
            (20, 1),
            f"{_SHOP}:44",
            error="OperationalError: database is locked",
            sqlstate="SQLITE_BUSY",
        ),
        step(1, "ROLLBACK", None, f"{_SHOP}:44"),
        step(0, "COMMIT", None, f"{_SHOP}:44"),
    ]
    failed = reply(
        ALLOCATE,
        500,
        error="OperationalError",
        message="database is locked",
        sqlstate="SQLITE_BUSY",
    )
    found = run(steps, stock_state(20), reply(ALLOCATE, 200, {"allocated": 80}), failed)
    return Finding(
        (ALLOCATE, ALLOCATE),
        Verdict.RACE,
        Anomaly.ABORTS,
        Severity.LOW,
        ("stock",),
        (f"{_SHOP}:44",),
        "B failed because A held what it needed, and nobody tried it again.",
        differences=("answer of B: 500 OperationalError (SQLITE_BUSY)",),
        schedule=found.schedule,
        token="cs1-busy",
        run=found,
        serial=stock_serial(),
        schedules=6,
        schedules_to_find=2,
        seconds=0.09,
    )


def proven() -> Finding:
    return Finding(
        ("POST /stock/take", "POST /stock/take"), Verdict.PROVEN, schedules=6, seconds=0.07
    )


def not_found() -> Finding:
    return Finding(
        ("POST /checkout", "POST /stock/take"),
        Verdict.NOT_FOUND,
        reason="the budget of 60 s ended after 2000 schedules",
        schedules=2000,
        seconds=60.0,
    )


def inconclusive() -> Finding:
    return Finding(
        ("POST /checkout", "POST /checkout"),
        Verdict.INCONCLUSIVE,
        reason="the target ended its process (exit code 3) in schedule 4",
        schedules=4,
        seconds=2.5,
    )


def all_findings() -> list[Finding]:
    return [
        racy_stock(),
        double_transition(),
        duplicate_create(),
        write_skew(),
        long_one(),
        three_at_once(),
        aborts(),
        proven(),
        not_found(),
        inconclusive(),
    ]


def report(*findings: Finding) -> Report:
    return Report(
        "shop.main:app",
        "sqlite:///dev.db",
        list(findings) or all_findings(),
        63.4,
        "0.1.0",
        ["table notes has no primary key: its rows are compared as a set"],
    )
