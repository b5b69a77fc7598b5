"""kill -9 of servers in mid-job and in mid-load; afterwards the database is asked what it holds.

A 202 is durable, a job is run once more and charged once, and plans stored = units charged.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from crowdsafe import AsyncStore
from crowdsafe.errors import LeaseLost
from crowdsafe.systems.planner.jobs import Sections
from crowdsafe.systems.planner.models import PlannerBase
from crowdsafe.traffic.queue import JobQueue, Kind, RunningJob, claim, enqueue, stop
from tests.systems.planner.site import Ask, Person, Site, idea, running_site, statuses, until
from tests.systems.planner.upstream import LiveUpstream

ASYNC = {"Prefer": "respond-async"}
STEP_S_MAX = 30.0


def env_of(upstream: LiveUpstream, **more: str) -> dict[str, str]:
    return {
        "CROWDSAFE_PLANNER_UPSTREAM_URL": upstream.base_url,
        "CROWDSAFE_PLANNER_LEASE_S": "3",
        **more,
    }


def test_fifty_queued_jobs_survive_a_kill_of_the_server(
    db_url: str, tmp_path: Path, upstream: LiveUpstream
) -> None:
    upstream.behave(latency_s=10.0)
    with running_site(db_url, tmp_path, servers=1, env=env_of(upstream)) as site:
        people = [site.person("pro") for _ in range(10)]
        answers = site.at_once(
            [Ask(person, body=idea(), headers=ASYNC) for person in people for _ in range(5)]
        )
        assert statuses(answers) == {202: 50}
        until(lambda: upstream.stats["running"] > 0, 20, "nothing runs")
        site.servers[0].kill9()
        assert site.active() == 50
        assert site.broken() == []
        upstream.behave(latency_s=0.002)
        site.start_again(0)
        site.quiet(60)
        jobs = [answer.json()["job_id"] for answer in answers]
        states = site.rows("SELECT public_id, state, attempts FROM crowdsafe_jobs")
        assert {row[0] for row in states} == set(jobs)
        assert {row[1] for row in states} == {"done"}
        assert max(row[2] for row in states) <= 2
        assert [site.plans(person) for person in people] == [5] * 10
        assert [site.charged(person) for person in people] == [5] * 10
        assert site.broken() == []


def test_a_job_whose_process_is_killed_runs_once_more_and_is_charged_once(
    db_url: str, tmp_path: Path, upstream: LiveUpstream
) -> None:
    upstream.behave(latency_s=0.25, latency_sigma=0.0)
    with running_site(db_url, tmp_path, env=env_of(upstream)) as site:
        person = site.person()
        job = site.queued(person)
        saved = "SELECT section FROM planner_saved_sections WHERE job_id = :id"
        until(lambda: len(site.rows(saved, id=job)) >= 2, 20, "no section was saved")
        for server in site.servers:  # whichever of them runs it
            server.kill9()
        kept = [row[0] for row in site.rows(saved, id=job)]
        before = dict(upstream.stats["by_step"])
        site.servers.pop(0)
        site.start_again(0)
        done = site.wait_for(person, job, "done")
        assert done["attempts"] == 2
        assert site.plans(person) == site.charged(person) == 1
        again = {
            step.partition("/")[0]
            for step, count in upstream.stats["by_step"].items()
            if count > before.get(step, 0)
        }
        assert not again & set(kept), "a section that was saved was paid for twice"
        assert site.broken() == []


def test_a_run_that_outlives_its_job_saves_no_section(db_url: str) -> None:
    """As a write that was under way when the job was cancelled, and reaches the database late."""

    async def nothing(job: RunningJob) -> None:
        pass

    async def main() -> tuple[bool, dict[str, Any] | None]:
        queue = JobQueue("plans", [Kind("plan", nothing)])
        async with AsyncStore(db_url) as store:
            await store.create_all(PlannerBase.metadata)
            await store.write(enqueue, queue, "plan", user="ann", payload={})
            (one,) = await store.write(claim, queue, 1)
            sections = Sections(store, one.job.id, one.token)
            await sections.put("summary", {"text": "in time"})
            in_time = await sections.get("summary") is not None
            await store.write(stop, queue, one.job.id, one.token)
            with pytest.raises(LeaseLost):
                await sections.put("market", {"text": "late"})
            return in_time, await sections.get("market")

    assert asyncio.run(main()) == (True, None)


@contextmanager
def asking(site: Site, people: list[Person], rng: random.Random) -> Iterator[list[int]]:
    """A crowd that asks, asks the same again, and cancels, for the length of a block."""
    stop = threading.Event()
    seen: list[int] = []
    bodies = [idea(f"The same thing for everybody, number {n}") for n in range(4)]

    def work(chance: random.Random) -> None:
        with httpx.Client(timeout=STEP_S_MAX) as client:
            while not stop.is_set():
                person = chance.choice(people)
                body = chance.choice([*bodies, idea(), idea(audience="public")])
                server = chance.randrange(2)
                ask = Ask(person, body=body, headers=chance.choice([ASYNC, {}]))
                try:
                    method, url, rest = site.request(ask, server)
                    answer = client.request(method, url, **rest)
                    seen.append(answer.status_code)
                    if answer.status_code == 202 and chance.random() < 0.3:
                        cancel = Ask(person, "DELETE", f"/jobs/{answer.json()['job_id']}")
                        method, url, rest = site.request(cancel, server)
                        client.request(method, url, **rest)
                except httpx.TransportError:
                    time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(random.Random(rng.random()),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * STEP_S_MAX)
            assert not thread.is_alive(), "a request neither was answered nor failed"


def kill_and_check(site: Site, upstream: LiveUpstream, rng: random.Random, kills: int) -> None:
    for kill in range(kills):
        upstream.behave(latency_s=rng.choice([0.002, 0.02]), rate_5xx=rng.choice([0.0, 0.02]))
        people = [site.person(rng.choice(["free", "pro", "pro_plus"])) for _ in range(5)]
        victim = rng.randrange(2)
        with asking(site, people, rng) as seen:
            time.sleep(rng.uniform(0.3, 1.5))
            site.servers[victim].kill9()
            time.sleep(rng.uniform(0.0, 0.3))
        assert set(seen) <= {200, 202, 409, 429}, seen
        assert site.broken() == [], f"after kill {kill + 1}"
        site.start_again(victim)
        site.quiet(60)
        assert site.broken() == [], f"after kill {kill + 1} and the restart"
        reserved = site.rows("SELECT key FROM crowdsafe_quotas WHERE reserved <> 0")
        assert reserved == [], "a unit is still reserved"


def test_plans_stored_are_units_charged_after_3_kills(
    db_url: str, tmp_path: Path, upstream: LiveUpstream, rng: random.Random
) -> None:
    with running_site(db_url, tmp_path, env=env_of(upstream)) as site:
        kill_and_check(site, upstream, rng, 3)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_plans_stored_are_units_charged_after_30_kills(
    db_url: str, tmp_path: Path, upstream: LiveUpstream, rng: random.Random
) -> None:
    with running_site(db_url, tmp_path, env=env_of(upstream)) as site:
        kill_and_check(site, upstream, rng, 30)
