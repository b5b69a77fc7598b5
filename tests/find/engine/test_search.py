"""The search finds every outcome that there is, in a fraction of the schedules."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from crowdsafe.find.database.schema import Column, Schema, Table
from crowdsafe.find.engine import races, search, touch
from crowdsafe.find.engine.knowledge import Knowledge
from crowdsafe.find.engine.search import Budget, Search
from crowdsafe.find.engine.touch import Mode
from tests.find.engine.simulation import Outcome, Simulation, every_outcome
from tests.find.engine.toy import Act, Program, random_programs

COMMIT = Act("commit")
RACY = Program((Act("read", "t0"), Act("put", "t0"), COMMIT))
GUARDED = [Program((Act("mul", "t0", by=n), Act("mul", "t1", by=n), COMMIT)) for n in (1, 2, 4)]
STALE = [
    Program((Act("mul", "t0", by=1), COMMIT)),
    Program((Act("mul", "t0", source="t0"), COMMIT)),
]
"""The second reads, beside the row that it changes, others as they were when it was tried."""
INTERLEAVINGS_MAX = 600
EVERYTHING = Budget(schedules=10**6, seconds=10**6)


def searched(
    simulation: Simulation, budget: Budget = EVERYTHING, knowledge: Knowledge | None = None
) -> tuple[Search, list[Outcome]]:
    outcomes: list[Outcome] = []
    found = Search(
        simulation,
        [object()] * len(simulation.programs),  # type: ignore[list-item]
        reset=lambda: None,
        after=lambda _run: outcomes.append(simulation.outcome),
        budget=budget,
        knowledge=knowledge,
    )
    for _ in found:
        pass
    return found, outcomes


def programs_of(seed: int, dialect: str, operations: int) -> Simulation:
    rng = random.Random(seed)
    acts_max = 5 if operations == 2 else 3
    return Simulation(random_programs(rng, dialect, operations, acts_max), dialect)


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
@pytest.mark.parametrize("operations", [2, 3])
def test_finds_what_all_interleavings_give(dialect: str, operations: int) -> None:
    interleavings = schedules = several = 0
    for seed in range(80 if operations == 2 else 14):
        simulation = programs_of(seed, dialect, operations)
        every = every_outcome(simulation, 1700)
        assert every is not None
        found, outcomes = searched(simulation)
        assert found.complete
        assert set(outcomes) == every[0], f"seed {seed}: {simulation.programs}"
        interleavings += every[1]
        schedules += found.schedules
        several += len(every[0]) > 2
    assert several > 1
    assert schedules < interleavings / 5


def without(*pairs: tuple[Mode, Mode]) -> Callable[[Any, Any], bool]:
    """A relation that wrongly lets these pairs commute."""

    def dependent(one: Any, other: Any) -> bool:
        for name, (modes, _) in one.items():
            for mode in Mode:
                for mode_there in Mode:
                    meet = mode & modes and name in other and mode_there & other[name][0]
                    wrong = (mode, mode_there) in pairs or (mode_there, mode) in pairs
                    alone = touch.dependent({name: (mode, None)}, {name: (mode_there, None)})
                    if meet and not wrong and alone:
                        return True
        return False

    return dependent


@pytest.mark.parametrize(
    ("dialect", "wrong"),
    [
        ("postgresql", without((Mode.READ, Mode.PUBLISH))),
        ("postgresql", without((Mode.LOCK, Mode.LOCK))),
        ("postgresql", without((Mode.LOCK, Mode.PUBLISH), (Mode.LOCK, Mode.RELEASE))),
        ("sqlite", without((Mode.READ, Mode.PUBLISH))),
        ("sqlite", without((Mode.LOCK, Mode.LOCK))),
    ],
    ids=["pg-reads", "pg-locks", "pg-commits", "lite-reads", "lite-locks"],
)
def test_misses_outcomes_when_dependent_steps_are_taken_for_independent(
    monkeypatch: pytest.MonkeyPatch, dialect: str, wrong: Callable[[Any, Any], bool]
) -> None:
    monkeypatch.setattr(races, "dependent", wrong)
    monkeypatch.setattr(search, "dependent", wrong)
    assert misses(dialect)


def misses(dialect: str) -> bool:
    """Whether the search does not find all that there is in some program."""
    programs = [programs_of(seed, dialect, 2) for seed in range(25)]
    for simulation in (Simulation(STALE, dialect), *programs):
        every = every_outcome(simulation, INTERLEAVINGS_MAX)
        if every is not None and set(searched(simulation)[1]) != every[0]:
            return True
    return False


def test_misses_outcomes_when_sleepers_never_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "dependent", lambda _one, _other: False)
    assert misses("postgresql")


def test_misses_nothing_as_it_is() -> None:
    assert not misses("postgresql")
    assert not misses("sqlite")


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_finds_a_lost_update_within_three_schedules(dialect: str) -> None:
    program = RACY
    if dialect == "sqlite":
        program = Program(RACY.acts[:2], autocommit=True)
    simulation = Simulation([program, program], dialect)
    serial = every_outcome(Simulation([program], dialect), 1)
    assert serial is not None
    _, outcomes = searched(simulation, Budget(schedules=3))
    rows = [dict(outcome[0])["t0", 0] for outcome in outcomes]
    once = dict(next(iter(serial[0]))[0])["t0", 0]
    assert once in rows, "the second write did not see the first"


def test_needs_few_schedules_for_three_guarded_updates() -> None:
    found, outcomes = searched(Simulation(GUARDED, "postgresql"))
    assert found.complete
    assert found.redundant == 0
    assert found.schedules <= 30
    assert len(set(outcomes)) >= 6


def test_one_schedule_is_enough_for_what_shares_nothing() -> None:
    programs = [
        Program((Act("mul", f"t{n}", by=1), Act("read", f"t{n}"), COMMIT)) for n in range(3)
    ]
    found, _ = searched(Simulation(programs, "postgresql"))
    assert (found.complete, found.schedules) == (True, 1)


def schema_of(*, unique: tuple[tuple[str, ...], ...] = ()) -> Schema:
    columns = (Column("id", "integer", generated=True), Column("k"), Column("v"))
    tables = {f"t{n}": Table(f"t{n}", columns, ("id",), unique) for n in range(3)}
    return Schema(tables)


def test_rows_that_are_only_added_need_no_order_unless_somebody_looks() -> None:
    logs = [Program((Act("insert", "t0", 10 + n, 1), COMMIT)) for n in range(3)]
    knowledge = Knowledge("postgresql", schema_of())
    found, _ = searched(Simulation(logs, "postgresql"), knowledge=knowledge)
    assert (found.complete, found.schedules) == (True, 1)
    reader = Program((Act("read", "t0", 10), Act("insert", "t0", 20), COMMIT))
    found, outcomes = searched(
        Simulation([logs[0], reader], "postgresql"),
        knowledge=Knowledge("postgresql", schema_of()),
    )
    assert found.complete
    assert len(set(outcomes)) == 2


def test_learns_that_rows_which_were_only_added_collide() -> None:
    same = [Program((Act("insert", "t0", 10, n), COMMIT)) for n in range(2)]
    every = every_outcome(Simulation(same, "postgresql"), 100)
    assert every is not None
    found, outcomes = searched(
        Simulation(same, "postgresql"), knowledge=Knowledge("postgresql", schema_of())
    )
    assert found.complete
    assert set(outcomes) == every[0]


def test_learns_of_a_wait_that_the_statements_do_not_tell() -> None:
    programs = GUARDED[:2]
    every = every_outcome(Simulation(programs, "postgresql"), 1000)
    assert every is not None

    class Blind(Knowledge):
        """Takes every write for one of an own table."""

        def touch_of(self, statement: Any, sql: str, parameters: Any) -> Any:
            whole = super().touch_of(statement, sql, parameters)
            return None if whole is None else {}

    found, outcomes = searched(Simulation(programs, "postgresql"), knowledge=Blind("postgresql"))
    assert found.complete
    assert set(outcomes) <= every[0]


@pytest.mark.parametrize(
    ("budget", "why"),
    [(Budget(schedules=2), "2 schedules"), (Budget(seconds=0.0), "0 s")],
    ids=["schedules", "seconds"],
)
def test_says_what_stopped_it(budget: Budget, why: str) -> None:
    found, outcomes = searched(Simulation([RACY] * 3, "postgresql"), budget)
    assert not found.complete
    assert why in (found.why_not or "")
    assert len(outcomes) == found.schedules <= 2
