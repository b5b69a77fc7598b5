"""``transition``: of any number of calls for one move, one wins."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from tests.writes.callers import Call, Outcome, calls, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Lamp, Order, Sheet, StageLog

from crowdsafe import AlreadyMoved, ForbiddenTransition, Store, transition
from crowdsafe.errors import ConfigError, NotFound, StaleVersion


def finish(session: Session, by: str) -> str:
    transition(session, Order, 1, "stage", from_="winding", to="finishing", by=by)
    return by


def naive_finish(session: Session, by: str) -> str:
    order = session.get_one(Order, 1)
    if order.stage != "winding":
        raise AlreadyMoved(current=order.stage, by=order.updated_by)
    time.sleep(0.1)
    order.stage, order.updated_by, order.version = "finishing", by, order.version + 1
    session.add(
        StageLog(
            order_id=1, from_state="winding", to_state="finishing", by=by, at=datetime.now(UTC)
        )
    )
    return by


def read_order(session: Session) -> tuple[Any, ...]:
    order = session.get_one(Order, 1)
    log = list(session.execute(select(StageLog.from_state, StageLog.to_state, StageLog.by)))
    return order.stage, order.version, order.updated_by, [tuple(row) for row in log]


def check_one_has_won(crowd: Crowd, outcomes: list[Outcome]) -> None:
    won = values(outcomes)
    lost = errors(outcomes, AlreadyMoved)
    assert len(won) == 1
    assert len(lost) == len(outcomes) - 1
    assert {(error.current, error.by) for error in lost} == {("finishing", won[0])}
    assert crowd.do(read_order) == (
        "finishing",
        2,
        won[0],
        [("winding", "finishing", won[0])],
    )


def test_of_many_at_once_one_wins_and_the_others_learn_who(crowd: Crowd) -> None:
    crowd.add(Order(id=1))
    outcomes = crowd.run(calls(finish, [(f"user{n}",) for n in range(12)]))
    check_one_has_won(crowd, outcomes)
    for error in errors(outcomes, AlreadyMoved):
        assert datetime.now(UTC) - error.at < timedelta(minutes=2)


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    naive.add(Order(id=1))
    outcomes = naive.run(calls(naive_finish, [(f"user{n}",) for n in range(8)]))
    with pytest.raises(AssertionError):
        check_one_has_won(naive, outcomes)


def flip(session: Session, from_: str, to: str) -> str:
    return transition(session, Lamp, 1, "state", from_=from_, to=to).to


def test_two_ways_out_of_one_state_are_not_both_taken(crowd: Crowd) -> None:
    crowd.add(Order(id=1))

    outcomes = crowd.run([Call(move_to, ("finishing",)), Call(move_to, ("scrapped",))] * 6)
    won = values(outcomes)
    assert len(won) == 1
    assert {error.current for error in errors(outcomes, AlreadyMoved)} == {won[0]}
    assert crowd.do(read_order)[0] == won[0]


def move_to(session: Session, to: str) -> str:
    return transition(session, Order, 1, "stage", from_="winding", to=to).to


def test_back_and_forth_loses_and_doubles_no_move(crowd: Crowd) -> None:
    crowd.add(Lamp(id=1, state="off"))
    outcomes = crowd.run([Call(flip, ("off", "on")), Call(flip, ("on", "off"))] * 8)
    errors(outcomes, (AlreadyMoved, StaleVersion))  # type: ignore[arg-type]
    on, off = (values(outcomes).count(state) for state in ("on", "off"))
    end = crowd.do(lambda session: session.get_one(Lamp, 1).state)
    assert on - off == (1 if end == "on" else 0)


def test_edges_are_declared_once(store: Store) -> None:
    store.write(lambda session: session.add(Order(id=1)))
    with pytest.raises(ForbiddenTransition) as caught:
        store.write(transition, Order, 1, "stage", from_="winding", to="packed")
    assert caught.value.data == {"current": "winding", "allowed": ["finishing", "scrapped"]}
    with pytest.raises(ForbiddenTransition) as end:
        store.write(transition, Order, 1, "stage", from_="scrapped", to="winding")
    assert end.value.allowed == []
    with pytest.raises(ConfigError):
        store.write(transition, Lamp, 1, "plain", from_="a", to="b")
    assert store.read(read_order) == ("winding", 1, None, [])


def test_what_the_move_leaves(store: Store) -> None:
    store.write(lambda session: session.add(Order(id=1)))
    store.write(lambda session: session.add(Lamp(id=1, state="off")))
    moved = store.write(
        transition,
        Order,
        1,
        "stage",
        from_="winding",
        to="finishing",
        by="mara",
        note="coil 3",
    )
    entry = store.read(lambda session: session.scalars(select(StageLog)).one())
    assert (moved.from_, moved.to, moved.version) == ("winding", "finishing", 2)
    assert (entry.id, entry.by, entry.note, entry.at) == (
        moved.log_id,
        "mara",
        "coil 3",
        moved.at,
    )
    lamp = store.write(transition, Lamp, 1, "state", from_="off", to="on")
    assert (lamp.version, lamp.log_id) == (None, None)


def test_who_is_not_there_or_has_gone_on(store: Store) -> None:
    with pytest.raises(NotFound):
        store.write(transition, Order, 404, "stage", from_="winding", to="finishing")
    store.write(lambda session: session.add(Order(id=1)))
    store.write(finish, "mara")
    store.write(transition, Order, 1, "stage", from_="finishing", to="packed", by="ivo")
    with pytest.raises(AlreadyMoved) as caught:
        store.write(finish, "late")
    assert (caught.value.current, caught.value.by) == ("packed", "ivo")


def test_a_loaded_row_shows_the_new_state_and_unflushed_changes_are_kept(store: Store) -> None:
    def work(session: Session) -> tuple[str, str, int]:
        order = session.get_one(Order, 1)
        order.title = "renamed"
        finish(session, "mara")
        return order.stage, order.title, order.version

    store.write(lambda session: session.add(Order(id=1)))
    assert store.write(work) == ("finishing", "renamed", 2)
    assert store.read(lambda session: session.get_one(Order, 1).title) == "renamed"


def test_moved_away_and_back_between_two_statements_is_a_reason_to_try_again(
    store: Store, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UPDATE finds the row moved; until the SELECT that asks why, it has been moved back."""
    module: Any = sys.modules["crowdsafe.writes.transition"]
    store.write(lambda session: session.add(Lamp(id=1, state="on")))
    real, seen = module._move, []

    def move_then_someone_moves_back(session: Session, *args: Any) -> Any:
        found = real(session, *args)
        if not seen:
            session.execute(update(Lamp).values(state="off"))
        seen.append(found)
        return found

    monkeypatch.setattr(module, "_move", move_then_someone_moves_back)
    with pytest.raises(StaleVersion):
        transition(session, Lamp, 1, "state", from_="off", to="on")


def test_a_model_that_sqlalchemy_versions_is_no_obstacle(store: Store) -> None:
    with pytest.raises(ConfigError):
        store.write(transition, Sheet, 1, "text", from_="a", to="b")
