"""Positions and waits that are honest, and the operator's view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.traffic.queue_help import Line, nothing, queue_of

from crowdsafe.errors import NotFound
from crowdsafe.store import Store
from crowdsafe.traffic.queue import Kind, Place, Priority, complete, fail, place_of, queue_view


@pytest.fixture
def store(queue_url: str) -> Iterator[Store]:
    with Store(queue_url) as opened:
        yield opened


def place(line: Line, job_id: str) -> Place:
    return line.store.read(place_of, line.queue, job_id, now=line.now)


def simulate(line: Line, run_s: float) -> dict[str, tuple[int, float]]:
    """Work everything off on all slots; for each job how many went before it, and its wait."""
    start, order = line.now, 0
    running: list[Any] = []
    seen: dict[str, tuple[int, float]] = {}
    while True:
        for one in line.claim(100):
            seen[one.job.id] = (order, (line.now - start).total_seconds())
            order += 1
            running.append(one)
        if not running:
            return seen
        line.later(run_s)
        for one in running:
            line.do(complete, one)
        running.clear()


def test_the_position_is_how_many_start_before(store: Store) -> None:
    line = Line(store, queue_of())
    waiting = [line.add(user) for user in ("a", "a", "a", "b", "c", "c")]
    waiting.append(line.add("d", priority=Priority.HIGH))
    said = {job_id: place(line, job_id).position for job_id in waiting}
    order = {line.serve()[0].id: n for n in range(len(waiting))}
    assert said == order


def test_a_running_job_and_one_that_ended_are_at_zero(store: Store) -> None:
    line = Line(store, queue_of())
    job_id = line.add("a")
    one = line.take()
    assert place(line, job_id) == Place(0, 0.0)
    line.do(complete, one)
    assert place(line, job_id) == Place(0, 0.0)
    with pytest.raises(NotFound):
        place(line, "unknown")


def test_with_a_free_slot_there_is_no_wait(store: Store) -> None:
    line = Line(store, queue_of(running_max=2))
    line.add("a")
    assert place(line, line.add("b")) == Place(1, 0.0)


@pytest.mark.parametrize(
    "limits",
    [
        {"running_max": 3},
        {"running_max": 4, "per_user": 2},
        {"running_max": 8, "per_user": 1},
        {"running_max": 6, "per_user": 2, "kinds": 2},
    ],
    ids=str,
)
def test_the_estimate_is_near_what_then_happens(store: Store, limits: dict[str, Any]) -> None:
    kinds = [Kind("rare", nothing, running_max=limits.pop("kinds"))] if "kinds" in limits else []
    line = Line(store, queue_of(*kinds, **limits))
    for _ in range(5):
        line.add("before")
    simulate(line, 20)
    kind = "rare" if kinds else "noop"
    waiting = [line.add(user, kind) for user in ["a"] * 9 + ["b"] * 4 + ["c", "d", "e"]]
    said = {job_id: place(line, job_id).estimated_wait_s for job_id in waiting}
    real = {job_id: wait_s for job_id, (_, wait_s) in simulate(line, 20).items()}
    for job_id in waiting:
        assert abs(said[job_id] - real[job_id]) <= 20, (said, real)
    naive = dict.fromkeys(waiting, 0.0)
    assert any(abs(naive[job_id] - real[job_id]) > 20 for job_id in waiting)


def test_without_experience_the_expected_run_time_counts(store: Store) -> None:
    line = Line(store, queue_of(running_max=1, expected_run_s=7))
    line.add("a")
    assert place(line, line.add("b")).estimated_wait_s == 7
    line.take()
    assert place(line, line.add("c")).estimated_wait_s == 14


def test_a_delay_is_waited_for(store: Store) -> None:
    line = Line(store, queue_of())
    job_id = line.add("a", delay_s=90)
    line.later(30)
    assert place(line, job_id) == Place(0, 60.0)


def test_the_view_counts_by_user(store: Store) -> None:
    line = Line(store, queue_of(running_max=5))
    for user in ("a", "a", "a", "b"):
        line.add(user)
    done, failed = line.claim(2)
    line.later(4)
    line.do(complete, done)
    line.do(fail, failed, "boom", final=True)
    line.take()
    view = store.read(queue_view, line.queue, now=line.now)
    assert (view.queued, view.running, view.running_max, view.mean_run_s) == (1, 1, 5, 4.0)
    assert view.oldest_wait_s == 4
    by_user = {user.user: user for user in view.users}
    assert by_user["a"].done_last_hour == 1
    assert by_user["b"].failed_last_hour == 1
    assert by_user["a"].queued + by_user["a"].running == 2
    line.later(3601)
    later = store.read(queue_view, line.queue, now=line.now)
    assert [user.user for user in later.users] == ["a"]
    assert later.users[0].done_last_hour == 0
