"""How jobs end: under their lease only, together with their effects, and once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.support.pg_server import PgServer
from tests.traffic.queue_help import Effect, Line, dropped, effects, leave, nothing, queue_of

from crowdsafe.errors import ConfigError, InvalidInput, LeaseLost, NotFound
from crowdsafe.store import Settings, Store
from crowdsafe.store.options import Call, options_of
from crowdsafe.traffic.queue import (
    Job,
    JobQueue,
    Kind,
    cancel,
    claim,
    complete,
    complete_with,
    fail,
    find_jobs,
    give_back,
    hold_lease,
    renew,
    report,
    stop,
    sweep,
)


def changed(session: Session, job: Job) -> None:
    leave(session, job.id, "changed", job.state)


QUEUE = queue_of(Kind("told", nothing, attempts=3, lease_s=10, dropped=dropped, changed=changed))


@pytest.fixture
def line(queue_url: str) -> Iterator[Line]:
    with Store(queue_url) as store:
        yield Line(store, QUEUE)


def effects_of(line: Line, what: str) -> dict[str, int]:
    return line.store.read(effects, what)


def test_a_result_is_stored_with_the_last_progress(line: Line) -> None:
    job_id = line.add("ann", "told")
    one = line.take()
    line.later(3)
    line.do(complete, one, result=["é", 1.5, None], progress={"done": 7})
    job = line.job(job_id)
    assert (job.state, job.result, job.progress) == ("done", ["é", 1.5, None], {"done": 7})
    assert job.finished_at == line.now
    assert job.error is None
    assert effects_of(line, "changed") == {job_id: 3}
    assert effects_of(line, "dropped") == {}


def test_a_lease_that_was_taken_over_completes_nothing(line: Line) -> None:
    job_id = line.add("ann", "told")
    old = line.take()
    line.later(11)
    assert line.sweep().requeued == 1
    new = line.take()
    assert new.job.attempts == 2

    def effect(session: Session) -> None:
        leave(session, job_id, "done")

    for late in (
        lambda: line.do(complete, old),
        lambda: line.do(complete_with, old, effect),
        lambda: line.do(fail, old, "late"),
        lambda: line.do(stop, old),
        lambda: line.store.write(report, line.queue, old.job.id, old.token, {"done": 1}),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert line.store.write(give_back, line.queue, {job_id: old.token}) == []
    renewed = line.store.write(renew, line.queue, {job_id: old.token}, 30, now=line.now)
    assert renewed.lost == {job_id}
    assert effects_of(line, "done") == {}
    line.do(complete_with, new, effect)
    assert effects_of(line, "done") == {job_id: 1}
    with pytest.raises(LeaseLost):
        line.do(complete_with, new, effect)
    assert effects_of(line, "done") == {job_id: 1}


def test_without_the_token_both_attempts_leave_their_effect(line: Line) -> None:
    """The naive completion: it asks for the state alone."""
    job_id = line.add("ann")

    def naive(session: Session) -> None:
        assert find_jobs(session, QUEUE, state="running")
        leave(session, job_id, "done")

    line.take()
    line.later(31)
    line.sweep()
    line.take()
    line.store.write(naive)
    line.store.write(naive)
    assert effects_of(line, "done") == {job_id: 2}


def test_effects_and_completion_are_one(line: Line) -> None:
    job_id = line.add("ann")
    one = line.take()

    def broken(session: Session) -> None:
        leave(session, job_id, "done")
        session.flush()
        raise KeyError("undone")

    with pytest.raises(KeyError):
        line.do(complete_with, one, broken)
    assert line.job(job_id).state == "running"
    assert effects_of(line, "done") == {}


@pytest.mark.parametrize(
    ("returned", "extra", "result"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        (None, {"b": 2}, {"b": 2}),
        ({"a": 1}, None, {"a": 1}),
        ([1], "text", "text"),
    ],
)
def test_what_fn_returns_extends_the_result(
    line: Line, returned: Any, extra: Any, result: Any
) -> None:
    job_id = line.add("ann")
    line.do(complete_with, line.take(), lambda session: extra, result=returned)
    assert line.job(job_id).result == result


def test_a_failure_waits_and_is_tried_again_until_attempts_are_spent(line: Line) -> None:
    job_id = line.add("ann", "told")
    for attempt in (1, 2):
        job = line.do(fail, line.take(), f"boom {attempt}", wait_s=5)
        assert (job.state, job.error, job.attempts) == ("queued", f"boom {attempt}", attempt)
        assert line.claim(1) == []
        line.later(5)
    job = line.do(fail, line.take(), "boom 3")
    assert (job.state, job.error, job.attempts) == ("failed", "boom 3", 3)
    assert effects_of(line, "dropped") == {job_id: 1}


def test_the_wait_has_full_jitter(line: Line) -> None:
    waits = []
    for _ in range(20):
        line.add("ann", "told")
        job = line.do(fail, line.take(), "boom")
        waits.append((job.run_after - line.now).total_seconds())
        line.store.write(cancel, line.queue, job.id, now=line.now)
    assert 0 <= min(waits) < max(waits) <= 1
    assert len(set(waits)) > 10


def test_a_final_failure_spends_all_attempts(line: Line) -> None:
    line.add("ann", "told")
    assert line.do(fail, line.take(), "never", final=True).state == "failed"


def test_a_waiting_job_is_cancelled_at_once_and_told_once(line: Line) -> None:
    job_id = line.add("ann", "told")
    for _ in range(2):
        job = line.store.write(cancel, line.queue, job_id, now=line.now)
        assert job.state == "cancelled"
    assert line.claim(1) == []
    assert effects_of(line, "dropped") == {job_id: 1}


def test_a_running_job_is_asked_to_stop(line: Line) -> None:
    job_id = line.add("ann", "told")
    one = line.take()
    job = line.store.write(cancel, line.queue, job_id)
    assert (job.state, job.cancel_requested) == ("running", True)
    held = {job_id: one.token}
    renewed = line.store.write(renew, line.queue, held, 10, now=line.now)
    assert (renewed.held, renewed.cancelled) == ({job_id}, {job_id})
    assert line.store.write(give_back, line.queue, held) == []
    assert line.do(stop, one).state == "cancelled"
    assert effects_of(line, "dropped") == {job_id: 1}


def test_what_is_written_under_a_lease_is_there_before_the_job_ends(line: Line) -> None:
    """The end waits for the write that has begun; afterwards nothing is written any more."""
    job_id = line.add("ann", "told")
    one = line.take()
    with ThreadPoolExecutor(1) as other:

        def write_slowly(session: Session) -> Future[Job]:
            hold_lease(session, job_id, one.token)
            ended = other.submit(line.do, stop, one)
            with pytest.raises(TimeoutError):
                ended.result(0.3)
            leave(session, job_id, "saved")
            return ended

        line.store.write(write_slowly, isolation="read committed").result(10)

    def write_late(session: Session) -> None:
        leave(session, job_id, "saved")
        hold_lease(session, job_id, one.token)

    with pytest.raises(LeaseLost):
        line.store.write(write_late)
    assert effects_of(line, "saved") == {job_id: 1}


def test_what_is_cancelled_only_while_it_waits_may_run_on(line: Line) -> None:
    runs = line.add("ann", "told")
    one = line.take()
    waits = line.add("ann", "told")
    states = {
        job_id: line.store.write(cancel, line.queue, job_id, only_waiting=True, now=line.now)
        for job_id in (runs, waits)
    }
    assert (states[runs].state, states[runs].cancel_requested) == ("running", False)
    assert states[waits].state == "cancelled"
    assert effects_of(line, "changed") == {runs: 2, waits: 2}
    line.do(complete, one)


def test_a_claim_that_is_faster_than_a_cancel_of_what_waits_keeps_its_job(line: Line) -> None:
    """The cancel waits for the claim that has begun, and then finds that the job runs."""
    job_id = line.add("ann", "told")
    with ThreadPoolExecutor(1) as other:

        def claim_slowly(session: Session) -> Future[Job]:
            (one,) = claim(session, line.queue, 1, now=line.now)
            assert one.job.id == job_id
            asked = other.submit(line.store.write, cancel, line.queue, job_id, only_waiting=True)
            with pytest.raises(TimeoutError):
                asked.result(0.3)
            return asked

        asked = line.store.write(claim_slowly, isolation="read committed")
        job = asked.result(10)
    assert (job.state, job.cancel_requested) == ("running", False)


def test_a_cancelled_job_whose_worker_died_is_not_run_again(line: Line) -> None:
    job_id = line.add("ann", "told")
    line.take()
    line.store.write(cancel, line.queue, job_id)
    line.later(11)
    assert line.sweep().ended == 1
    assert line.job(job_id).state == "cancelled"


def test_a_job_that_was_cancelled_cannot_complete(line: Line) -> None:
    """However fast its worker is: who cancelled it was told so."""
    job_id = line.add("ann", "told")
    one = line.take()
    line.store.write(cancel, line.queue, job_id)
    with pytest.raises(LeaseLost):
        line.do(complete, one)
    assert line.job(job_id).state == "running"
    assert line.do(stop, one).state == "cancelled"


def test_a_cancelled_job_that_fails_is_cancelled(line: Line) -> None:
    job_id = line.add("ann", "told")
    one = line.take()
    line.store.write(cancel, line.queue, job_id)
    assert line.do(fail, one, "boom").state == "cancelled"


def test_a_stalled_job_goes_back_to_its_place_and_fails_in_the_end(line: Line) -> None:
    job_id = line.add("ann", "told")
    line.add("ann", "told")
    for attempt in (1, 2, 3):
        assert line.take().job.id == job_id
        line.later(11)
        assert line.sweep().requeued == (1 if attempt < 3 else 0)
    job = line.job(job_id)
    assert job.state == "failed"
    assert "attempt 3 of 3" in (job.error or "")
    assert effects_of(line, "dropped") == {job_id: 1}


def test_a_lease_that_is_renewed_lasts(line: Line) -> None:
    line.add("ann", "told")
    one = line.take()
    for _ in range(4):
        line.later(8)
        line.store.write(renew, line.queue, {one.job.id: one.token}, 10, now=line.now)
        assert line.sweep().requeued == 0
    line.do(complete, one)


def test_what_dropped_raises_undoes_the_end(line: Line, queue_url: str) -> None:
    def broken(session: Session, job: Job) -> None:
        raise KeyError("no")

    own = Line(line.store, queue_of(Kind("told", nothing, dropped=broken)))
    job_id = own.add("ann", "told")
    with pytest.raises(KeyError):
        own.store.write(cancel, own.queue, job_id)
    assert own.job(job_id).state == "queued"


def test_ended_jobs_are_forgotten_after_their_time(queue_url: str) -> None:
    with Store(queue_url) as store:
        line = Line(store, queue_of(keep_s=100))
        old, new = line.add("ann"), line.add("ann")
        line.serve()
        line.later(60)
        line.serve()
        line.later(50)
        assert line.sweep().forgotten == 1
        assert [job.id for job in line.jobs()] == [new]
        with pytest.raises(NotFound):
            line.job(old)


def test_jobs_of_another_queue_are_not_there(line: Line) -> None:
    job_id = line.add("ann")
    other = Line(line.store, JobQueue("other", QUEUE.kinds))
    with pytest.raises(NotFound):
        other.job(job_id)
    with pytest.raises(NotFound):
        line.store.write(cancel, other.queue, job_id)
    assert other.claim(1) == []


def test_an_error_is_stored_whatever_its_text_holds(line: Line) -> None:
    line.add("ann")
    failed = line.do(fail, line.take(), "half a pair \ud83d and \0", final=True)
    assert (failed.state, failed.error) == ("failed", "half a pair ? and ")


@pytest.mark.parametrize(
    "result",
    [object(), float("inf"), {"x": "\0"}, "x" * 1_100_000],
    ids=["an object", "infinity", "NUL", "too large"],
)
def test_a_result_that_is_no_json_is_refused(line: Line, result: Any) -> None:
    line.add("ann")
    one = line.take()
    with pytest.raises(InvalidInput):
        line.do(complete, one, result=result)
    line.do(complete, one)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Kind("", nothing),
        lambda: Kind("k", nothing, attempts=0),
        lambda: Kind("k", nothing, lease_s=-1),
        lambda: JobQueue("q", [Kind("k", nothing), Kind("k", nothing)]),
        lambda: JobQueue("q", per_user=0),
        lambda: JobQueue("x" * 81),
    ],
)
def test_wrong_limits_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        wrong()


def test_completions_that_come_together_are_each_answered_for_their_own_lease(line: Line) -> None:
    job_id, other_id = line.add("ann", "told"), line.add("ann", "told")
    stale = line.take()
    line.later(11)
    line.sweep()
    valid, other = line.take(), line.take()
    assert [one.job.id for one in (stale, valid, other)] == [job_id, job_id, other_id]
    calls = [
        Call((QUEUE, one.job.id, one.token), {"result": result, "now": line.now})
        for one, result in ((stale, "stale"), (valid, 1), (valid, 2), (other, 3), (other, object()))
    ]
    combiner = options_of(complete).combiner
    assert combiner is not None
    outcomes = line.store.write(combiner.run, calls, isolation="read committed")
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["LeaseLost", "NoneType", "LeaseLost", "NoneType", "InvalidInput"]
    assert (line.job(job_id).result, line.job(other_id).result) == (1, 3)


@pytest.mark.postgres
def test_statements_over_many_jobs_lock_them_in_one_order(
    queue_pg: tuple[PgServer, str], rng: random.Random
) -> None:
    """Signs of life in any order beside each other: one waits for the other and
    none deadlocks: each write is run once only, and comes through."""
    server, name = queue_pg
    server.execute("TRUNCATE crowdsafe_jobs, crowdsafe_queues, effects", name)
    with Store(server.url(name), Settings(attempts_max=1)) as store, ThreadPoolExecutor(6) as crowd:
        line = Line(store, QUEUE)
        for _ in range(60):
            line.add("ann")
        held = [(one.job.id, one.token) for one in line.claim(60)]

        def renew_shuffled(seed: float) -> None:
            shuffled = random.Random(seed).sample(held, len(held))
            for _ in range(10):
                renewed = store.write(renew, QUEUE, dict(shuffled), 30)
                assert len(renewed.held) == len(held)

        list(crowd.map(renew_shuffled, [rng.random() for _ in range(6)]))
        assert len(store.write(give_back, QUEUE, dict(held))) == len(held)


def poisoned(session: Session, job: Job) -> None:
    leave(session, job.id, "told", job.state)
    if job.payload.get("poison"):
        session.add(Effect(job=None, what="a row that the database refuses"))


def test_a_hook_that_raises_holds_up_no_other_job(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    kind = Kind("told", nothing, attempts=1, lease_s=10, dropped=poisoned)
    own = Line(line.store, queue_of(kind, per_user=2, running_max=4))
    bad = [own.add("ann", "told", payload={"poison": True}) for _ in range(2)]
    good = [own.add("bob", "told") for _ in range(2)]
    assert {one.job.id for one in own.claim(4)} == {*bad, *good}
    late = [
        own.add(user, "told", expires_s=5, payload={"poison": user == "cid"})
        for user in ("cid", "dan")
    ]
    own.later(11)
    own.store.write(sweep, own.queue, limit=2, now=own.now)
    assert [own.job(job_id).state for job_id in bad] == ["queued", "queued"]
    own.store.write(sweep, own.queue, limit=2, now=own.now)
    own.sweep()
    assert [own.job(job_id).state for job_id in good + late[1:]] == ["failed"] * 3
    assert effects_of(own, "told") == dict.fromkeys([*good, late[1]], 1)
    assert sum("could not be swept" in message for message in caplog.messages) == 3
    assert own.claim(4) == [], "what was put off is not begun"
    healed = Line(own.store, queue_of(Kind("told", nothing, attempts=1, dropped=dropped)))
    healed.now = own.now
    assert healed.sweep().ended == 0
    healed.later(60)
    assert healed.sweep().ended == 3
    assert effects_of(healed, "dropped") == dict.fromkeys([*bad, late[0]], 1)


def poisoned_when_running(session: Session, job: Job) -> None:
    if job.state == "running" and job.payload.get("poison"):
        raise KeyError("poison")


def test_a_claim_whose_hook_raises_puts_off_that_job_alone(line: Line) -> None:
    kind = Kind("told", nothing, changed=poisoned_when_running)
    own = Line(line.store, queue_of(kind))
    bad = own.add("ann", "told", payload={"poison": True}, expires_s=500)
    good = own.add("bob", "told")
    assert [one.job.id for one in own.claim(4)] == [good]
    put_off = own.job(bad)
    assert (put_off.state, put_off.attempts, put_off.started_at) == ("queued", 0, None)
    assert own.claim(4) == []
    own.later(60)
    assert own.claim(4) == []
    own.store.write(cancel, own.queue, bad, now=own.now)


def test_what_expires_after_it_was_begun_says_so(line: Line) -> None:
    never, again = line.add("ann", "told", expires_s=5, delay_s=1), line.add("bob", expires_s=6)
    line.do(fail, line.take(), "boom", wait_s=60)
    line.later(6)
    assert line.sweep().ended == 2
    assert "it had not started 6 s" in str(line.job(never).error)
    error = str(line.job(again).error)
    assert "it was begun 1 times" in error
    assert "the last error: boom" in error
