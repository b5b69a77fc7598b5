"""What clients are told of their limits, in every answer that passed one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response

from crowdsafe.errors import ConfigError, InvalidInput
from crowdsafe.traffic import Decision, InProcessLimiter, Rate, ValkeyLimiter, as_async
from crowdsafe.web.client_address import address_key, client_address
from crowdsafe.web.fastapi import install
from crowdsafe.web.rate_limit import RateLimitHeaders, limit_request, rate_limit_headers


def decision(**changes: Any) -> Decision:
    given = {
        "allowed": True,
        "rate": Rate(100, 60),
        "remaining": 3,
        "reset_s": 11.2,
        "retry_after_s": 0.0,
    }
    return Decision(**{**given, **changes})


def test_the_fields_of_the_draft() -> None:
    assert rate_limit_headers("plans", decision()) == {
        "RateLimit-Policy": '"plans";q=100;w=60',
        "RateLimit": '"plans";r=3;t=12',
    }
    assert rate_limit_headers("a", decision(rate=Rate(5, 0.5), remaining=0, reset_s=0.0)) == {
        "RateLimit-Policy": '"a";q=5;w=1',
        "RateLimit": '"a";r=0;t=0',
    }


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.01, "1"), (4, "4"), (4.2, "5")])
def test_a_refusal_says_when_to_come_back(retry_after_s: float, header: str) -> None:
    refused = decision(allowed=False, remaining=0, retry_after_s=retry_after_s)
    assert rate_limit_headers("plans", refused)["Retry-After"] == header


@pytest.mark.parametrize("name", ["", 'a"b', "a\r\nSet-Cookie: x", "é", "x" * 81, "a\\"])
def test_a_name_that_would_break_the_header_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="does not name a limit"):
        rate_limit_headers(name, decision())


def application(**limiters: Any) -> Any:
    app = FastAPI()
    install(app)
    limits = {name: as_async(InProcessLimiter(rate)) for name, rate in limiters.items()}

    async def limited(request: Request) -> None:
        for name, limiter in limits.items():
            await limit_request(request, limiter, address_key(client_address(request)), name=name)

    passed = [Depends(limited)]

    @app.get("/json", dependencies=passed)
    async def as_json() -> dict[str, str]:
        return {"is": "fine"}

    @app.get("/response", dependencies=passed)
    async def as_response() -> Response:
        return Response(b"fine")

    @app.get("/wrong", dependencies=passed)
    async def wrong() -> None:
        raise InvalidInput("no", field="x")

    @app.get("/broken", dependencies=passed)
    async def broken() -> None:
        raise RuntimeError("secret")

    @app.get("/free")
    async def free() -> str:
        return "free"

    return RateLimitHeaders(app)


def get(app: Any, *paths: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(run())


def test_every_kind_of_answer_tells_what_is_left() -> None:
    answers = get(
        application(plans=Rate(10, 60)), "/json", "/response", "/wrong", "/broken", "/free"
    )
    assert [answer.status_code for answer in answers] == [200, 200, 422, 500, 200]
    for left, answer in zip((9, 8, 7, 6), answers, strict=False):
        assert answer.headers.get_list("ratelimit-policy") == ['"plans";q=10;w=60']
        assert answer.headers.get_list("ratelimit") == [f'"plans";r={left};t=60']
    assert "ratelimit" not in answers[-1].headers


def test_a_refusal_is_a_429_with_all_that_a_client_needs() -> None:
    app = application(plans=Rate(2, 60))
    *allowed, refused = get(app, "/json", "/response", "/json")
    assert [answer.status_code for answer in allowed] == [200, 200]
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["ratelimit-policy"] == '"plans";q=2;w=60'
    assert refused.headers["ratelimit"] == '"plans";r=0;t=60'
    assert refused.headers.get_list("retry-after") == ["60"]
    body = refused.json()
    assert body["type"] == "/problems/rate-limited"
    assert (body["limit"], body["window_s"], body["remaining"]) == (2, 60.0, 0)
    assert 59 < body["retry_after_s"] <= 60


def test_several_limits_are_told_together() -> None:
    first, second = get(application(burst=Rate(1, 5), day=Rate(100, 86_400)), "/json", "/json")
    assert first.headers["ratelimit-policy"] == '"burst";q=1;w=5, "day";q=100;w=86400'
    assert first.headers["ratelimit"] == '"burst";r=0;t=5, "day";r=99;t=86400'
    assert second.status_code == 429
    assert second.headers["ratelimit"] == '"burst";r=0;t=5', "the second limit was not asked"


def test_without_the_middleware_the_limit_holds_all_the_same() -> None:
    app = application(plans=Rate(1, 60)).app
    assert [answer.status_code for answer in get(app, "/json", "/json")] == [200, 429]


def test_a_limiter_whose_server_is_away_lets_nobody_in() -> None:
    from valkey.asyncio import Valkey

    app = FastAPI()
    install(app)
    client = Valkey(host="127.0.0.1", port=1)
    limiter = ValkeyLimiter(client, Rate(1, 60), name="test")

    @app.get("/")
    async def root(request: Request) -> str:
        await limit_request(request, limiter, "a", name="plans")
        return "let in"

    (answer,) = get(app, "/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"] == "/problems/valkey-unavailable"
