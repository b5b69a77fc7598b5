"""Every failure is a problem: known errors, bad input, wrong addresses, crashes, late answers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from tests.web.small import bearer, client_of, make_app

from crowdsafe.web.fastapi import Limits
from crowdsafe.web.limits import Guard


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The body, after checking that it is the problem that was expected."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.text, parse_constant=refuse)
    assert body["type"] == (slug if slug.startswith("about:") else f"/problems/{slug}")
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    assert len(answer.text) < 20_000
    return body


def test_business_refusal_wrong_address_wrong_method(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            who = await bearer(client)
            refused = await client.post("/sales", json={"product": "nothing"}, headers=who)
            assert problem(refused, 400, "insufficient")["available"] == 0
            problem(await client.get("/nowhere"), 404, "not-found")
            wrong = await client.delete("/sales")
            problem(wrong, 405, "method-not-allowed")
            assert wrong.headers["allow"] == "POST"
            teapot = problem(await client.get("/teapot"), 418, "about:blank")
            assert teapot["detail"] == "short and stout"
            head = await client.head("/nowhere")
            assert (head.status_code, head.content) == (404, b"")

    asyncio.run(run())


@pytest.mark.parametrize(
    "content",
    [
        '{"product": "core", "price": NaN}',
        '{"product": "core", "price": Infinity}',
        '{"product": "core", "price": -Infinity}',
        '{"product": "core", "price": 1e999}',
        '{"product": "core", "quantity": NaN}',
        '{"product": "a\\u0000b"}',
        '{"product": "core", "quantity": 0}',
        '{"product": "core", "quantity": -5}',
        '{"product": "core", "quantity": 1000000000000}',
        '{"product": "core", "quantity": "many"}',
        '{"product": "core", "quantity": 1.5}',
        "{}",
        "[]",
        "null",
        '{"product": "core", "colour": "red"}',
        '{"product": "\\ud800"}',
        '{"product": ',
    ],
)
def test_bad_input_is_422_and_stores_nothing(sqlite_url: str, content: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            who = await bearer(client)
            headers = {**who, "content-type": "application/json"}
            body = problem(
                await client.post("/sales", content=content, headers=headers),
                422,
                "invalid-input",
            )
            assert body["field"]
            after = await client.post("/sales", json={"product": "core"}, headers=who)
            assert after.json()["id"] == 1, "something was stored"

    asyncio.run(run())


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 100_000, b'{"quantity": ' + b"9" * 5000])
def test_an_unreadable_body_is_a_clear_4xx(sqlite_url: str, content: bytes) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            headers = {**await bearer(client), "content-type": "application/json"}
            answer = await client.post("/sales", content=content, headers=headers)
            assert answer.status_code in (400, 422)
            slug = {400: "unreadable-body", 422: "invalid-input"}[answer.status_code]
            problem(answer, answer.status_code, slug)

    asyncio.run(run())


def test_each_wrong_field_is_named_and_no_input_is_echoed(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            who = await bearer(client)
            huge = {"product": "x" * 100_000, "quantity": -1, "y" * 50_000: 1}
            answer = await client.post("/sales", json=huge, headers=who)
            errors = problem(answer, 422, "invalid-input")["errors"]
            assert {each["field"] for each in errors} >= {"product", "quantity"}
            assert "xxxx" not in answer.text
            assert len(answer.text) < 2000
            many = {f"field{number}": 1 for number in range(5000)}
            answer = await client.post("/sales", json=many, headers=who)
            assert len(problem(answer, 422, "invalid-input")["errors"]) == 20

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "kind", "fix"),
    [
        ('{"product": }', "application/json", "not well-formed JSON, at character 12"),
        ("[]", "application/json", "send a JSON object"),
        ('{"product": "x"}', "text/plain", "Content-Type application/json"),
    ],
    ids=["broken", "list", "plain"],
)
def test_a_body_of_another_kind_is_told_what_to_send(
    sqlite_url: str, content: str, kind: str, fix: str
) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            headers = {**await bearer(client), "content-type": kind}
            answer = await client.post("/sales", content=content, headers=headers)
            body = problem(answer, 422, "invalid-input")
            assert body["field"] == "body"
            assert fix in body["detail"]

    asyncio.run(run())


def test_a_body_without_its_content_type_is_refused(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            headers = {**await bearer(client), "content-type": "text/plain"}
            answer = await client.post("/sales", content='{"product": "x"}', headers=headers)
            problem(answer, 422, "invalid-input")

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/slow?seconds=%00", "/sales/1%00", "/slow?" + "a" * 9000])
def test_an_address_that_no_database_can_store(sqlite_url: str, path: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            problem(await client.get(path), 422, "invalid-input")

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/broken", "/misuse"])
def test_a_crash_says_nothing_but_an_id_and_is_logged(
    sqlite_url: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            with caplog.at_level(logging.ERROR, "crowdsafe.web"):
                answer = await client.get(path)
            body = problem(answer, 500, "internal-error")
            assert "hunter2" not in answer.text
            assert "commit" not in answer.text
            assert body["error_id"] in caplog.text
            assert "Traceback" in caplog.text
            assert answer.headers["x-content-type-options"] == "nosniff"

    asyncio.run(run())


def test_every_answer_carries_the_security_headers(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            for path in ("/nowhere", "/slow?seconds=0", "/problems", "/sales"):
                headers = (await client.get(path)).headers
                policy = headers["content-security-policy"]
                assert "script-src 'self'" in policy
                assert "frame-ancestors 'none'" in policy
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["referrer-policy"] == "same-origin"

    asyncio.run(run())


def test_a_late_answer_ends_at_the_deadline(sqlite_url: str) -> None:
    async def run() -> None:
        limits = Limits(deadline_s=0.2)
        async with client_of(make_app(sqlite_url, limits=limits)) as client:
            late = await client.get("/slow?seconds=5")
            problem(late, 503, "deadline-exceeded")
            assert int(late.headers["retry-after"]) >= 1
            # Nobody can say whether a change that was cut off has happened.
            problem(await client.post("/slow?seconds=5"), 503, "outcome-unknown")
            assert (await client.get("/slow?seconds=0.05")).status_code == 200

    asyncio.run(run())


def test_a_stream_may_go_on_after_the_deadline(sqlite_url: str) -> None:
    async def run() -> None:
        limits = Limits(deadline_s=0.2)
        async with client_of(make_app(sqlite_url, limits=limits)) as client:
            answer = await client.get("/stream?seconds=0.6")
            assert answer.text.endswith("data: end\n\n")

    asyncio.run(run())


def test_more_requests_at_once_than_the_limit_are_turned_away(sqlite_url: str) -> None:
    async def run() -> None:
        limits = Limits(requests_max=3)
        async with client_of(make_app(sqlite_url, limits=limits)) as client:
            calls = [client.get("/slow?seconds=0.3") for _ in range(8)]
            answers = await asyncio.gather(*calls)
            served = [answer for answer in answers if answer.status_code == 200]
            assert len(served) == 3
            for answer in answers:
                if answer not in served:
                    problem(answer, 503, "overloaded")
                    assert answer.headers["retry-after"] == "1"
            assert (await client.get("/slow?seconds=0")).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(("media", "status"), [("text/event-stream", 200), ("text/csv", 503)])
def test_a_stream_that_has_begun_takes_no_place(media: str, status: int) -> None:
    async def run() -> None:
        begun, end = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            headers = [(b"content-type", media.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if not begun.is_set():
                begun.set()
                await end.wait()
            await send({"type": "http.response.body", "body": b""})

        async def nothing(*_: Any) -> Any:
            return {"type": "http.disconnect"}

        async def told(message: Any) -> None:
            statuses.append(message.get("status"))

        statuses: list[int | None] = []
        guard = Guard(app, Limits(requests_max=1))
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        stream = asyncio.create_task(guard(scope, nothing, nothing))
        await begun.wait()
        await guard(scope, nothing, told)
        assert statuses[0] == status
        end.set()
        await stream

    asyncio.run(run())


@pytest.mark.parametrize("header", ["7", 'W/"7"', '"x"', '"7", "8"'])
def test_a_broken_etag(sqlite_url: str, header: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            answer = await client.put("/sales/1", headers={"If-Match": header})
            assert "If-Match" in problem(answer, 400, "invalid-etag")["detail"]
            problem(await client.put("/sales/1"), 428, "precondition-required")
            good = await client.put("/sales/1", headers={"If-Match": '"7"'})
            assert good.json()["version"] == 7

    asyncio.run(run())


def test_the_address_of_a_problem_type_says_what_to_do(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            page = await client.get("/problems/insufficient", headers={"accept": "text/html"})
            assert page.headers["content-type"].startswith("text/html")
            assert "ask for at most" in page.text
            assert '<html lang="en">' in page.text
            plain = await client.get("/problems/insufficient")
            assert plain.headers["content-type"].startswith("text/plain")
            assert "ask for at most" in plain.text
            assert "/problems/too-many" in (await client.get("/problems")).text
            problem(await client.get("/problems/nothing-like-it"), 404, "not-found")

    asyncio.run(run())


def test_the_documentation_names_the_problems(sqlite_url: str) -> None:
    document = make_app(sqlite_url).openapi()
    assert document["components"]["schemas"]["Problem"]["required"]
