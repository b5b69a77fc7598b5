"""The Flask adapter answers as the FastAPI adapter does, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from flask import Flask, Response, abort, redirect, request
from flask.testing import FlaskClient
from sqlalchemy import MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe import edit, write
from crowdsafe.errors import Conflict, CrowdsafeError, Insufficient, TransactionMisuse
from crowdsafe.store import BigId, Store
from crowdsafe.web import fastapi as fastapi_adapter
from crowdsafe.web.flask import etag_of, idempotent_write, if_match, install, json_answer, json_body


class Base(DeclarativeBase):
    metadata = MetaData()


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    notes: Mapped[str] = mapped_column(String(200))
    version: Mapped[int] = mapped_column(default=1)


@dataclass(frozen=True)
class Made:
    id: int
    notes: str
    version: int


@write(isolation="read committed")
def make(session: Session, notes: str) -> Made:
    order = Order(notes=notes)
    session.add(order)
    session.flush()
    if notes == "fail":
        raise Insufficient(available=20)
    return Made(order.id, order.notes, order.version)


def change(session: Session, order_id: int, version: int | None, notes: str) -> Made:
    current = session.get_one(Order, order_id)
    done = edit(
        session, Order, order_id, base={"notes": current.notes}, changes={"notes": notes},
        by="mara", version=version,
    )  # fmt: skip
    return Made(order_id, notes, done.version)


def count(session: Session) -> int:
    return session.scalar(select(func.count(Order.id))) or 0


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    with Store(db_url) as store:
        store.create_all(Base.metadata)
        yield store


@pytest.fixture
def client(store: Store) -> FlaskClient:
    app = Flask("test")
    install(app, body_bytes_max=1000)

    @app.post("/orders")
    def make_order() -> Response:
        return idempotent_write(
            store,
            make,
            whose=f"user:{request.headers.get('X-User', '1')}",
            notes=json_body()["notes"],
            status_code=201,
            answer_headers=lambda made: {"ETag": etag_of(made.version)},
        )

    @app.patch("/orders/<int:order_id>")
    def change_order(order_id: int) -> Response:
        made = store.write(change, order_id, if_match(), json_body()["notes"])
        return json_answer(made, headers={"ETag": etag_of(made.version)})

    @app.post("/unread")
    def unread() -> str:
        return "never looked at the body"

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError("a secret")

    @app.get("/misuse")
    def misuse() -> str:
        raise TransactionMisuse("a secret")

    @app.get("/abort/<int:code>")
    def aborted(code: int) -> str:
        abort(code)

    @app.get("/away")
    def away() -> Any:
        return redirect("/orders")

    return app.test_client()


ERRORS: list[Callable[[], CrowdsafeError]] = [
    lambda: Insufficient(available=20),
    lambda: Conflict(fields={"notes": ("a", "b", float("nan"))}, version=8, by="mara"),
]


@pytest.mark.parametrize("error", [*ERRORS, *CrowdsafeError.__subclasses__()])
def test_every_error_is_the_same_problem_in_both_frameworks(
    error: Callable[[], CrowdsafeError],
) -> None:
    if error().status == 500:
        return  # a fault of the server: shown below
    flask, fastapi = Flask("test"), FastAPI()
    install(flask)
    fastapi_adapter.install(fastapi)

    @flask.get("/")
    def flask_view() -> str:
        raise error()

    @fastapi.get("/")
    async def fastapi_view() -> None:
        raise error()

    ours = flask.test_client().get("/")
    theirs = asyncio.run(_get(fastapi))
    assert (ours.status_code, ours.data) == (theirs.status_code, theirs.content)
    for name in ("content-type", "retry-after", "www-authenticate", "content-security-policy"):
        assert ours.headers.get(name) == theirs.headers.get(name), name


async def _get(app: FastAPI, path: str = "/", method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/orders", 405)]
)
def test_what_the_framework_refuses_is_the_same_problem_too(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    fastapi = FastAPI()
    fastapi_adapter.install(fastapi)
    fastapi.add_api_route("/orders", lambda: None, methods=["POST"])
    ours = client.open(path, method=method)
    theirs = asyncio.run(_get(fastapi, path, method))
    assert ours.status_code == status
    assert (ours.status_code, ours.data) == (theirs.status_code, theirs.content)
    if status == 405:
        assert "POST" in ours.headers["allow"]


@pytest.mark.parametrize("path", ["/broken", "/misuse"])
def test_a_fault_says_nothing_but_an_id_which_the_log_has_too(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 500
    assert answer.json is not None
    assert answer.json["type"] == "/problems/internal-error"
    assert "secret" not in answer.text
    assert any(answer.json["error_id"] in record.message for record in caplog.records)


def test_other_http_errors_are_problems_and_redirects_are_left_alone(client: FlaskClient) -> None:
    answer = client.get("/abort/418")
    assert answer.status_code == 418
    assert answer.mimetype == "application/problem+json"
    assert client.get("/away").status_code == 302


@pytest.mark.parametrize(
    ("path", "sent", "status", "slug"),
    [
        ("/orders", {"data": b"x" * 1001}, 413, "body-too-large"),
        ("/unread", {"data": b"x" * 50_000_000}, 413, "body-too-large"),
        ("/orders", {"data": b"{", "content_type": "application/json"}, 400, "unreadable-body"),
        ("/orders", {"data": b"\xff", "content_type": "application/json"}, 400, "unreadable-body"),
        ("/orders", {"json": [1]}, 422, "invalid-input"),
        (
            "/unread",
            {"data": b'{"n": NaN}', "content_type": "application/json"},
            422,
            "invalid-input",
        ),
        ("/orders", {"json": {"notes": "fail"}}, 400, "insufficient"),
        (
            "/orders",
            {"json": {"notes": "x"}, "headers": {"Idempotency-Key": "a b"}},
            400,
            "invalid-idempotency-key",
        ),
    ],
)
def test_bad_requests_store_nothing(
    client: FlaskClient, store: Store, path: str, sent: dict[str, Any], status: int, slug: str
) -> None:
    answer = client.post(path, **sent)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["type"] == f"/problems/{slug}"
    assert store.read(count) == 0


def test_a_key_gives_the_first_answer_again_and_only_to_its_owner(
    client: FlaskClient, store: Store
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/orders", json={"notes": "a"}, headers=headers)
    again = [client.post("/orders", json={"notes": "a"}, headers=headers) for _ in range(3)]
    assert first.status_code == 201
    assert first.headers["etag"] == '"1"'
    assert "Idempotency-Replayed" not in first.headers
    for answer in again:
        assert (answer.status_code, answer.data) == (first.status_code, first.data)
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["Idempotency-Replayed"] == "true"
    assert store.read(count) == 1
    other = client.post("/orders", json={"notes": "b"}, headers=headers)
    assert (other.status_code, other.json and other.json["type"]) == (
        422,
        "/problems/idempotency-key-reused",
    )
    theirs = client.post("/orders", json={"notes": "b"}, headers={**headers, "X-User": "2"})
    assert theirs.status_code == 201
    assert store.read(count) == 2


def test_a_refused_write_under_a_key_may_be_tried_again(client: FlaskClient, store: Store) -> None:
    headers = {"Idempotency-Key": "k1"}
    for _ in range(2):
        refused = client.post("/orders", json={"notes": "fail"}, headers=headers)
        assert refused.status_code == 400
    assert store.read(count) == 0


def test_if_match_is_the_version_that_the_write_checks(client: FlaskClient) -> None:
    client.post("/orders", json={"notes": "a"})
    for header, status in ((None, 428), ("7", 400), ('W/"1"', 400), ('"x"', 400)):
        headers = {} if header is None else {"If-Match": header}
        answer = client.patch("/orders/1", json={"notes": "b"}, headers=headers)
        assert answer.status_code == status, header
    done = client.patch("/orders/1", json={"notes": "b"}, headers={"If-Match": '"1"'})
    assert (done.status_code, done.headers["etag"]) == (200, '"2"')


def test_twenty_at_once_under_one_key_make_one_order(client: FlaskClient, store: Store) -> None:
    def post(_n: int) -> tuple[int, bytes]:
        answer = client.application.test_client().post(
            "/orders", json={"notes": "a"}, headers={"Idempotency-Key": "k1"}
        )
        return answer.status_code, answer.data

    with ThreadPoolExecutor(20) as pool:
        answers = [*pool.map(post, range(20))]
    assert len(set(answers)) == 1
    assert answers[0][0] == 201
    assert store.read(count) == 1
