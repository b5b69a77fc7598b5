"""WSGI apps are called as a server calls them, and what goes wrong in them is in the reply."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import flask
import pytest

from crowdsafe.find.model import Answer
from crowdsafe.find.targets import load, parse


def run(app: Any, text: str) -> Answer:
    return load(app).operation(parse(text)).run()


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("shop")
    app.secret_key = "a secret"

    @app.post("/login")
    def login() -> Any:
        flask.session["who"] = flask.request.form["name"]
        return flask.redirect("/")

    @app.get("/")
    def who() -> Any:
        return {"who": flask.session.get("who"), "q": flask.request.args.getlist("q")}

    @app.get("/boom")
    def boom() -> None:
        sqlite3.connect(":memory:").execute("SELECT * FROM nothing")

    @app.get("/blob")
    def blob() -> Any:
        return flask.Response(b"\xff\xfe", mimetype="image/png")

    @app.delete("/gone")
    def gone() -> Any:
        return "", 204

    return app


def test_cookies_form_and_query(app: flask.Flask) -> None:
    answer = run(app, "POST /login name=Ann+O'Hara & Co && GET /?q=1&q=%C3%A4")
    assert answer.replies[0].headers["location"] == "/"
    assert answer.replies[1].body == {"who": "Ann O'Hara ", "q": ["1", "ä"]}


def test_each_run_starts_without_cookies(app: flask.Flask) -> None:
    operation = load(app).operation(parse("GET / && POST /login name=Ann && GET /"))
    for _ in range(2):
        bodies = [reply.body for reply in operation.run().replies]
        assert [bodies[0]["who"], bodies[2]["who"]] == [None, "Ann"]


@pytest.mark.parametrize("propagate", [True, False], ids=["raised", "handled"])
def test_an_exception_is_a_500_with_its_type_and_state(app: flask.Flask, propagate: bool) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = propagate
    (reply,) = run(app, "GET /boom").replies
    assert (reply.status, reply.error, reply.sqlstate) == (500, "OperationalError", "SQLITE_ERROR")


def test_bodies_of_other_kinds(app: flask.Flask) -> None:
    assert run(app, "DELETE /gone").replies[0].body is None
    assert str(run(app, "GET /blob").replies[0].body).startswith("<2 bytes, sha256 ")


class Body:
    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        self.closed = True


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def failing() -> Iterator[bytes]:
    yield b"begun"
    raise ValueError("half way")


@pytest.mark.parametrize(
    ("parts", "status", "error", "size"),
    [(endless, 200, None, 1 << 20), (failing, 500, "ValueError", None)],
    ids=["endless", "failing"],
)
def test_the_body_is_closed_whatever_happens(
    parts: Any, status: int, error: str | None, size: int | None
) -> None:
    body = Body(parts())

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    (reply,) = run(app, "GET /").replies
    assert (reply.status, reply.error, body.closed) == (status, error, True)
    assert size is None or len(reply.body) == size


def test_write_and_a_late_error() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"one ")
        try:
            raise KeyError("late")
        except KeyError:
            if environ["PATH_INFO"] == "/late":
                start_response("500 No", [], sys.exc_info())
        return [b"two"]

    assert run(app, "GET /").replies[0].body == "one two"
    assert run(app, "GET /late").replies[0].error == "KeyError"


def test_an_error_before_the_first_byte_replaces_the_reply() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            raise KeyError("early")
        except KeyError:
            start_response("503 Busy", [("Retry-After", "1")], sys.exc_info())
        return [environ["wsgi.input"].read()]

    (reply,) = run(app, 'POST / {"a": "ü"}').replies
    assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "1", '{"a": "ü"}')
