"""ASGI apps are called as a server calls them, and what goes wrong in them is in the reply."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer
from crowdsafe.find.targets import Target, load, parse


def shop(events: list[str]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("up")
        yield {"pool": "the pool"}
        events.append("down")

    def session() -> Iterator[str]:
        yield "session"
        events.append("closed")

    app = FastAPI(lifespan=lifespan)

    @app.get("/pool")
    async def pool(request: Request) -> str:
        return str(request.state.pool)

    @app.post("/items", dependencies=[Depends(session)])
    def items(data: dict[str, Any], tasks: BackgroundTasks) -> Any:
        tasks.add_task(events.append, "background")
        return JSONResponse({"id": 7, "got": data}, 201, {"ETag": '"v1"'})

    @app.put("/items/{item_id}")
    async def put(item_id: int, request: Request) -> Any:
        return {"id": item_id, "match": request.headers.get("if-match"), "x": await request.json()}

    _add_answers(app)
    return app


def _add_answers(app: FastAPI) -> None:
    @app.get("/stream")
    async def stream(endless: bool = False) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            number = 0
            while endless or number < 3:
                number += 1
                yield b"part "

        return StreamingResponse(parts())

    @app.post("/form")
    def form(a: Annotated[str, Form()], file: Annotated[UploadFile, File()]) -> Any:
        return {"a": a, "name": file.filename, "size": len(file.file.read())}

    @app.get("/go")
    async def go() -> RedirectResponse:
        return RedirectResponse("/pool", 303)

    @app.get("/boom")
    def boom() -> None:
        sqlite3.connect(":memory:").execute("SELECT * FROM nothing")

    @app.get("/refuse")
    def refuse() -> JSONResponse:
        return JSONResponse({"why": "no"}, 409)


def run(target: Target, text: str, limit: int | None = None) -> Answer:
    async def live() -> Answer:
        await target.startup()
        try:
            return await target.operation(parse(text)).run_async(limit)
        finally:
            await target.shutdown()

    return asyncio.run(live())


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def target(events: list[str]) -> Target:
    return load(shop(events))


def test_lifespan_and_its_state(target: Target, events: list[str]) -> None:
    assert run(target, "GET /pool").replies[0].body == "the pool"
    assert events == ["up", "down"]


def test_dependencies_and_background_tasks_end_with_the_reply(
    target: Target, events: list[str]
) -> None:
    answer = run(target, 'POST /items {"n": 1}')
    assert (answer.replies[0].status, answer.stopped_at) == (201, None)
    assert sorted(events[1:-1]) == ["background", "closed"]


def test_values_of_earlier_answers(target: Target) -> None:
    answer = run(
        target,
        """POST /items {"n": [5]} && GET /pool && PUT /items/{{1.body.id}}
        'If-Match:{{1.headers.ETag}}' {"n": {{1.body.got.n.0}}, "t": "a {{1.body.id}}"}""",
    )
    assert answer.replies[2].body == {"id": 7, "match": '"v1"', "x": {"n": 5, "t": "a 7"}}


def test_an_unknown_value_names_the_keys_that_are_there(target: Target) -> None:
    answer = run(target, 'POST /items {"n": 1} && GET /items/{{body.nr}} && GET /pool')
    assert (answer.stopped_at, len(answer.replies)) == (1, 2)
    assert answer.replies[1].error == "UnknownPlaceholder"
    assert "'nr'" in str(answer.replies[1].message)
    assert "id, got" in str(answer.replies[1].message)


def test_a_refusal_ends_the_operation_unless_it_is_lenient(target: Target) -> None:
    assert run(target, "GET /refuse && GET /pool").stopped_at == 0
    answer = run(target, "?GET /refuse && GET /pool")
    assert ([reply.status for reply in answer.replies], answer.stopped_at) == ([409, 200], None)


def test_the_first_requests_only(target: Target) -> None:
    assert len(run(target, "GET /pool && GET /pool && GET /pool", limit=2).replies) == 2


def test_an_exception_is_a_500_with_its_type_and_state(target: Target) -> None:
    (reply,) = run(target, "GET /boom").replies
    assert (reply.status, reply.error, reply.sqlstate) == (500, "OperationalError", "SQLITE_ERROR")
    assert "nothing" in str(reply.message)


def test_an_exception_that_the_app_hides_is_seen_in_its_log() -> None:
    import logging

    app = FastAPI()

    @app.exception_handler(sqlite3.Error)
    async def hide(request: Request, error: sqlite3.Error) -> JSONResponse:
        logging.getLogger("shop").error("failed", exc_info=error)
        return JSONResponse({"detail": "sorry"}, 500)

    @app.get("/boom")
    def boom() -> None:
        sqlite3.connect(":memory:").execute("SELECT * FROM nothing")

    (reply,) = run(load(app), "GET /boom").replies
    assert (reply.body, reply.sqlstate) == ({"detail": "sorry"}, "SQLITE_ERROR")


def test_streams_with_an_end_and_without(target: Target) -> None:
    assert run(target, "GET /stream").replies[0].body == "part part part "
    endless = run(target, "GET /stream?endless=true").replies[0]
    assert (endless.status, endless.error) == (200, None)
    assert 10_000 < len(endless.body) <= 1 << 20


@pytest.mark.parametrize("endless", ["false", "true"])
def test_streams_behind_a_middleware(endless: str) -> None:
    app = shop([])

    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    (reply,) = run(load(app), f"GET /stream?endless={endless}").replies
    assert (reply.status, reply.error) == (200, None)


def test_redirects_are_not_followed(target: Target) -> None:
    (reply,) = run(target, "GET /go").replies
    assert (reply.status, reply.headers["location"]) == (303, "/pool")
    followed = run(target, "GET /go && GET {{headers.location}}").replies[1]
    assert followed.body == "the pool"


def test_a_file_in_a_form(target: Target, tmp_path: Any) -> None:
    path = tmp_path / "pic.bin"
    path.write_bytes(bytes(range(256)))
    (reply,) = run(target, f"POST /form a=x+y&file=@{path}").replies
    assert reply.body == {"a": "x y", "name": "pic.bin", "size": 256}


def test_a_missing_file_is_an_error_of_the_operation(target: Target) -> None:
    answer = run(target, "POST /items @/no/such.json")
    assert (answer.stopped_at, answer.replies[0].error) == (0, "FileNotFoundError")


def test_a_whole_address_gives_scheme_and_host() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        said = f"{scope['scheme']} {scope['server']} {dict(scope['headers'])[b'host'].decode()}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said.encode()})

    assert run(load(app), "GET https://shop.example/a").replies[0].body == (
        "https ('shop.example', 443) shop.example"
    )
    assert run(load(app), "GET /a Host:h:81").replies[0].body == "http ('h', 81) h:81"


def test_an_app_that_answers_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    (reply,) = run(load(app), "GET /").replies
    assert (reply.status, reply.message) == (500, "the app returned without a reply")


def test_a_start_that_fails_says_why() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise OSError("no such broker")
        yield

    with pytest.raises(ConfigError, match="no such broker"):
        run(load(FastAPI(lifespan=lifespan)), "GET /")
