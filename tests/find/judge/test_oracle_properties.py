"""Over random histories: what is serial is never called a race, and what was tampered with is."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from crowdsafe.find.judge import Oracle
from crowdsafe.find.model import Rows, Run
from tests.find.judge.shop import BASE, Order, Transfer, play, shop_schema

ORDERS = st.builds(
    Order,
    account=st.integers(1, 2),
    quantities=st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple),
)
TRANSFERS = st.builds(Transfer, source=st.just(1), target=st.just(2), amount=st.integers(1, 120))
OPERATIONS = st.lists(ORDERS | TRANSFERS, min_size=2, max_size=3)
PHASES = [Phase.explicit, Phase.generate]
SETTINGS = settings(max_examples=20, deadline=None, derandomize=True, phases=PHASES)


def taught(
    operations: Sequence[Order | Transfer], chance: random.Random, *, moved: bool, declared: bool
) -> Oracle:
    oracle = Oracle(shop_schema(declared=declared), base=BASE)
    first = tuple(range(len(operations)))
    oracle.learn([play(operations, first, chance, moved=moved) for _ in range(2)])
    for order in permutations(first):
        run = play(operations, order, chance, moved=moved)
        oracle.add_serial(order, (None,) * len(operations), run)
    return oracle


@pytest.mark.parametrize("moved", [True, False], ids=["sequence", "rowid"])
@pytest.mark.parametrize("declared", [True, False], ids=["keys", "no-keys"])
@SETTINGS
@given(operations=OPERATIONS, seed=st.integers(0, 10_000), data=st.data())
def test_a_serial_run_is_never_a_race(
    operations: list[Order | Transfer],
    seed: int,
    data: st.DataObject,
    moved: bool,
    declared: bool,
) -> None:
    chance = random.Random(seed)
    oracle = taught(operations, chance, moved=moved, declared=declared)
    order = data.draw(st.permutations(range(len(operations))))
    run = play(operations, order, chance, moved=moved, shuffle_ids=True)
    judgement = oracle.judge(run)
    assert judgement.kind == "serial", judgement.differences
    assert oracle.unstable is None


@pytest.mark.parametrize("moved", [True, False], ids=["sequence", "rowid"])
@SETTINGS
@given(operations=OPERATIONS, seed=st.integers(0, 10_000))
def test_a_run_that_was_tampered_with_is_a_race(
    operations: list[Order | Transfer], seed: int, moved: bool
) -> None:
    chance = random.Random(seed)
    oracle = taught(operations, chance, moved=moved, declared=True)
    run = play(operations, range(len(operations)), chance, moved=moved)
    tampered = tamper(run, chance)
    if tampered is None:
        return
    for order, limits in oracle.wants(tampered):
        left_out = [number for number, limit in enumerate(limits) if limit == 0]
        serial = play(operations, order, chance, moved=moved, left_out=left_out)
        oracle.add_serial(order, limits, serial)
    judgement = oracle.judge(tampered)
    assert judgement.kind == "race"
    assert judgement.rows_differ
    assert 1 <= len(judgement.differences) <= 8


@SETTINGS
@given(seed=st.integers(0, 10_000), same=st.booleans())
def test_an_answer_that_was_tampered_with_is_a_race(seed: int, same: bool) -> None:
    chance = random.Random(seed)
    operations = [Order(1, (7, 8)), Order(1, (7, 8)) if same else Order(2, (5,))]
    oracle = taught(operations, chance, moved=True, declared=True)
    run = play(operations, [0, 1], chance, shuffle_ids=True)
    bodies = [answer.replies[0].body for answer in run.answers]
    kind = chance.choice(["number", "balance", "id", "line", "status", "location"])
    if kind in {"number", "balance"}:
        bodies[0][kind] += 1_000_003
    elif kind == "id":
        bodies[1]["id"] = bodies[0]["id"]
    elif kind == "line":
        bodies[0]["lines"][0]["id"] = bodies[1]["lines"][0]["id"]
    elif kind == "location":
        run.answers[0].replies[0].headers = run.answers[1].replies[0].headers
    else:
        run.answers[0].replies[0].status = 200
    judgement = oracle.judge(run)
    assert (judgement.kind, judgement.rows_differ) == ("race", False)
    assert judgement.answers_differ


@SETTINGS
@given(seed=st.integers(0, 10_000), moved=st.booleans())
def test_rows_that_belong_to_others_are_a_race(seed: int, moved: bool) -> None:
    """Ids may be any, but not what refers to what: here two orders have changed their lines."""
    chance = random.Random(seed)
    operations = [Order(1, (7, 8)), Order(2, (5,))]
    oracle = taught(operations, chance, moved=moved, declared=True)
    run = play(operations, [0, 1], chance, moved=moved, shuffle_ids=True)
    assert run.state is not None
    lines = run.state["lines"].rows
    orders = {line[1] for line in lines}
    swapped = dict(zip(sorted(orders), sorted(orders, reverse=True), strict=True))
    lines[:] = [(line[0], swapped[line[1]], line[2]) for line in lines]
    assert oracle.judge(run).kind == "race"


PLACES = {
    "accounts": ["owner", "balance"],
    "orders": ["number", "account_id"],
    "lines": ["qty"],
    "logs": ["words"],
}


def tamper(run: Run, chance: random.Random) -> Run | None:
    """Change a value that means something, drop a row that the run made, or make it twice."""
    assert run.state is not None
    tampered = copy.deepcopy(run)
    assert tampered.state is not None
    name = chance.choice(sorted(name for name in run.state if run.state[name].rows))
    rows = tampered.state[name]
    kind = chance.choice(["value", "value", "drop", "twice"])
    fresh = [n for n, row in enumerate(rows.rows) if row not in BASE[name].rows]
    if kind != "value" and not fresh:
        return None
    if kind == "value":
        place = chance.randrange(len(rows.rows))
        column = rows.columns.index(chance.choice(PLACES[name]))
        row = list(rows.rows[place])
        row[column] = row[column] + (1_000_003 if isinstance(row[column], int) else "!")
        rows.rows[place] = tuple(row)
    elif kind == "drop":
        del rows.rows[chance.choice(fresh)]
    else:
        row = list(rows.rows[chance.choice(fresh)])
        row[0] = 9_999
        rows.rows.append(tuple(row))
    tampered.state[name] = Rows(rows.columns, rows.key, rows.rows)
    return tampered
