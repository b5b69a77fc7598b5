"""Jobs go in with the transaction, once for a key, and no more of them than the limits say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session
from tests.traffic.queue_help import Effect, Line, leave, opened, queue_of, run
from tests.writes.callers import Call, errors, from_sessions, from_tasks, from_threads, values

from crowdsafe.errors import InvalidInput, NotFound, QueueFull, TooManyQueued
from crowdsafe.store import Store
from crowdsafe.store.database import parse_url
from crowdsafe.traffic.queue import Priority, complete, enqueue, get_job

QUEUE = queue_of()
SMALL = queue_of(queued_per_user_max=5)


@pytest.fixture
def url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
def line(url: str) -> Iterator[Line]:
    with Store(url) as store:
        yield Line(store, QUEUE)


def put(session: Session, user: str, key: str | None) -> tuple[str, bool]:
    made = enqueue(session, SMALL, "noop", user=user, payload={"n": 1}, key=key)
    return made.job.id, made.created


def put_together(session: Session, user: str, key: str | None) -> Any:
    return enqueue(session, SMALL, "noop", user=user, payload={}, key=key)


def put_naive(session: Session, key: str) -> bool:
    """Look, then insert: how a table of jobs without the unique index is used."""
    if session.scalar(select(func.count()).where(Effect.job == key)):
        return False
    time.sleep(0.01)
    leave(session, key, "queued")
    return True


def test_a_job_is_stored_as_it_was_asked_for(line: Line) -> None:
    made = line.enqueue(
        "ann", payload={"idea": "café ✓", "n": [1, 2.5, None]}, priority=Priority.LOW, key="k"
    )
    job = line.job(made.job.id)
    assert made.created
    assert job == made.job
    assert (job.user, job.state, job.attempts, job.priority) == ("ann", "queued", 0, Priority.LOW)
    assert job.payload == {"idea": "café ✓", "n": [1, 2.5, None]}
    assert job.progress == {}


def test_a_job_lives_and_dies_with_its_transaction(line: Line) -> None:
    def undone(session: Session) -> None:
        enqueue(session, QUEUE, "noop", user="ann", payload={}, id="gone")
        raise KeyError("undone")

    with pytest.raises(KeyError):
        line.store.write(undone)
    with pytest.raises(NotFound):
        line.job("gone")
    assert line.claim(1) == []


def test_a_key_is_queued_once_while_it_waits_or_runs(line: Line) -> None:
    first = line.enqueue("ann", key="k")
    again = line.enqueue("bob", key="k")
    assert (again.created, again.job.id) == (False, first.job.id)
    claimed = line.take()
    assert line.enqueue("ann", key="k").job.state == "running"
    line.do(complete, claimed)
    assert line.enqueue("ann", key="k").created


@pytest.mark.parametrize("kind", [from_threads, from_tasks, from_sessions])
def test_one_job_for_a_key_from_many_at_once(url: str, kind: Any) -> None:
    todo = [Call(put, (f"u{n}", "same")) for n in range(20)]
    got = values(kind(url, "read committed" if "postgres" in url else None, todo))
    assert len(got) == 20
    assert len({job_id for job_id, _ in got}) == 1
    assert sum(created for _, created in got) == 1


def test_one_job_for_a_key_at_serializable_too(url: str) -> None:
    got = values(from_threads(url, "serializable", [Call(put, (f"u{n}", "k")) for n in range(8)]))
    assert len({job_id for job_id, _ in got}) == 1
    assert sum(created for _, created in got) == 1


@pytest.mark.parametrize("kind", [from_threads, from_tasks, from_sessions])
def test_the_limit_of_a_user_is_exact(url: str, kind: Any) -> None:
    todo = [Call(put, ("ann", None)) for _ in range(15)] + [Call(put, ("bob", None))]
    outcomes = kind(url, "read committed" if "postgres" in url else None, todo)
    refused = errors(outcomes, TooManyQueued)
    assert len(refused) == 10
    assert refused[0].limit == 5
    assert refused[0].retry_after_s > 0


def test_calls_that_are_combined_are_as_if_one_after_the_other(url: str) -> None:
    async def main() -> None:
        async with opened(url) as store:
            asked = [("ann", f"k{n % 3}") for n in range(9)] + [("bob", None)] * 7
            made = await asyncio.gather(
                *(
                    store.write(enqueue, SMALL, "noop", user=user, payload={"n": n}, key=key)
                    for n, (user, key) in enumerate(asked)
                ),
                return_exceptions=True,
            )
            refused = [error for error in made if isinstance(error, BaseException)]
            jobs_made = [one for one in made if not isinstance(one, BaseException)]
            assert [type(error) for error in refused] == [TooManyQueued] * 2
            assert sum(one.created for one in jobs_made) == 3 + 5
            assert len({one.job.id for one in jobs_made}) == 3 + 5
            for one in jobs_made:
                stored = await store.read(get_job, SMALL, one.job.id)
                assert stored.payload == one.job.payload

    run(main())


def test_a_look_and_an_insert_make_two(url: str) -> None:
    todo = [Call(put_naive, ("same",)) for _ in range(8)]
    assert sum(values(from_sessions(url, None, todo))) > 1


def test_a_full_queue_says_so(url: str) -> None:
    with Store(url) as store:
        line = Line(store, queue_of(queued_max=3))
        for n in range(3):
            line.add(f"u{n}")
        with pytest.raises(QueueFull) as full:
            line.add("late")
        assert full.value.status == 503
        assert full.value.retry_after_s
        assert full.value.limit == 3
        line.take()
        line.add("late")


def test_waiting_for_its_time_counts_as_waiting(url: str) -> None:
    with Store(url) as store:
        line = Line(store, SMALL)
        for _ in range(5):
            line.add("ann", delay_s=60)
        with pytest.raises(TooManyQueued):
            line.add("ann")
        assert {job.state for job in line.jobs(user="ann", state="queued")} == {"queued"}


def test_an_id_is_taken_once(line: Line) -> None:
    line.add("ann", id="mine")
    with pytest.raises(InvalidInput, match="mine"):
        line.add("bob", id="mine")


@pytest.mark.parametrize(
    "asked",
    [
        {"user": ""},
        {"user": "x" * 201},
        {"user": "a\0b"},
        {"kind": "unknown"},
        {"payload": {"n": float("nan")}},
        {"payload": {"text": "x" * 300_000}},
        {"payload": {"text": "\0"}},
        {"payload": {"text": "\ud800"}},
        {"payload": [1]},
        {"payload": {"n": {1, 2}}},
        {"key": ""},
        {"key": "x" * 256},
        {"delay_s": -1},
        {"expires_s": 0},
        {"id": "no/slash"},
        {"id": ""},
    ],
    ids=lambda asked: ascii(asked)[:50],
)
def test_bad_input_is_refused_and_nothing_stored(line: Line, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        line.enqueue(**{"user": "ann", **asked})
    assert line.jobs() == []


def test_a_plain_session_may_enqueue(url: str) -> None:
    engine = create_engine(parse_url(url))
    with Session(engine) as session:
        made = enqueue(session, QUEUE, "noop", user="ann", payload={})
        session.commit()
    with Session(engine) as session:
        assert get_job(session, QUEUE, made.job.id).state == "queued"
    engine.dispose()
