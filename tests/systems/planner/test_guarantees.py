"""The planner's guarantees by their number, over HTTP on two server processes.

Each test runs on SQLite and on PostgreSQL, and in the end the database is checked by plain SQL.
Crashes (parts of 2, 3 and 4) are in test_crash.py, payments (7) in test_payments.py.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.systems.planner.conftest import TIGHT
from tests.systems.planner.site import (
    Ask,
    Person,
    Site,
    idea,
    running_site,
    statuses,
    until,
)
from tests.systems.planner.upstream import LiveUpstream

WAIT = {"Prefer": "wait=25"}
ASYNC = {"Prefer": "respond-async"}


# 1. The same request 100 times at once -> one generation, one row, 100 identical answers.


def test_1_a_hundred_identical_requests_are_one_plan(site: Site, upstream: LiveUpstream) -> None:
    person = site.person()
    answers = site.at_once([Ask(person, body=idea("Kites for grown-ups"), headers=WAIT)] * 100)
    assert statuses(answers) == {200: 100}, [a.text for a in answers if a.status_code != 200]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["source"] == "upstream"
    assert site.plans(person) == site.charged(person) == 1
    assert upstream.generations() == 1
    again = site.ask(person, idea("  kites FOR   grown-ups "))
    assert again.text == answers[0].text
    assert upstream.generations() == 1


def test_1_two_users_never_share_a_private_plan(site: Site, upstream: LiveUpstream) -> None:
    one, two = site.person(), site.person()
    body = idea("Umbrellas that fold themselves")
    asks = [Ask(person, body=body, headers=WAIT) for person in (one, two) * 10]
    answers = site.at_once(asks)
    assert statuses(answers) == {200: 20}
    mine = {answer.text for answer in answers[::2]}
    theirs = {answer.text for answer in answers[1::2]}
    assert len(mine) == len(theirs) == 1
    assert mine != theirs
    assert upstream.generations() == 2
    plan_id = answers[0].json()["plan_id"]
    assert site.send(one, "GET", f"/plans/{plan_id}").status_code == 200
    assert site.send(two, "GET", f"/plans/{plan_id}").status_code == 404


def test_1_a_public_plan_is_shared_and_paid_once(site: Site, upstream: LiveUpstream) -> None:
    people = [site.person() for _ in range(10)]
    body = idea("Hats for cyclists", audience="public")
    answers = site.at_once([Ask(person, body=body, headers=WAIT) for person in people * 4])
    assert statuses(answers) == {200: 40}
    assert len({answer.text for answer in answers}) == 1
    assert upstream.generations() == 1
    assert sum(site.plans(person) for person in people) == 1
    assert sum(site.charged(person) for person in people) == 1


def test_1_an_idempotency_key_is_one_job_and_one_body(site: Site) -> None:
    person = site.person("pro")
    body = idea()
    keyed = {**WAIT, "Idempotency-Key": "k-1"}
    answers = site.at_once([Ask(person, body=body, headers=keyed)] * 20)
    assert statuses(answers) == {200: 20}
    assert len({answer.text for answer in answers}) == 1
    other = site.ask(person, idea(), headers=keyed)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert site.plans(person) == 1


# 2. A free user, 50 different ideas at once -> exactly one plan. A failure refunds.


def test_2_fifty_ideas_of_a_free_user_are_one_plan(site: Site, upstream: LiveUpstream) -> None:
    person = site.person()
    answers = site.at_once([Ask(person, body=idea(), headers=WAIT) for _ in range(50)])
    assert statuses(answers) == {200: 1, 429: 49}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["type"] for answer in refused} == {"/problems/quota-exceeded"}
    for answer in refused:
        assert answer.json()["limit"] == 1
        assert answer.json()["resets_at"]
        assert 0 < int(answer.headers["Retry-After"]) <= 86_400
    assert site.plans(person) == site.charged(person) == 1
    assert upstream.generations() == 1
    quota = site.get(person, "/profile")["quota"]
    assert (quota["used"], quota["reserved"], quota["left"]) == (1, 0, 0)


def test_2_a_pro_user_gets_five_and_pro_plus_as_many_as_they_like(site: Site) -> None:
    pro, plus = site.person("pro"), site.person("pro_plus")
    asks = [Ask(pro, body=idea(), headers=ASYNC) for _ in range(12)]
    asks += [Ask(plus, body=idea(), headers=ASYNC) for _ in range(12)]
    answers = site.at_once(asks)
    assert statuses(answers[:12]) == {202: 5, 429: 7}
    assert statuses(answers[12:]) == {202: 12}
    site.quiet()
    assert site.plans(pro) == 5
    assert site.get(plus, "/profile")["quota"]["left"] is None


def test_2_a_cancelled_job_gives_its_unit_back(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=5.0)
    person = site.person()
    job = site.queued(person)
    assert site.ask(person).status_code == 429
    assert site.send(person, "DELETE", f"/jobs/{job}").status_code == 200
    site.wait_for(person, job, "cancelled")
    upstream.reset()
    assert site.ask(person, headers=WAIT).status_code == 200
    assert site.plans(person) == site.charged(person) == 1


def test_2_a_failed_generation_gives_its_unit_back(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(api_key="a key that the planner does not have")
    person = site.person()
    answer = site.ask(person, headers=WAIT)
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "/problems/generation-failed"
    assert (site.plans(person), site.charged(person)) == (0, 0)
    upstream.reset()
    assert site.ask(person, headers=WAIT).status_code == 200
    assert site.plans(person) == site.charged(person) == 1


# 3. At most two running for a user and N over all; fair.


def _running(site: Site) -> Counter[str]:
    found = site.rows("SELECT user_key, COUNT(*) FROM crowdsafe_jobs WHERE state = 'running' "
                      "GROUP BY user_key")  # fmt: skip
    return Counter({str(user): int(count) for user, count in found})


def test_3_never_more_than_the_limits_run(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=2.0)  # until so many run at once
    people = [site.person("pro_plus") for _ in range(6)]
    asks = [Ask(person, body=idea(), headers=ASYNC) for person in people for _ in range(5)]
    assert statuses(site.at_once(asks)) == {202: 30}
    until(lambda: _running(site).total() >= 6, 30, "six do not run at once")
    upstream.behave(latency_s=0.05)
    most_of_all = most_of_one = 0
    end = time.monotonic() + 80
    while site.active():
        running = _running(site)
        most_of_all = max(most_of_all, running.total())
        most_of_one = max(most_of_one, *running.values(), 0)
        assert time.monotonic() < end, "the jobs do not end"
    assert most_of_one == 2
    assert 6 <= most_of_all <= 8
    assert upstream.stats["running_max"] <= 8 * 3


def jain(shares: list[int]) -> float:
    """Jain's fairness index: 1 when all shares are equal, 1/n when one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_3_equal_users_get_equal_shares_whoever_floods(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=0.5)  # until all have asked
    flood = site.person("pro_plus")
    people = [site.person("pro_plus") for _ in range(6)]
    asks = [Ask(flood, body=idea(), headers=ASYNC) for _ in range(100)]
    assert statuses(site.at_once(asks)) == {202: 100}
    newcomer = site.ask(site.person(), headers=ASYNC).json()
    assert newcomer["position"] <= 1, "a flood puts another's job off by one turn at most"
    asks = [Ask(person, body=idea(), headers=ASYNC) for _ in range(6) for person in people]
    assert statuses(site.at_once(asks)) == {202: 36}
    upstream.behave(latency_s=0.03)
    until(lambda: max(_begun(site, people)) == 6, 60, "nobody's jobs have all begun")
    begun = _begun(site, people)
    assert jain(begun) >= 0.95, begun
    assert _begun(site, [flood])[0] < 60, "the others waited for the flood"


