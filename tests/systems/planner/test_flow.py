"""How a request finds its answer: the order of what is looked at, and what twins do to each other.

On functions and sessions, without HTTP; each test runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from crowdsafe import AsyncStore, Store, write
from crowdsafe.errors import ConfigError, KeyReused, QueueFull, QuotaExceeded, TooManyQueued
from crowdsafe.identity import seed_demo_users
from crowdsafe.server.app import ServerSettings, prepare
from crowdsafe.systems.planner import demo
from crowdsafe.systems.planner.api.prefer import wait_of
from crowdsafe.systems.planner.generation import offline_plan
from crowdsafe.systems.planner.jobs import plan_kind
from crowdsafe.systems.planner.models import SYSTEM_USER_ID, Plan, Profile, metadata
from crowdsafe.systems.planner.operations import submitting
from crowdsafe.systems.planner.operations.finishing import store_plan
from crowdsafe.systems.planner.operations.submitting import (
    KIND,
    Submitted,
    flight_of,
    fresh_plan,
    submit,
    submit_idle,
)
from crowdsafe.systems.planner.pregenerate import pregenerate_once
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.service import Planner
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.systems.planner.starters import STARTERS
from crowdsafe.systems.planner.waiting import JobWatch
from crowdsafe.traffic.queue import (
    Claimed,
    Job,
    JobQueue,
    Priority,
    cancel,
    claim,
    complete_with,
    enqueue,
    get_job,
)
from tests.systems.planner.site import broken, idea, together


class Desk:
    """A planner without processes: a store, a queue, and somebody who finishes jobs by hand."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self.settings = PlannerSettings(**settings)
        self.store = Store(url)
        self.store.create_all(metadata)
        self.queue = self.queue_of()

    def queue_of(self, **limits: Any) -> JobQueue:
        async def make(*_: Any) -> Any:
            raise AssertionError("no worker runs here")

        kind = plan_kind(self.settings, None, make, lambda *_: None)  # type: ignore[arg-type]
        return JobQueue("planner", [kind], **limits)

    def submit(self, user_id: int, request: PlanRequest, **more: Any) -> Submitted:
        return self.store.write(
            submit,
            queue=more.pop("queue", self.queue),
            settings=self.settings,
            user_id=user_id,
            request=request,
            **more,
        )

    def submit_idle(self, request: PlanRequest) -> Submitted:
        return self.store.write(
            submit_idle, queue=self.queue, settings=self.settings, request=request
        )

    def claim(self, limit: int = 1) -> list[Claimed]:
        return self.store.write(claim, self.queue, limit)

    def finish(self, claimed: Claimed, before_commit: Callable[[], None] | None = None) -> None:
        job = claimed.job
        body = offline_plan(PlanRequest.model_validate(job.payload["request"])).to_json()

        @write(isolation="read committed")
        def finish(session: Session) -> None:
            complete_with(
                session, self.queue, job.id, claimed.token, lambda s: store_plan(s, job, body)
            )
            if before_commit is not None:
                before_commit()

        self.store.write(finish)

    def make(self, user_id: int, request: PlanRequest) -> Submitted:
        """Submit and finish."""
        made = self.submit(user_id, request)
        self.finish(*self.claim())
        return made

    def job(self, job_id: str | None) -> Job:
        assert job_id is not None
        return self.store.read(get_job, self.queue, job_id)

    def count(self, table: str) -> int:
        query = text(f"SELECT COUNT(*) FROM {table}")
        return int(self.store.read(lambda s: s.execute(query).scalar_one()))


@pytest.fixture
def desk(db_url: str) -> Iterator[Desk]:
    made = Desk(db_url)
    try:
        yield made
        assert broken(db_url) == []
    finally:
        made.store.close()


def ask(text: str = "", **changes: Any) -> PlanRequest:
    return PlanRequest.model_validate(idea(text, **changes))


# Twins.


def test_a_submit_beside_a_finishing_twin_never_makes_a_second_plan(desk: Desk) -> None:
    for round_number in range(6):
        request = ask()
        first = desk.submit(round_number + 1, request)
        (claimed,) = desk.claim()
        todo: list[Callable[[], Any]] = [partial(desk.finish, claimed)]
        todo += [partial(desk.submit, round_number + 1, request) for _ in range(7)]
        done = together(todo)[1:]
        plan_id = desk.job(first.job_id).result["plan_id"]
        assert {each.job_id for each in done} <= {first.job_id, None}
        assert {each.plan_id for each in done} <= {plan_id, None}
    assert desk.count("planner_plans") == desk.count("crowdsafe_jobs") == 6


