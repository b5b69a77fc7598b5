"""Logins, tokens, roles and cookies over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from tests.web.small import PASSWORD, bearer, client_of, make_app

from crowdsafe.errors import NotAuthenticated
from crowdsafe.identity import Tokens, failed_logins, set_active, set_roles, signing_secret
from crowdsafe.identity import directory as directory_module
from crowdsafe.store import Store
from crowdsafe.traffic.rates import Rate
from crowdsafe.web.auth import COOKIE
from crowdsafe.web.client_address import TrustedProxies

SALE = {"product": "core"}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


def secret_of(url: str) -> str:
    with Store(url) as store:
        return store.write(signing_secret)


def refused(answer: httpx.Response, status: int, slug: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/problems/{slug}"


def test_login_gives_a_token_that_works(db_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(db_url)) as client:
            body = {"username": " Sales ", "password": PASSWORD}
            answer = await client.post("/auth/login", json=body)
            said = answer.json()
            assert said["token_type"] == "bearer"
            assert said["expires_in"] == 8 * 3600
            assert said["user"] == {
                "id": 2,
                "username": "sales",
                "name": "Sales",
                "roles": ["sales"],
            }
            assert "set-cookie" not in answer.headers
            who = {"Authorization": f"bearer {said['access_token']}"}
            assert (await client.get("/auth/me", headers=who)).json() == said["user"]
            assert (await client.post("/sales", json=SALE, headers=who)).status_code == 201

    asyncio.run(run())


def test_a_wrong_password_and_an_unknown_user_look_alike(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            answers = [
                await client.post("/auth/login", json={"username": name, "password": password})
                for name, password in (
                    ("sales", "wrong"),
                    ("sales", PASSWORD + "x"),
                    ("nobody", PASSWORD),
                    ("' OR 1=1 --", PASSWORD),
                )
            ]
            for answer in answers:
                refused(answer, 401, "not-authenticated")
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert len({answer.text for answer in answers}) == 1
            for bad in ({"username": "sales"}, {"username": "x" * 65, "password": "y"}, [], 7):
                refused(await client.post("/auth/login", json=bad), 422, "invalid-input")

    asyncio.run(run())


def test_a_guesser_has_to_wait_and_others_do_not(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed_logins, "RATE", Rate(1, 3600))
    wrong, right = ({"username": "sales", "password": word} for word in ("wrong", PASSWORD))

    async def run() -> None:
        app = make_app(sqlite_url)
        async with client_of(app) as client:
            refused(await client.post("/auth/login", json=wrong), 401, "not-authenticated")
            answer = await client.post(
                "/auth/login", json=right, headers={"X-Forwarded-For": "192.0.2.7"}
            )
            refused(answer, 429, "rate-limited")
            assert 3500 < int(answer.headers["retry-after"]) <= 3600
            others = httpx.ASGITransport(app, client=("192.0.2.7", 1))
            async with httpx.AsyncClient(transport=others, base_url="http://small") as other:
                assert (await other.post("/auth/login", json=right)).status_code == 200
            app.state.crowdsafe.trusted = TrustedProxies.parse(["127.0.0.1"])
            headers = {"X-Forwarded-For": "192.0.2.8"}
            answer = await client.post("/auth/login", json=right, headers=headers)
            assert answer.status_code == 200

    asyncio.run(run())


def test_roles(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            refused(await client.post("/sales", json=SALE), 401, "not-authenticated")
            manager = await client.post(
                "/sales", json=SALE, headers=await bearer(client, "manager")
            )
            refused(manager, 403, "forbidden")
            assert manager.json()["required"] == ["admin", "sales"]
            for name in ("sales", "admin"):
                answer = await client.post("/sales", json=SALE, headers=await bearer(client, name))
                assert answer.status_code == 201

    asyncio.run(run())


def forged(secret: str, header: dict[str, Any], **claims: Any) -> str:
    now = int(time.time())
    payload = {"iss": "crowdsafe", "sub": "2", "iat": now, "exp": now + 60, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(header, payload, OctKey.import_key(secret), algorithms=["HS256", "HS512"])


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_tokens_that_are_not_ours(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            secret = secret_of(sqlite_url)
            good = forged(secret, {"alg": "HS256"})
            head, body, signature = good.split(".")
            claims = {"iss": "crowdsafe", "sub": "1", "exp": int(time.time()) + 60}
            bad = {
                "tampered claims": f"{head}.{part(claims)}.{signature}",
                "tampered signature": f"{head}.{body}.{signature[:-4]}AAAA",
                "no signature": f"{head}.{body}.",
                "alg none": f"{part({'alg': 'none'})}.{part(claims)}.",
                "another algorithm": forged(secret, {"alg": "HS512"}),
                "another secret": forged("x" * 43, {"alg": "HS256"}),
                "another issuer": forged(secret, {"alg": "HS256"}, iss="somebody"),
                "no expiry": forged(secret, {"alg": "HS256"}, exp=None),
                "expiry as text": forged(secret, {"alg": "HS256"}, exp="9999999999"),
                "no user": forged(secret, {"alg": "HS256"}, sub=None),
                "user as text": forged(secret, {"alg": "HS256"}, sub="sales"),
                "unknown user": forged(secret, {"alg": "HS256"}, sub="99"),
                "huge user": forged(secret, {"alg": "HS256"}, sub="9" * 30),
                "expired": forged(secret, {"alg": "HS256"}, exp=int(time.time()) - 1),
                "not a token": "abc",
                "dots": "..",
                "long": "a" * 5000,
            }
            for name, token in bad.items():
                answer = await client.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == 401, name
                assert answer.headers["www-authenticate"].startswith("Bearer"), name
                assert answer.json()["type"] == "/problems/not-authenticated", name
            for header in ("", "Bearer", "Bearer ", f"Basic {good}", good):
                answer = await client.get("/auth/me", headers={"Authorization": header})
                assert answer.status_code == 401, header
            answer = await client.get("/auth/me", headers={"Authorization": f"Bearer {good}"})
            assert answer.status_code == 200

    asyncio.run(run())


def test_the_expired_one_is_told_so() -> None:
    tokens = Tokens("s" * 40, lifetime_s=-1)
    with pytest.raises(Exception, match="expired"):
        tokens.user_id(tokens.issue(1))


def test_one_that_passed_before_expires_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens("s" * 40, lifetime_s=60)
    token = tokens.issue(1)
    assert tokens.user_id(token) == 1
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.user_id(token)


def test_a_change_of_roles_is_seen_after_a_few_seconds(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 1000.0

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

    monkeypatch.setattr(directory_module, "time", Clock)

    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            who = await bearer(client)
            assert (await client.post("/sales", json=SALE, headers=who)).status_code == 201
            with Store(sqlite_url) as store:
                store.write(set_roles, username="sales", roles=["employee"])
            Clock.now += 3
            refused(await client.post("/sales", json=SALE, headers=who), 403, "forbidden")
            with Store(sqlite_url) as store:
                store.write(set_active, username="sales", active=False)
            Clock.now += 3
            refused(await client.get("/auth/me", headers=who), 401, "not-authenticated")
            body = {"username": "sales", "password": PASSWORD}
            refused(await client.post("/auth/login", json=body), 401, "not-authenticated")

    asyncio.run(run())


async def logged_in(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(
        "/login",
        data={"username": "sales", "password": PASSWORD, "to": "/auth/me"},
        headers=OWN_PAGE,
    )


def test_the_form_sets_a_cookie_that_scripts_cannot_read(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            answer = await logged_in(client)
            assert (answer.status_code, answer.headers["location"]) == (303, "/auth/me")
            cookie = answer.headers["set-cookie"].lower()
            assert cookie.startswith(COOKIE)
            assert "httponly" in cookie
            assert "samesite=lax" in cookie
            assert "secure" not in cookie
            assert (await client.get("/auth/me")).json()["username"] == "sales"
            # Whoever has the cookie need not log in again.
            assert (await client.get("/login?to=/auth/me")).status_code == 303
            out = await client.post("/auth/logout", headers=OWN_PAGE)
            assert out.status_code == 204
            assert (await client.get("/auth/me")).status_code == 401

    asyncio.run(run())


def test_over_https_the_cookie_is_secure(sqlite_url: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            client.base_url = "https://small"
            assert "secure" in (await logged_in(client)).headers["set-cookie"].lower()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://small"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://small"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://small.evil.example"}, False),
        ({"Origin": "http://small:81"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[small"}, False),
        ({}, False),
    ],
)
def test_a_change_by_cookie_must_come_from_our_own_page(
    sqlite_url: str, headers: dict[str, str], passes: bool
) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            await logged_in(client)
            answer = await client.post("/sales", json=SALE, headers=headers)
            if passes:
                assert answer.status_code == 201
            else:
                refused(answer, 403, "cross-site")
                refused(await client.post("/auth/logout", headers=headers), 403, "cross-site")
                refused(await client.post("/login", headers=headers), 403, "cross-site")
            # Reading is free, and a token in a header needs no such proof.
            assert (await client.get("/auth/me", headers=headers)).status_code == 200
            token = {**await bearer(client), **headers}
            assert (await client.post("/sales", json=SALE, headers=token)).status_code == 201

    asyncio.run(run())


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example",
        "///evil.example",
        "//[evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\tx",
        "",
    ],
)
def test_a_login_never_leads_to_another_site(sqlite_url: str, to: str) -> None:
    async def run() -> None:
        async with client_of(make_app(sqlite_url)) as client:
            form = {"username": "sales", "password": PASSWORD, "to": to}
            answer = await client.post("/login", data=form, headers=OWN_PAGE)
            assert (answer.status_code, answer.headers["location"]) == (303, "/")

    asyncio.run(run())