def _begun(site: Site, people: list[Person]) -> list[int]:
    """How many jobs of each have begun."""
    found = dict(
        site.rows(
            "SELECT user_key, COUNT(*) FROM crowdsafe_jobs WHERE started_at IS NOT NULL "
            "GROUP BY user_key"
        )
    )
    return [int(found.get(str(person.id), 0)) for person in people]


# 4. A 202 says where the job stands. (That it is durable: test_crash.py.)


def test_4_a_202_has_a_place_progress_and_an_end(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=0.2)
    person = site.person("pro")
    answer = site.ask(person, headers=ASYNC)
    assert answer.status_code == 202
    said = answer.json()
    assert answer.headers["Location"] == said["status_url"] == f"/planner/api/jobs/{said['job_id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert said["position"] == 0
    with site.following(person, said["job_id"]) as events:
        seen: list[dict[str, Any]] = []
        for event in events:
            seen.append(event)
            if event["data"]["state"] == "done":
                break
    assert {event["event"] for event in seen} == {"job.changed"}
    assert any(0 < event["data"]["progress"].get("done", 0) < 7 for event in seen)
    plan_id = seen[-1]["data"]["plan_id"]
    job = site.get(person, f"/jobs/{said['job_id']}")
    assert (job["state"], job["plan_id"], job["attempts"]) == ("done", plan_id, 1)
    assert site.get(person, f"/plans/{plan_id}")["source"] == "upstream"
    with site.following(person, said["job_id"], int(seen[0]["id"])) as events:
        assert next(events)["id"] == seen[1]["id"], "a stream resumes without a loss"