@pytest.mark.postgres
def test_what_looks_first_and_inserts_then_makes_the_plan_twice(pg_url: str) -> None:
    """Why ``submit`` inserts first: a twin that finishes between the two is missed."""
    desk = Desk(pg_url)
    request = ask()
    first = desk.submit(1, request)
    (claimed,) = desk.claim()

    @write(isolation="read committed")
    def look_then_insert(session: Session) -> Submitted:
        flight = flight_of(request, 1)
        plan = fresh_plan(session, flight, desk.settings)
        if plan is not None:
            return Submitted(plan_id=plan.id)
        finisher = threading.Thread(target=desk.finish, args=(claimed,))
        finisher.start()
        finisher.join(20)
        made = enqueue(session, desk.queue, KIND, user="1", payload={"user_id": 1}, key=flight)
        return Submitted(job_id=made.job.id)

    naive = desk.store.write(look_then_insert)
    assert naive.job_id not in (None, first.job_id), "the naive order was right after all"
    desk.store.close()


@pytest.mark.postgres
def test_a_submit_in_the_moment_before_a_twins_commit_waits_or_joins(pg_url: str) -> None:
    desk = Desk(pg_url)
    request = ask()
    first = desk.submit(1, request)
    (claimed,) = desk.claim()
    found: list[Submitted] = []
    meanwhile = threading.Thread(target=lambda: found.append(desk.submit(1, request)))

    def before_commit() -> None:
        meanwhile.start()
        meanwhile.join(0.5)

    desk.finish(claimed, before_commit)
    meanwhile.join(20)
    after = desk.submit(1, request)
    assert found[0].job_id == first.job_id or found[0].plan_id == after.plan_id
    assert after.plan_id is not None
    assert desk.count("crowdsafe_jobs") == 1
    desk.store.close()
    assert broken(pg_url) == []


def test_a_stale_plan_is_made_anew(desk: Desk) -> None:
    request = ask()
    desk.make(1, request)
    assert desk.submit(1, request).plan_id is not None
    old = replace(desk.settings, plan_fresh_s=1e-6)
    desk.settings = replace(old, free_per_day=2)
    assert desk.submit(1, request).job_id is not None


# The order of the refusals.


def test_a_stored_or_running_plan_answers_whatever_is_full_or_spent(desk: Desk) -> None:
    request = ask()
    desk.make(1, request)
    desk.submit(2, ask())
    full = desk.queue_of(queued_max=1, queued_per_user_max=1)
    assert desk.submit(1, request, queue=full).plan_id is not None
    running = ask()
    first = desk.submit(3, running)
    assert desk.submit(3, running, queue=full) == first
    with pytest.raises(QuotaExceeded):
        desk.submit(1, ask(), queue=full)
    with pytest.raises(QueueFull):
        desk.submit(4, ask(), queue=full)


def test_the_quota_refuses_before_the_bound_on_waiting_jobs(desk: Desk) -> None:
    desk.store.write(lambda s: s.add(Profile(user_id=5, tier="pro")))
    narrow = desk.queue_of(queued_per_user_max=1)
    desk.submit(5, ask(), queue=narrow)
    with pytest.raises(TooManyQueued):
        desk.submit(5, ask(), queue=narrow)
    desk.settings = replace(desk.settings, pro_per_day=1)
    with pytest.raises(QuotaExceeded):
        desk.submit(5, ask(), queue=narrow)


def test_one_idempotency_key_is_one_job_for_ever(desk: Desk) -> None:
    request = ask()
    keyed = {"idempotency": ("k", {"body": "x"})}
    first = desk.submit(1, request, **keyed)
    desk.finish(*desk.claim())
    assert desk.submit(1, request, **keyed) == first
    with pytest.raises(KeyReused):
        desk.submit(1, ask(), idempotency=("k", {"body": "y"}))
    with pytest.raises(QuotaExceeded):
        desk.submit(1, ask(), idempotency=("other", {"body": "z"}))
    desk.settings = replace(desk.settings, free_per_day=2)
    assert desk.submit(1, ask(), idempotency=("other", {"body": "z"})).job_id, (
        "a refusal is not stored under its key"
    )


# Pre-generation.


def test_a_person_takes_the_place_of_an_idle_job_for_the_same_plan(desk: Desk) -> None:
    request = STARTERS[0]
    idle = desk.submit_idle(request)
    assert desk.job(idle.job_id).priority is Priority.IDLE
    asked = together([partial(desk.submit, user, request) for user in (1, 2, 3)])
    (job_id,) = {each.job_id for each in asked}
    assert job_id != idle.job_id
    assert desk.job(idle.job_id).state == "cancelled"
    assert desk.job(job_id).priority is Priority.NORMAL
    again = desk.submit_idle(request)
    assert again.job_id == job_id, "nothing idle is made of what a person waits for"


