"""What the planner refuses, and what a request leaves behind that is cancelled or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from tests.systems.planner.site import API, Ask, Site, idea, statuses, until
from tests.systems.planner.upstream import LiveUpstream

ASYNC = {"Prefer": "respond-async"}
WAIT = {"Prefer": "wait=25"}


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": -1},
        {"budget": "-5k"},
        {"budget": None},
        {"idea": "too short"},
        {"idea": " " * 50},
        {"idea": "x" * 4001},
        {"idea": "a \ud800 half of a character"},
        {"location": ""},
        {"currency": "XXX"},
        {"timeline": "never"},
        {"audience": "everyone"},
        {"personalization": {"a": {"b": "c"}}},
        {"surprise": True},
    ],
    ids=str,
)
def test_a_bad_request_is_422_and_costs_nothing(site: Site, changes: dict[str, Any]) -> None:
    person = site.person()
    raw = json.dumps({**idea(), **changes}).encode()
    address = f"{site.servers[0].base_url}{API}/plans"
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
    answer = site.client.post(address, content=raw, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if "\ud800" not in changes.get("idea", ""):  # that is refused before any route
        _check_rate_headers(answer)
    quota = site.get(person, "/profile")["quota"]
    assert (quota["used"], quota["reserved"]) == (0, 0)


def test_a_body_that_is_no_json_is_counted_and_told_so(site: Site) -> None:
    person = site.person()
    address = f"{site.servers[0].base_url}{API}/plans"
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
    answer = site.client.post(address, content=b'{"idea": ', headers=headers)
    assert answer.status_code in (400, 422), answer.text
    _check_rate_headers(answer)
    _check_rate_headers(site.send(None, "POST", "/plans", idea()))
    assert "RateLimit" not in site.send(person, "GET", "/plans").headers


def _check_rate_headers(answer: httpx.Response) -> None:
    assert answer.headers.get_list("RateLimit-Policy") == ['"planner-address";q=1200;w=60']
    assert answer.headers["RateLimit"].startswith('"planner-address";r=')


def test_a_megabyte_of_idea_is_refused_by_its_size(site: Site) -> None:
    person = site.person()
    answer = site.ask(person, idea("x" * 1_000_000))
    assert answer.status_code == 413
    answer = site.ask(person, idea("word " * 190_000))
    assert answer.status_code == 422
    assert len(answer.content) < 2000, "what was sent is not sent back"


def test_nothing_is_told_without_a_login(site: Site) -> None:
    asks = [
        Ask(None, method, path, body)
        for method, path, body in (
            ("POST", "/plans", idea()),
            ("GET", "/plans", None),
            ("GET", "/plans/1", None),
            ("GET", "/jobs/abc", None),
            ("GET", "/jobs/abc/events", None),
            ("DELETE", "/jobs/abc", None),
            ("GET", "/profile", None),
            ("GET", "/limits", None),
            ("GET", "/queue", None),
            ("GET", "/payments", None),
            ("POST", "/payments/e/assign", {"username": "mara"}),
        )
    ]
    assert statuses(site.at_once(asks)) == {401: len(asks)}


def test_another_users_job_and_plan_are_404(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=0.2)
    owner, other = site.person("pro"), site.person("pro")
    job = site.queued(owner)
    for method, path in (
        ("GET", f"/jobs/{job}"),
        ("GET", f"/jobs/{job}/events"),
        ("DELETE", f"/jobs/{job}"),
    ):
        refused = site.send(other, method, path)
        unknown = site.send(other, method, path.replace(job, "0" * 32))
        assert refused.status_code == unknown.status_code == 404
    plan_id = site.wait_for(owner, job, "done")["plan_id"]
    assert site.send(other, "GET", f"/plans/{plan_id}").status_code == 404
    assert site.get(other, "/plans")["items"] == []
    assert [plan["plan_id"] for plan in site.get(owner, "/plans")["items"]] == [plan_id]


def test_a_cancelled_job_in_mid_flight_stops_asking_and_frees_its_slot(
    site: Site, upstream: LiveUpstream
) -> None:
    upstream.behave(latency_s=30.0)
    person = site.person("pro")
    jobs = [site.queued(person) for _ in range(4)]
    until(lambda: upstream.stats["running"] > 0, 15, "nothing runs")
    for job in jobs:
        assert site.send(person, "DELETE", f"/jobs/{job}").status_code == 200
    for job in jobs:
        site.wait_for(person, job, "cancelled")
    until(lambda: upstream.stats["running"] == 0, 15, "calls go on for a cancelled job")
    assert site.get(person, "/profile")["quota"] | {"resets_at": 0, "resets_in_s": 0} == {
        "limit": 5, "used": 0, "reserved": 0, "left": 5, "resets_at": 0, "resets_in_s": 0
    }  # fmt: skip
    upstream.reset()
    assert site.ask(person, headers=WAIT).status_code == 200


def test_cancelling_twice_is_no_harm_and_too_late_is_told(site: Site) -> None:
    person = site.person()
    answer = site.ask(person, headers=WAIT)
    assert answer.status_code == 200
    job = site.rows(
        "SELECT public_id FROM crowdsafe_jobs WHERE user_key = :user", user=str(person.id)
    )[0][0]
    late = site.send(person, "DELETE", f"/jobs/{job}")
    assert (late.status_code, late.json()["type"]) == (409, "/problems/job-ended")
    assert late.json()["plan_id"] == answer.json()["plan_id"]


def test_requests_that_wait_are_told_when_their_job_is_cancelled(
    site: Site, upstream: LiveUpstream
) -> None:
    upstream.behave(latency_s=30.0)
    person, body = site.person(), idea()

    async def run() -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            made = [site.request(Ask(person, body=body, headers=WAIT), n % 2) for n in range(6)]
            asks = [asyncio.create_task(client.request(m, u, **rest)) for m, u, rest in made]
            await asyncio.sleep(1.0)
            job = site.get(person, "/jobs")[0]["job_id"]
            assert site.send(person, "DELETE", f"/jobs/{job}").status_code == 200
            return [answer.status_code for answer in await asyncio.gather(*asks)]

    assert asyncio.run(run()) == [409] * 6


def test_a_shared_job_goes_on_for_who_joined_it(site: Site, upstream: LiveUpstream) -> None:
    upstream.behave(latency_s=3.0)
    owner, guest = site.person(), site.person()
    body = idea(audience="public")
    job = site.queued(owner, body)
    assert site.send(guest, "GET", f"/jobs/{job}").status_code == 404, "not before asking for it"

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(timeout=40) as client:
            method, url, rest = site.request(Ask(guest, body=body, headers=WAIT))
            ask = asyncio.create_task(client.request(method, url, **rest))
            await asyncio.sleep(1.0)
            assert site.send(guest, "GET", f"/jobs/{job}").status_code == 200
            assert site.send(guest, "DELETE", f"/jobs/{job}").status_code == 404
            upstream.reset()
            kept = site.send(owner, "DELETE", f"/jobs/{job}")
            assert (kept.status_code, kept.json()["type"]) == (409, "/problems/job-shared")
            return await ask

    answer = asyncio.run(run())
    assert answer.status_code == 200
    assert (site.plans(owner), site.charged(owner)) == (1, 1)
    assert (site.plans(guest), site.charged(guest)) == (0, 0)
    plan_id, stranger = answer.json()["plan_id"], site.person()
    assert site.get(guest, f"/plans/{plan_id}") == site.get(owner, f"/plans/{plan_id}")
    assert site.send(stranger, "GET", f"/plans/{plan_id}").status_code == 404
    assert site.ask(stranger, body).text == answer.text
    assert site.send(stranger, "GET", f"/plans/{plan_id}").status_code == 200


def test_asking_again_for_what_one_just_cancelled_makes_it(
    site: Site, upstream: LiveUpstream
) -> None:
    upstream.behave(latency_s=30.0)
    person, body = site.person(), idea()
    job = site.queued(person, body)
    site.wait_for(person, job, "running")
    upstream.reset()
    assert site.send(person, "DELETE", f"/jobs/{job}").status_code == 200
    answer = site.ask(person, body, headers=WAIT)
    assert answer.status_code == 200, answer.text
    assert site.plans(person) == site.charged(person) == 1


def test_clients_that_disconnect_leave_nothing_behind(site: Site, upstream: LiveUpstream) -> None:
    """Their jobs go on: a plan that was asked for is there when they come back."""
    upstream.behave(latency_s=0.2)
    people = [site.person() for _ in range(6)]
    bodies = [idea() for _ in people]

    async def run() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            asks = []
            for person, body in zip(people, bodies, strict=True):
                method, url, rest = site.request(Ask(person, body=body, headers=WAIT))
                asks.append(asyncio.create_task(client.request(method, url, **rest)))
            await asyncio.sleep(0.7)
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)

    asyncio.run(run())
    for person in people:
        _half_a_request(site, person.token)
    site.quiet()
    for person, body in zip(people, bodies, strict=True):
        if site.plans(person):
            assert site.ask(person, body).status_code == 200
        assert site.plans(person) == site.charged(person) <= 1
    assert sum(site.plans(person) for person in people) >= 1


def _half_a_request(site: Site, token: str) -> None:
    """Begin a request and hang up in the middle of its body."""
    server = site.servers[0]
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), 5)) as line:
        line.sendall(
            f"POST {API}/plans HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"idea": '.encode()
        )


@pytest.mark.parametrize(
    "prefer", ["wait=99999999999999", "wait=-1", "wait=abc", ";;,,=", "x" * 500]
)
def test_an_odd_preference_is_no_harm(site: Site, prefer: str) -> None:
    assert site.ask(site.person(), headers={"Prefer": prefer}).status_code in (200, 202)
