"""Idempotency-Key over real HTTP: one effect, and every repeat gets the very same answer."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from tests.web.live import live
from tests.web.small import Base, bearer, client_of, make_app, sales, sell

from crowdsafe.store import AsyncStore, Store
from crowdsafe.web.fastapi import Services, StoreDep, idempotent_write, install
from crowdsafe.web.idempotency import fingerprint, json_text, scope_of


def count_sales(url: str) -> int:
    with Store(url) as store:
        return store.read(sales)


def test_twenty_at_once_on_two_servers_one_effect_twenty_equal_answers(db_url: str) -> None:
    async def run(first: str, second: str) -> None:
        async with (
            httpx.AsyncClient(base_url=first, timeout=30) as one,
            httpx.AsyncClient(base_url=second, timeout=30) as two,
        ):
            headers = {**await bearer(one), "Idempotency-Key": "4d0c"}
            answers = await asyncio.gather(
                *(
                    client.post("/sales", json={"product": "core"}, headers=headers)
                    for client in (one, two) * 10
                )
            )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert {answer.headers["etag"] for answer in answers} == {'"1"'}
        replayed = [a for a in answers if a.headers.get("idempotency-replayed") == "true"]
        assert len(replayed) == 19

    with live(make_app(db_url)) as first, live(make_app(db_url, users=False)) as second:
        asyncio.run(run(first, second))
    assert count_sales(db_url) == 1


def test_whose_key_it_is_and_what_it_was_used_for(db_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(db_url)) as client:
            key = {"Idempotency-Key": "k"}
            mara = {**await bearer(client, "sales"), **key}
            other = {**await bearer(client, "admin"), **key}
            first = await client.post("/sales", json={"product": "core"}, headers=mara)
            # Another user, or another address, under the same key: something new.
            second = await client.post("/sales", json={"product": "core"}, headers=other)
            third = await client.post("/elsewhere/1", json={"product": "core"}, headers=mara)
            fourth = await client.post("/elsewhere/2", json={"product": "core"}, headers=mara)
            ids = [answer.json()["id"] for answer in (first, second, third, fourth)]
            assert ids == [1, 2, 3, 4]
            assert second.json()["by"] == "admin"
            # Another request under the same key: refused, and nothing happens.
            changed = await client.post("/sales", json={"product": "tube"}, headers=mara)
            assert changed.status_code == 422
            assert changed.json()["type"] == "/problems/idempotency-key-reused"
            # The same request, written in another way: the stored answer.
            again = await client.post(
                "/sales",
                content='{"product":    "core"}',
                headers={**mara, "content-type": "application/json"},
            )
            assert again.content == first.content
            assert again.headers["idempotency-replayed"] == "true"

    asyncio.run(run())
    assert count_sales(db_url) == 4


def test_a_refusal_is_not_stored(db_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(db_url)) as client:
            headers = {**await bearer(client), "Idempotency-Key": "k"}
            for _ in range(2):
                refused = await client.post("/sales", json={"product": "nothing"}, headers=headers)
                assert refused.status_code == 400
                assert "idempotency-replayed" not in refused.headers
            # Nothing was stored, so the key is still free.
            made = await client.post("/sales", json={"product": "core"}, headers=headers)
            assert made.status_code == 201

    asyncio.run(run())


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "tab\tkey", "kä"])
def test_an_unusable_key_is_refused(sqlite_url: str, key: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            headers = httpx.Headers(
                [
                    *(await bearer(client)).items(),
                    ("Idempotency-Key", key),
                ],
                encoding="utf-8",
            )
            answer = await client.post("/sales", json={"product": "core"}, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["type"] == "/problems/invalid-idempotency-key"

    asyncio.run(run())
    assert count_sales(sqlite_url) == 0


def test_the_longest_key_and_a_long_address(db_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(db_url)) as client:
            headers = {**await bearer(client), "Idempotency-Key": "~" * 255}
            path = "/elsewhere/" + "0" * 1000 + "7"
            first = await client.post(path, json={"product": "core"}, headers=headers)
            second = await client.post(path, json={"product": "core"}, headers=headers)
            assert first.status_code == second.status_code == 200
            assert first.content == second.content

    asyncio.run(run())
    assert count_sales(db_url) == 1


def test_without_a_key_every_request_counts(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            headers = await bearer(client)
            for number in (1, 2):
                answer = await client.post("/sales", json={"product": "core"}, headers=headers)
                assert answer.json()["id"] == number

    asyncio.run(run())


def test_the_commit_comes_before_the_answer(db_url: str) -> None:
    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            headers = await bearer(client)
            with Store(db_url) as other:
                for number in range(1, 21):
                    await client.post("/sales", json={"product": "core"}, headers=headers)
                    assert other.read(sales) == number

    with live(make_app(db_url)) as url:
        asyncio.run(run(url))


def test_fingerprint_and_scope() -> None:
    a = fingerprint("POST", "/x", "", b'{"a": 1, "b": 2}')
    assert a == fingerprint("POST", "/x", "", b'{"b":2,"a":1}')
    assert a != fingerprint("POST", "/x", "", b'{"b":2,"a":2}')
    assert fingerprint("POST", "/x", "", b"\xff") != fingerprint("POST", "/x", "", b"\xfe")
    for other in (("PUT", "/x", ""), ("POST", "/y", ""), ("POST", "/x", "a=1")):
        assert a != fingerprint(*other, b'{"a": 1, "b": 2}')
    assert scope_of("user:1", "POST", "/" + "a" * 5000) != scope_of(
        "user:1", "POST", "/" + "a" * 4999
    )
    assert len(scope_of("user:9007199254740992", "OPTIONS", "/" + "ä" * 5000)) <= 200


def test_answers_hold_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text({"price": float("nan")})
    with pytest.raises(TypeError, match="object is not JSON-able: give plain data"):
        json_text({"thing": object()})


def test_an_application_without_services_says_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    @app.get("/")
    async def page(store: StoreDep) -> None: ...

    install(app)

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.get("/")).status_code == 503

    asyncio.run(run())
    assert "give install() the Services" in caplog.text


def test_an_application_with_logins_of_its_own_says_whose_key_it_is(sqlite_url: str) -> None:
    def application(store: AsyncStore) -> FastAPI:
        app = FastAPI()

        @app.post("/sales")
        async def post_sale(request: Request, store: StoreDep) -> Response:
            whose = f"user:{request.headers['x-user']}"
            return await idempotent_write(store, request, whose, sell, product="core", by=whose)

        install(app, Services(store))
        return app

    async def run() -> None:
        async with AsyncStore(sqlite_url) as store:
            await store.create_all(Base.metadata)
            async with client_of(application(store)) as client:
                asked = [
                    await client.post("/sales", headers={"Idempotency-Key": "k", "X-User": user})
                    for user in ("mara", "mara", "otto")
                ]
        assert [answer.json()["id"] for answer in asked] == [1, 1, 2]
        assert [answer.json()["by"] for answer in asked] == ["user:mara"] * 2 + ["user:otto"]

    asyncio.run(run())