def test_4_positions_are_honest_and_a_full_queue_says_503(
    tight_site: Site, upstream: LiveUpstream
) -> None:
    site = tight_site
    upstream.behave(latency_s=20.0)
    first, second, third = (site.person("pro_plus") for _ in range(3))
    for _ in range(2):
        site.queued(first)
    until(lambda: _running(site).total() == 2, 15, "two do not run")
    answers = [site.ask(first, headers=ASYNC).json() for _ in range(3)]
    assert [answer["position"] for answer in answers] == [0, 1, 2]
    waits = [answer["estimated_wait_s"] for answer in answers]
    assert waits == sorted(waits)
    assert waits[0] > 0
    refused = site.ask(first)
    assert refused.status_code == 429
    assert (refused.json()["type"], refused.json()["limit"]) == ("/problems/too-many-queued", 3)
    assert site.ask(second, headers=ASYNC).json()["position"] <= 1
    late = site.ask(second)
    assert late.status_code == 202, "who is not next is not kept waiting"
    assert late.json()["position"] >= 1
    site.queued(third)
    full = site.ask(third)
    assert (full.status_code, full.json()["type"]) == (503, "/problems/queue-full")
    assert int(full.headers["Retry-After"]) >= 1
    assert site.get(third, "/profile")["quota"]["reserved"] == 1
    view = site.get(site.person(roles=["admin"]), "/queue")
    assert (view["queued"], view["running"]) == (6, 2)
    assert first.username in [user["username"] for user in view["users"]]
    assert site.send(first, "GET", "/queue").status_code == 403


# 5. An outage opens the breaker; plans are made offline, marked; it comes back by itself.


def test_5_an_outage_gives_marked_offline_plans_and_ends_by_itself(
    tight_site: Site, upstream: LiveUpstream
) -> None:
    site = tight_site
    person, admin = site.person("pro_plus"), site.person(roles=["admin"])
    assert site.ask(person, headers=WAIT).json()["source"] == "upstream"
    upstream.behave(outage=True)
    answers = site.at_once([Ask(person, body=idea(), headers=WAIT) for _ in range(3)])
    assert statuses(answers) == {200: 3}, answers[0].text
    assert {answer.json()["source"] for answer in answers} == {"offline"}
    assert site.get(admin, "/queue")["breaker"]["state"] in ("open", "half-open")
    calls = upstream.stats["calls"]
    for _ in range(3):
        assert site.ask(person, headers=WAIT).json()["source"] == "offline"
    assert upstream.stats["calls"] - calls <= 3, "an open breaker asks with a probe only"
    assert site.plans(person) == site.charged(person) == 7
    upstream.behave(outage=False)
    _back(site, person)
    upstream.behave(rate_429=0.2, retry_after_s=0, rate_5xx=0.05, seed=5)
    answers = site.at_once([Ask(person, body=idea(), headers=WAIT) for _ in range(3)])
    assert statuses(answers) == {200: 3}, answers[0].text
    upstream.reset()
    _back(site, person)


