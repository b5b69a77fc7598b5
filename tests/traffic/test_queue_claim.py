"""A claim takes each job once and keeps every limit, over two processes too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from tests.traffic.queue_help import Line, nothing, queue_of
from tests.writes.callers import Call, Pair, errors, from_sessions, from_threads, values

from crowdsafe.errors import InvalidInput, TooManyQueued
from crowdsafe.store import Store
from crowdsafe.traffic.queue import JobQueue, Kind, Priority, claim, complete, enqueue, give_back
from crowdsafe.traffic.queue.tables import jobs

TIGHT = queue_of(
    Kind("rare", nothing, running_max=2), per_user=2, running_max=7, queued_per_user_max=10
)


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def store(queue_url: str) -> Iterator[Store]:
    with Store(queue_url) as opened:
        yield opened


def line_of(store: Store, **limits: Any) -> Line:
    return Line(store, queue_of(Kind("rare", nothing, running_max=2), **limits))


def ids(session: Session, queue: JobQueue, limit: int) -> list[tuple[str, str, str]]:
    return [(one.job.id, one.job.user, one.job.kind) for one in claim(session, queue, limit)]


def naive_ids(session: Session, queue: JobQueue, limit: int) -> list[tuple[str, str, str]]:
    """Select, then update: the claim that two workers make of the same jobs."""
    rows = session.execute(
        select(jobs.c.public_id, jobs.c.user_key, jobs.c.kind)
        .where(jobs.c.queue == queue.name, jobs.c.state == "queued")
        .order_by(jobs.c.id)
        .limit(limit)
    ).all()
    time.sleep(0.01)
    names = [row.public_id for row in rows]
    session.execute(update(jobs).where(jobs.c.public_id.in_(names)).values(state="running"))
    return [(row.public_id, row.user_key, row.kind) for row in rows]


def fill(store: Store) -> None:
    line = Line(store, TIGHT)
    for n in range(24):
        line.add(f"u{n % 6}", "rare" if n % 6 < 3 else "noop", now=None)


def check_limits(got: list[list[tuple[str, str, str]]]) -> None:
    taken = [one for claimed in got for one in claimed]
    assert len(taken) == len({job_id for job_id, _, _ in taken}) == TIGHT.running_max
    assert max(Counter(user for _, user, _ in taken).values()) <= TIGHT.per_user
    assert Counter(kind for _, _, kind in taken)["rare"] <= 2


def test_two_processes_keep_every_limit(queue_url: str, store: Store, two_processes: Pair) -> None:
    fill(store)
    check_limits(values(two_processes(queue_url, None, [Call(ids, (TIGHT, 3))] * 12)))


def put(session: Session, user: str, key: str | None) -> tuple[str, bool]:
    made = enqueue(session, TIGHT, "noop", user=user, payload={}, key=key)
    return made.job.id, made.created


def test_two_processes_queue_a_key_once_and_no_more_than_a_user_may(
    queue_url: str, store: Store, two_processes: Pair
) -> None:
    todo = [Call(put, (f"u{n}", "same")) for n in range(12)]
    todo += [Call(put, ("ann", None)) for _ in range(14)]
    outcomes = two_processes(queue_url, None, todo)
    same = values(outcomes[:12])
    assert len(same) == 12
    assert len({job_id for job_id, _ in same}) == sum(created for _, created in same) == 1
    assert len(values(outcomes[12:])) == 10
    assert len(errors(outcomes, TooManyQueued)) == 4


@pytest.mark.parametrize("run", [from_threads, from_sessions])
def test_many_callers_keep_every_limit(queue_url: str, store: Store, run: Any) -> None:
    fill(store)
    level = "read committed" if store.dialect == "postgresql" else None
    check_limits(values(run(queue_url, level, [Call(ids, (TIGHT, 2))] * 12)))


def test_select_then_update_runs_jobs_twice(queue_url: str, store: Store) -> None:
    fill(store)
    got = values(from_sessions(queue_url, None, [Call(naive_ids, (TIGHT, 2))] * 6))
    taken = [job_id for claimed in got for job_id, _, _ in claimed]
    assert len(taken) > len(set(taken))


def test_a_claim_leases_what_it_gives(store: Store) -> None:
    line = line_of(store)
    job_id = line.add("ann")
    one = line.take()
    job = line.job(job_id)
    assert (job.state, job.attempts, job.started_at) == ("running", 1, line.now)
    assert one.job == job
    assert (one.lease_until - line.now).total_seconds() == 30
    assert line.claim(1) == []


def test_a_blocked_user_is_passed_over_however_many_wait(store: Store) -> None:
    line = line_of(store, per_user=1)
    for _ in range(120):
        line.add("big")
    assert line.users(5) == ["big"]
    line.add("small")
    assert line.users(5) == ["small"]


def test_a_full_kind_is_passed_over(store: Store) -> None:
    line = line_of(store)
    for n in range(30):
        line.add(f"u{n}", "rare")
    line.add("last", "noop")
    assert Counter(one.job.kind for one in line.claim(10)) == {"rare": 2, "noop": 1}


def test_the_end_of_a_job_makes_room(store: Store) -> None:
    line = line_of(store, per_user=1)
    line.add("ann")
    line.add("ann")
    first = line.take()
    assert line.claim(1) == []
    line.do(complete, first)
    line.take()


def test_a_delayed_job_starts_when_it_is_due(store: Store) -> None:
    line = line_of(store)
    line.add("ann", delay_s=10)
    line.later(9)
    assert line.claim(1) == []
    line.later(1)
    assert line.take().job.user == "ann"


def test_an_expired_job_never_starts(store: Store) -> None:
    line = line_of(store)
    late = line.add("ann", expires_s=5)
    line.add("bob", expires_s=50)
    line.later(5)
    assert line.users(5) == ["bob"]
    line.sweep()
    job = line.job(late)
    assert job.state == "failed"
    assert "expired" in (job.error or "")


def test_idle_jobs_start_only_when_no_other_can(store: Store) -> None:
    line = line_of(store, running_max=3)
    line.add("machine", priority=Priority.IDLE)
    line.add("ann", priority=Priority.LOW)
    assert line.users(1) == ["ann"]
    assert line.users(1) == ["machine"]


def test_idle_jobs_leave_a_slot_free_and_keep_their_own_limit(store: Store) -> None:
    line = line_of(store, running_max=4, idle_max=2)
    for n in range(6):
        line.add(f"machine{n}", priority=Priority.IDLE)
    assert len(line.claim(4)) == 2
    line.add("ann")
    assert line.users(4) == ["ann"]
    assert line.claim(4) == []
    line.add("bob")
    assert line.users(4) == ["bob"]


def test_idle_jobs_never_take_the_only_slot(store: Store) -> None:
    line = line_of(store, running_max=1)
    line.add("machine", priority=Priority.IDLE)
    assert line.claim(1) == []


def test_an_idle_job_that_blocked_users_wait_beside_may_start(store: Store) -> None:
    line = line_of(store, per_user=1, running_max=5)
    for _ in range(3):
        line.add("ann")
    line.add("machine", priority=Priority.IDLE)
    assert line.users(5) == ["ann", "machine"]


def test_a_worker_takes_only_the_kinds_it_knows(store: Store) -> None:
    line = line_of(store)
    line.add("ann", "rare")
    line.add("bob", "noop")
    assert [one.job.kind for one in line.claim(5, kinds=["noop"])] == ["noop"]
    older = Line(store, queue_of())
    older.now = line.now
    assert older.claim(5) == []


def test_what_is_given_back_keeps_its_turn_and_its_attempts(store: Store) -> None:
    line = line_of(store)
    first = line.add("ann")
    line.add("ann")
    one = line.take()
    store.write(give_back, line.queue, {one.job.id: one.token, "unknown": "x"})
    again = line.take()
    assert (again.job.id, again.job.attempts) == (first, 1)
    assert again.token != one.token


def test_a_claim_is_undone_with_its_transaction(store: Store) -> None:
    line = line_of(store)
    line.add("ann")

    def undone(session: Session) -> None:
        claim(session, line.queue, 1)
        raise KeyError("undone")

    with pytest.raises(KeyError):
        store.write(undone, isolation="read committed")
    assert line.take().job.attempts == 1


@pytest.mark.parametrize("limit", [0, -1, 257])
def test_a_limit_out_of_range_is_refused(store: Store, limit: int) -> None:
    with pytest.raises(InvalidInput):
        line_of(store).claim(limit)
