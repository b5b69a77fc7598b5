"""Turn by turn over users: beside a first-come queue, which fails each of these tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from tests.traffic.queue_help import Line, queue_of

from crowdsafe.store import Store
from crowdsafe.traffic.queue import Job, JobQueue, Priority, cancel, enqueue
from crowdsafe.traffic.queue.tables import jobs

SMALL = [f"small{n}" for n in range(50)]
MANY = 1000


@pytest.fixture
def line(queue_url: str) -> Iterator[Line]:
    with Store(queue_url) as store:
        yield Line(store, queue_of())


def first_come(session: Session, queue: JobQueue, now: datetime) -> str | None:
    """The naive claim: the oldest job first."""
    row = session.execute(
        select(jobs.c.id, jobs.c.user_key)
        .where(jobs.c.queue == queue.name, jobs.c.state == "queued")
        .order_by(jobs.c.id)
        .limit(1)
    ).first()
    return _served(session, row, now)


def strict(session: Session, queue: JobQueue, now: datetime) -> str | None:
    """Another naive claim: the highest priority first."""
    row = session.execute(
        select(jobs.c.id, jobs.c.user_key)
        .where(jobs.c.queue == queue.name, jobs.c.state == "queued")
        .order_by(jobs.c.priority, jobs.c.id)
        .limit(1)
    ).first()
    return _served(session, row, now)


def _served(session: Session, row: Any, now: datetime) -> str | None:
    if row is None:
        return None
    session.execute(update(jobs).where(jobs.c.id == row.id).values(state="done", finished_at=now))
    return str(row.user_key)


def jain(shares: list[float]) -> float:
    """Jain's fairness index: 1 for equal shares, 1/n where one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def flood(line: Line) -> None:
    """One user's thousand jobs, then one each of fifty users."""

    def enqueue_all(session: Session) -> None:
        for user in ["big"] * MANY + SMALL:
            enqueue(session, line.queue, "noop", user=user, payload={}, now=line.now)

    line.store.write(enqueue_all, isolation="read committed", deadline_s=60)


def started(line: Line, serve: Callable[[], str | None], count: int) -> list[str]:
    """The users of the first jobs to start, one slot in all."""
    return [user for _ in range(count) if (user := serve())]


def p95(waits: list[int]) -> int:
    return sorted(waits)[int(len(waits) * 0.95)]


def test_a_user_with_a_thousand_jobs_does_not_hold_up_fifty_with_one(line: Line) -> None:
    flood(line)
    ours = started(line, lambda: _first(line.serve()), 60)
    waits = [ours.index(user) for user in SMALL]
    shares = Counter(ours[: len(SMALL) + 1])
    fair = jain([float(shares[user]) for user in ("big", *SMALL)])

    naive_waits = [MANY + n for n in range(len(SMALL))]
    assert max(waits) <= len(SMALL) + 1
    assert fair >= 0.95
    assert p95(waits) * 10 <= p95(naive_waits)


def test_a_first_come_queue_holds_them_up(line: Line) -> None:
    flood(line)
    theirs = started(
        line, lambda: line.store.write(first_come, line.queue, line.now), len(SMALL) + 1
    )
    shares = Counter(theirs)
    assert jain([float(shares[user]) for user in ("big", *SMALL)]) < 0.1
    assert not set(theirs) & set(SMALL)


def _first(served: list[Job]) -> str | None:
    return served[0].user if served else None


def test_a_newcomer_waits_one_turn_at_most(line: Line) -> None:
    for _ in range(30):
        line.add("a")
    for _ in range(12):
        line.serve()
    line.add("b")
    assert "b" in [job.user for job in line.serve(1) + line.serve(1)]


def test_users_with_many_jobs_alternate(line: Line) -> None:
    for user in ("a", "b", "c"):
        for _ in range(10):
            line.add(user)
    served = [_first(line.serve()) for _ in range(15)]
    assert Counter(served) == {"a": 5, "b": 5, "c": 5}
    assert all(len(set(served[n : n + 3])) == 3 for n in range(0, 15, 3))


def test_who_was_away_saves_up_no_turns(line: Line) -> None:
    line.add("idle")
    line.serve()
    for _ in range(60):
        line.add("busy")
    for _ in range(30):
        line.serve()
    for _ in range(20):
        line.add("idle")
    served = Counter(_first(line.serve()) for _ in range(20))
    assert served["busy"] >= 9


def test_a_high_priority_gains_eight_rounds_and_no_more(line: Line) -> None:
    for _ in range(100):
        line.add("a", priority=Priority.HIGH)
    line.add("b")
    served = [_first(line.serve()) for _ in range(12)]
    assert served[0] == "a"
    assert "b" in served


def test_priorities_go_first_within_a_user(line: Line) -> None:
    low = line.add("a", priority=Priority.LOW)
    normal = line.add("a")
    high = line.add("a", priority=Priority.HIGH)
    assert [line.serve()[0].id for _ in range(3)] == [high, normal, low]


def test_nothing_starves_though_others_never_end(line: Line) -> None:
    line.add("patient", priority=Priority.LOW)
    for turn in range(200):
        line.add(f"new{turn}a", priority=Priority.HIGH)
        line.add(f"new{turn}b", priority=Priority.HIGH)
        if _first(line.serve()) == "patient":
            break
        line.serve()
    else:
        pytest.fail("the job of low priority was never started")


def test_it_starves_where_priority_is_strict(line: Line) -> None:
    line.add("patient", priority=Priority.LOW)
    for turn in range(100):
        line.add(f"new{turn}", priority=Priority.HIGH)
        assert line.store.write(strict, line.queue, line.now) != "patient"


def test_a_delayed_flood_is_charged_its_turns_when_it_is_due(line: Line) -> None:
    for _ in range(30):
        line.add("later", delay_s=60)
    for _ in range(20):
        line.add("now")
    for _ in range(10):
        line.serve()
    line.later(60)
    served = Counter(_first(line.serve()) for _ in range(10))
    assert 4 <= served["later"] <= 6


def test_cancelled_jobs_cost_no_turns(line: Line) -> None:
    for _ in range(50):
        line.add("b")
    mine = [line.add("a") for _ in range(50)]
    for job_id in mine:
        line.store.write(cancel, line.queue, job_id, now=line.now)
    line.add("a")
    assert "a" in [_first(line.serve()) for _ in range(2)]
