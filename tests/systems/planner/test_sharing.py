"""Public plans are for who asks for exactly the same; what joining and cancelling do to each other.

On functions and sessions, without HTTP; each test runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError, NotFound, QuotaExceeded
from crowdsafe.systems.planner.errors import JobCancelled, JobShared
from crowdsafe.systems.planner.generation import offline_plan
from crowdsafe.systems.planner.operations import cancelling, queries
from crowdsafe.systems.planner.operations.cancelling import cancel_job
from crowdsafe.systems.planner.operations.sharing import forget_sharers
from crowdsafe.systems.planner.operations.submitting import fresh_plan, plan_at_hand
from crowdsafe.traffic.queue import cancel
from tests.systems.planner.site import broken, together
from tests.systems.planner.test_flow import Desk, ask


@pytest.fixture
def desk(db_url: str) -> Iterator[Desk]:
    made = Desk(db_url)
    try:
        yield made
        assert broken(db_url) == []
    finally:
        made.store.close()


def _plan(desk: Desk, plan_id: int | None, user_id: int) -> Any:
    return desk.store.read(queries.get_plan, plan_id, user_id=user_id)


def _cancel(desk: Desk, job_id: str | None, user_id: int) -> None:
    desk.store.write(cancel_job, desk.queue, job_id, user_id=user_id)


def test_a_public_plan_is_read_by_who_asked_for_it_and_nobody_else(desk: Desk) -> None:
    request = ask(audience="public")
    made = desk.submit(1, request)
    assert desk.submit(2, request) == made
    with pytest.raises(NotFound):
        desk.store.read(queries.job_for, desk.queue, made.job_id, user_id=3)
    desk.store.read(queries.job_for, desk.queue, made.job_id, user_id=2)
    desk.finish(*desk.claim())
    plan_id = desk.job(made.job_id).result["plan_id"]
    for user_id in (1, 2):
        assert _plan(desk, plan_id, user_id)["plan_id"] == plan_id
    with pytest.raises(NotFound):
        _plan(desk, plan_id, 3)
    assert desk.submit(3, request).plan_id == plan_id, "asking for the same gives it"
    assert _plan(desk, plan_id, 3)["plan_id"] == plan_id
    assert desk.store.write(forget_sharers, older_s=-1.0) == 0, "for as long as the plan is there"


def test_a_plan_at_hand_is_only_that_of_who_was_given_it(desk: Desk) -> None:
    request = ask(audience="public")
    desk.make(1, request)
    flight = desk.store.read(lambda s: s.execute(text("SELECT flight FROM planner_plans")).scalar())
    look = partial(desk.store.read, plan_at_hand, flight, desk.settings)
    assert look(1) is not None
    assert look(2) is None
    given = desk.submit(2, request).plan_id
    assert given == look(2) == look(1)


def test_who_joined_a_job_that_fails_is_forgotten_in_time(desk: Desk) -> None:
    request = ask(audience="public")
    made = desk.submit(1, request)
    desk.submit(2, request)
    desk.store.write(lambda s: cancel(s, desk.queue, made.job_id))
    assert desk.store.read(queries.job_for, desk.queue, made.job_id, user_id=2).ended
    assert desk.store.write(forget_sharers, older_s=60) == 0
    assert desk.store.write(forget_sharers, older_s=-1.0) == 1


def test_a_job_that_others_joined_is_not_cancelled_by_who_asked_first(desk: Desk) -> None:
    request = ask(audience="public")
    made = desk.submit(1, request)
    desk.submit(1, request)
    desk.submit(2, request)
    with pytest.raises(JobShared):
        _cancel(desk, made.job_id, 1)
    with pytest.raises(NotFound):
        _cancel(desk, made.job_id, 2)
    (claimed,) = desk.claim()
    with pytest.raises(JobShared):
        _cancel(desk, made.job_id, 1)
    assert desk.job(made.job_id).cancel_requested is False
    desk.finish(claimed)


def test_a_job_that_is_being_cancelled_is_not_joined(desk: Desk) -> None:
    for audience, owner, others in (("private", 1, ()), ("public", 2, (3,))):
        request = ask(audience=audience)
        made = desk.submit(owner, request)
        desk.claim()
        _cancel(desk, made.job_id, owner)
        for user_id in (owner, *others):
            with pytest.raises(JobCancelled) as refused:
                desk.submit(user_id, request)
            assert refused.value.data == {"job_id": made.job_id, "retry_after_s": 1}


def test_joining_beside_a_cancelling_ends_one_way_or_the_other(desk: Desk) -> None:
    """Never a job that ends cancelled for somebody who was told that it will be made."""
    for number in range(8):
        request = ask(audience="public")
        made = desk.submit(10 + number, request)
        desk.claim()

        def tried(call: Any) -> Any:
            try:
                return call()
            except CrowdsafeError as error:
                return error

        todo = [partial(_cancel, desk, made.job_id, 10 + number)]
        todo += [partial(desk.submit, 50 + number, request)]
        cancelled, joined = together([partial(tried, call) for call in todo])
        if cancelled is None:
            assert isinstance(joined, JobCancelled)
        else:
            assert isinstance(cancelled, JobShared)
            assert joined == made
        assert desk.job(made.job_id).cancel_requested is (cancelled is None)


@pytest.mark.postgres
def test_a_look_without_the_lock_cancels_for_who_just_joined(
    pg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why ``others_wait`` holds the job's row: the naive look lets a join come in between."""

    def naive(session: Session, job_id: str) -> bool:
        query = text("SELECT 1 FROM planner_sharers WHERE job_id = :id")
        found = session.execute(query, {"id": job_id}).first() is not None
        joiner = threading.Thread(target=lambda: desk.submit(2, request))
        joiner.start()
        joiner.join(20)
        return found

    monkeypatch.setattr(cancelling, "others_wait", naive)
    desk = Desk(pg_url)
    request = ask(audience="public")
    made = desk.submit(1, request)
    desk.claim()
    _cancel(desk, made.job_id, 1)
    assert desk.job(made.job_id).cancel_requested, "the naive look was right after all"
    desk.store.close()


# Plans that an upstream in trouble did not write.


def test_an_offline_plan_is_fresh_for_a_short_time_only(desk: Desk) -> None:
    request = ask()
    made = desk.make(1, request)
    assert offline_plan(request).source == "offline"
    flight = desk.job(made.job_id).key
    desk.settings = replace(desk.settings, offline_fresh_s=1e-6, free_per_day=2)
    assert desk.store.read(fresh_plan, flight, desk.settings) is None
    again = desk.submit(1, request)
    assert again.job_id not in (None, made.job_id)
    desk.finish(*desk.claim())
    desk.store.write(lambda s: s.execute(text("UPDATE planner_plans SET source = 'upstream'")))
    assert desk.submit(1, request).plan_id is not None


def test_who_has_no_unit_left_keeps_the_offline_plan(desk: Desk) -> None:
    request = ask()
    desk.make(1, request)
    desk.settings = replace(desk.settings, offline_fresh_s=1e-6)
    assert desk.submit(1, request).plan_id is not None
    with pytest.raises(QuotaExceeded):
        desk.submit(1, ask())