@pytest.mark.postgres
def test_an_idle_job_that_is_claimed_just_then_answers_the_person(
    pg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL a worker may claim it between the look at it and its cancelling."""
    desk = Desk(pg_url)
    idle = desk.submit_idle(STARTERS[0])
    claimed: list[Claimed] = []

    def cancel_late(*args: Any, **how: Any) -> Job:
        claimer = threading.Thread(target=lambda: claimed.extend(desk.claim()))
        claimer.start()
        claimer.join(20)
        return cancel(*args, **how)

    monkeypatch.setattr(submitting, "cancel", cancel_late)
    assert desk.submit(1, STARTERS[0]) == idle
    assert [one.job.id for one in claimed] == [idle.job_id]
    job = desk.job(idle.job_id)
    assert (job.state, job.cancel_requested) == ("running", False)
    desk.finish(*claimed)
    assert desk.submit(1, STARTERS[0]).plan_id is not None
    desk.store.close()
    assert broken(pg_url) == []


def test_idle_jobs_run_behind_everyone_and_are_few_a_day(db_url: str) -> None:
    async def run() -> None:
        desk = Desk(db_url, pregenerate_per_day=2)
        async with AsyncStore(db_url) as store:
            once = partial(pregenerate_once, store, desk.queue, desk.settings)
            desk.make(1, ask(business_type=STARTERS[3].business_type.upper()))
            first = await once()
            assert first is not None
            assert desk.job(first.job_id).payload["request"]["idea"] == STARTERS[3].idea
            assert await once() is None, "nothing is added while something waits"
            asked = desk.submit(2, ask())
            assert [one.job.id for one in desk.claim(8)] == [asked.job_id, first.job_id]
            assert await once() is None, "nothing is added while something runs"
            desk.store.write(
                lambda s: s.execute(text("UPDATE crowdsafe_jobs SET state = 'queued', "
                                         "lease_token = NULL, lease_until = NULL "
                                         "WHERE state = 'running'"))
            )  # fmt: skip
            for one in desk.claim(8):
                desk.finish(one)
            second = await once()
            assert second is not None
            assert desk.job(second.job_id).payload["request"]["idea"] != STARTERS[3].idea
            for one in desk.claim(8):
                desk.finish(one)
            assert await once() is None, "two a day"
        plans = desk.store.read(
            lambda s: s.scalar(
                select(func.count()).select_from(Plan).where(Plan.user_id == SYSTEM_USER_ID)
            )
        )
        assert plans == 2
        assert desk.submit(7, STARTERS[3]).plan_id is not None, "a person is given what is there"
        desk.store.close()

    asyncio.run(run())
    assert broken(db_url) == []


def test_pregeneration_is_off_by_default_and_a_planner_makes_plans(db_url: str) -> None:
    async def run() -> None:
        async with AsyncStore(db_url) as store:
            await store.create_all(metadata)
            settings = PlannerSettings(pregenerate_every_s=0.01)
            assert not settings.pregenerate
            planner = await Planner.open(store, settings)
            async with planner.running():
                asked = await planner.submit(1, ask())
                assert asked.job_id is not None
                job = await planner.watch.ended(asked.job_id, 20)
                assert job is not None
                assert job.state == "done"
                await asyncio.sleep(0.2)
            query = text("SELECT COUNT(*) FROM crowdsafe_jobs")
            assert await store.read(lambda s: s.execute(query).scalar_one()) == 1
            eager = replace(settings, pregenerate=True)
            planner = await Planner.open(store, eager)
            async with planner.running():
                for _ in range(200):
                    await asyncio.sleep(0.05)
                    if await store.read(lambda s: s.execute(query).scalar_one()) == 4:
                        break
            assert await store.read(lambda s: s.execute(query).scalar_one()) == 4

    asyncio.run(run())


# Waiting.


def test_who_stops_waiting_leaves_nothing_behind(db_url: str) -> None:
    async def run() -> None:
        desk = Desk(db_url)
        looks = []
        async with AsyncStore(db_url) as store:

            def look(session: Session, names: Any) -> dict[str, Job]:
                looks.append(sorted(names))
                return {}

            watch = JobWatch(store, look, every_s=0.01)
            tasks = [asyncio.create_task(watch.ended(f"j{n % 3}", 20)) for n in range(30)]
            await asyncio.sleep(0.1)
            assert watch.waiting == 30
            assert looks[-1] == ["j0", "j1", "j2"], "one look for all who wait"
            for task in tasks[:-1]:
                task.cancel()
            await asyncio.gather(*tasks[:-1], return_exceptions=True)
            assert watch.waiting == 1
            tasks[-1].cancel()
            with suppress(asyncio.CancelledError):
                await tasks[-1]
            assert await watch.ended("late", 0.02) is None
            await asyncio.sleep(0.1)
            assert watch.waiting == 0
            seen = len(looks)
            await asyncio.sleep(0.1)
            assert len(looks) == seen, "nobody waits, and the database is asked"
            await watch.stop()
        desk.store.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "s", "applied"),
    [
        ([], 8.0, None),
        (["respond-async"], 0, "respond-async"),
        (["return=minimal, Respond-Async", "wait=20"], 0, "respond-async"),
        (["wait=20"], 20, "wait=20"),
        (["wait = 0"], 0, "wait=0"),
        (['wait="7"'], 7, "wait=7"),
        (["wait=60"], 25, "wait=25"),
        (["wait=1000000"], 25, "wait=25"),
        (["wait=-3", "wait=x", "wait"], 8.0, None),
    ],
)
def test_the_prefer_header(headers: list[str], s: float, applied: str | None) -> None:
    wait = wait_of(headers, PlannerSettings())
    assert (wait.s, wait.applied) == (s, applied)


# Settings and demo.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPSTREAM_URL", "ftp://example.org"),
        ("UPSTREAM_URL", "http://"),
        ("UPSTREAM_KEY", "a key of words"),
        ("RUNNING_MAX", "257"),
        ("RUNNING_MAX", "0"),
        ("RUNNING_MAX", "many"),
        ("FREE_PER_DAY", "-1"),
        ("PLAN_FRESH_S", "nan"),
        ("OFFLINE_OK", "perhaps"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}|{name.lower()}"):
        PlannerSettings.from_env({f"CROWDSAFE_PLANNER_{name}": value})


def test_a_limit_that_the_database_cannot_hold_is_named_at_the_start() -> None:
    large = PlannerSettings.from_env({"CROWDSAFE_PLANNER_IP_RATE": "20000/minute"})
    large.check_shared(valkey=True)
    with pytest.raises(ConfigError, match="CROWDSAFE_PLANNER_IP_RATE"):
        large.check_shared(valkey=False)
    with pytest.raises(ConfigError, match="CROWDSAFE_PLANNER_PAYMENT_SECRET"):
        PlannerSettings(payment_secret=" ")


def test_what_cannot_be_used_stops_the_start_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("IP_RATE", "20000/minute"), ("UPSTREAM_KEY", "a key of words")):
        with monkeypatch.context() as env, pytest.raises(ConfigError, match=name) as refused:
            env.setenv(f"CROWDSAFE_PLANNER_{name}", value)
            prepare(ServerSettings(database=f"sqlite:///{tmp_path / 'start.db'}"))
        assert "\n" not in refused.value.message


def test_settings_come_from_the_environment_and_keep_their_secrets() -> None:
    settings = PlannerSettings.from_env(
        {
            "CROWDSAFE_PLANNER_UPSTREAM_URL": "https://example.org/v1",
            "CROWDSAFE_PLANNER_UPSTREAM_KEY": "hush",
            "CROWDSAFE_PLANNER_PAYMENT_SECRET": "hush",
            "CROWDSAFE_PLANNER_RUNNING_MAX": "3",
            "CROWDSAFE_PLANNER_PREGENERATE": "yes",
            "CROWDSAFE_PLANNER_MODEL": "",
            "CROWDSAFE_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        }
    )
    assert (settings.running_max, settings.pregenerate) == (3, True)
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert "hush" not in repr(settings)
    assert PlannerSettings.from_env({}).payment_secret is None
    assert PlannerSettings.from_env({}).for_demo().payment_secret
    lives = settings.job_expires_s + settings.job_attempts * settings.job_timeout_s
    assert settings.reservation_s > lives


def test_two_processes_seed_one_demo(db_url: str) -> None:
    with Store(db_url) as one, Store(db_url) as two:
        one.create_all(metadata)
        one.write(seed_demo_users, "none")
        together([partial(demo.seed, one), partial(demo.seed, two)])
        assert demo.seed(one) is False
        tiers = one.read(lambda s: dict(s.execute(select(Profile.user_id, Profile.tier)).all()))
        assert sorted(tiers.values()).count("free") == len(tiers) - 2
        assert one.read(lambda s: s.scalar(select(func.count()).select_from(Plan))) == 4
    assert broken(db_url) == []
