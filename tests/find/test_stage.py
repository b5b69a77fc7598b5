"""Between two runs all is put back; after one, what it left is read."""

from __future__ import annotations

from crowdsafe.find.model import State
from crowdsafe.find.session import Session
from tests.find.shelf import Shelf


def left(state: State | None) -> object:
    assert state is not None
    return state["stock"].rows[0][1]


def test_each_run_begins_with_what_was_kept(shelf: Shelf) -> None:
    with shelf.session("sell") as session:
        runs = [session.serial(session.operations, (0,)) for _ in range(3)]
        assert [left(run.state) for run in runs] == [9, 9, 9]
        assert left(session.base) == 10
        session.reset()
        assert left(session.database.read()) == 10
        assert session.runs == 3
    assert shelf.rows() == [(1, 10, "")]


def test_what_was_not_written_is_part_of_the_outcome_too(shelf: Shelf) -> None:
    with shelf.session("add_other") as session:
        run = session.serial(session.operations, (0,))
        assert run.state is not None
        assert run.state["stock"] == session.base["stock"]
        assert len(run.state["other"].rows) == 1
        assert session.base["other"].rows == []


def test_ids_differ_in_a_perturbed_run_and_are_put_back(shelf: Shelf) -> None:
    def added(session: Session, *, perturbed: bool = False) -> object:
        run = session.serial(session.operations, (0,), perturbed=perturbed)
        assert run.state is not None
        return run.state["other"].rows[0][0]

    with shelf.session("add_other") as session:
        first, moved, again = added(session), added(session, perturbed=True), added(session)
    assert (first, again) == (1, 1)
    assert moved != 1


def test_a_new_table_is_gone_in_the_next_run(shelf: Shelf) -> None:
    with shelf.session("create", "sell") as session:
        created = session.serial(session.operations[:1], (0,))
        sold = session.serial(session.operations[1:], (0,))
    assert created.state is not None and "made" in created.state
    assert sold.state is not None and "made" not in sold.state


def test_rows_are_kept_on_request(shelf: Shelf) -> None:
    with shelf.session("sell") as session:
        plain = session.replay(session.operations, ((0, 2),))
        kept = session.replay(session.operations, ((0, 2),), keep_rows=True)
    assert [run.steps[0].rows for run in (plain, kept)] == [None, [(10,)]]


def test_a_problem_leaves_no_state(shelf: Shelf) -> None:
    with shelf.session("sell") as session:
        run = session.replay(session.operations * 2, ((0, 9), (1, 1), (0, 1)))
        assert run.problem is not None
        assert run.state is None
        assert left(session.serial(session.operations, (0,)).state) == 9