def _back(site: Site, person: Person) -> None:
    """Wait until the upstream writes plans again."""

    def back() -> bool:
        return bool(site.ask(person, headers=WAIT).json()["source"] == "upstream")

    until(back, 40, "the upstream is not asked again")


# 6. The IP limiter.


def test_6_the_address_limit_holds_over_processes_behind_a_trusted_proxy(tight_site: Site) -> None:
    _check_addresses(tight_site)


def test_6_forwarded_for_does_not_count_where_no_proxy_is_trusted(site: Site) -> None:
    person, body = site.person(), idea()

    def spent() -> int:
        """How many more requests three of them cost; other tests' leave the window meanwhile."""
        left = []
        for address in ("203.0.113.1", "198.51.100.7", "2001:db8::1"):
            answer = site.ask(person, body, headers={**WAIT, "X-Forwarded-For": address})
            assert answer.status_code == 200
            left.append(int(answer.headers["RateLimit"].split("r=")[1].split(";")[0]))
        return left[0] - left[2]

    until(lambda: spent() == 2, 70, "the three do not count for the connection's own address")


@pytest.mark.postgres
def test_6_the_address_limit_holds_in_valkey(
    pg_url: str, valkey_url: str, tmp_path: Path, upstream: LiveUpstream
) -> None:
    env = {**TIGHT, "CROWDSAFE_PLANNER_UPSTREAM_URL": upstream.base_url}
    with running_site(pg_url, tmp_path, env=env, args=["--valkey", valkey_url]) as site:
        _check_addresses(site)
        site.behind_proxy = True
        person = site.person()
        answers = site.at_once([Ask(person, body=idea("Lamps of paper"), headers=WAIT)] * 20)
        assert statuses(answers) == {200: 20}
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].json()["source"] == "upstream"
        assert site.broken() == []


def _check_addresses(site: Site) -> None:
    """Without a login: the count comes first, then the login is asked for."""

    def answers(address: str, many: int) -> dict[int, int]:
        headers = {"X-Forwarded-For": address}
        return statuses(site.at_once([Ask(None, body=idea(), headers=headers)] * many))

    assert answers("203.0.113.1", 50) == {401: 20, 429: 30}
    assert answers("203.0.113.2", 30) == {401: 20, 429: 10}
    assert answers("9.9.9.9, 203.0.113.1", 5) == {429: 5}, "what a client adds itself counts not"
    refused = site.send(None, "POST", "/plans", idea(), headers={"X-Forwarded-For": "203.0.113.1"})
    assert refused.json()["type"] == "/problems/rate-limited"
    assert int(refused.headers["Retry-After"]) >= 1
    assert "RateLimit" in refused.headers
    assert site.send(None, "GET", "/plans").status_code == 401, "reading is not counted"


# 8. A small crowd, all served. (The table is in docs/BENCHMARKS.md.)


def test_8_thirty_users_at_once_all_get_their_plan(site: Site, upstream: LiveUpstream) -> None:
    people = [site.person() for _ in range(30)]
    answers = site.at_once([Ask(person, body=idea(), headers=WAIT) for person in people])
    assert set(statuses(answers)) <= {200, 202}, statuses(answers)
    site.quiet(60)
    assert [site.plans(person) for person in people] == [1] * 30
    assert upstream.generations() == 30
