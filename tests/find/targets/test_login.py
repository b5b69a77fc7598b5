"""Users are logged in, and their requests carry the tokens that a browser's would."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from typing import Any

import flask
import pytest
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer, Operation
from crowdsafe.find.targets import Target, load, parse, request
from crowdsafe.find.targets.scenario import Scenario
from crowdsafe.find.targets.visitor import Visitor


@pytest.fixture(autouse=True)
def no_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have configured Django."""
    monkeypatch.setattr("crowdsafe.find.targets.visitor._django_settings", lambda: None)


def guarded(place: str) -> flask.Flask:
    """A Flask app with sessions and forms that carry a token, in a field or a meta tag."""
    app = flask.Flask("guarded")
    app.secret_key = "a secret"
    requests: list[str] = []
    app.config["REQUESTS"] = requests

    @app.before_request
    def guard() -> Any:
        requests.append(f"{flask.request.method} {flask.request.path}")
        token = flask.session.setdefault("token", secrets.token_hex(4))
        sent = flask.request.form.get("csrf_token") or flask.request.headers.get("X-CSRFToken")
        if flask.request.method == "POST" and sent != token:
            return "CSRF token missing", 400
        return None

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if flask.request.form.get("password") == "right":
            flask.session["who"] = flask.request.form["name"]
            return flask.redirect("/")
        field = f'<input type="hidden" name="csrf_token" value="{flask.session["token"]}">'
        meta = f'<meta name="csrf-token" content="{flask.session["token"]}">'
        shown = field if place == "field" else meta
        return f'<form>{shown}<input name="name"><input type=password name=password></form>'

    @app.post("/order")
    def order() -> Any:
        return {"who": flask.session.get("who"), "form": flask.request.form.to_dict()}

    return app


def prepared(target: Target, *texts: str, **options: Any) -> list[Operation]:
    return target.prepare([parse(text) for text in texts], **options)


@pytest.mark.parametrize("place", ["field", "meta"])
def test_a_login_form_with_a_token(place: str) -> None:
    app = guarded(place)
    login = "POST /login name=ann&password=right"
    order, again = prepared(load(app), "POST /order n=1", "POST /order n=2", login=login)
    app.config["REQUESTS"].clear()
    for operation in (order, again, order):
        answer = operation.run()
        assert answer.stopped_at is None
        assert answer.replies[0].body["who"] == "ann"
    assert app.config["REQUESTS"] == ["POST /order"] * 3


def test_a_form_without_login_gets_its_token_beforehand() -> None:
    app = guarded("field")
    (operation,) = prepared(load(app), "POST /login name=bo&password=right && POST /order n=1")
    app.config["REQUESTS"].clear()
    assert operation.run().replies[1].body["who"] == "bo"
    assert app.config["REQUESTS"] == ["POST /login", "POST /order"]


def test_a_token_is_taken_from_a_page_of_the_operation() -> None:
    operation = load(guarded("field")).operation(
        parse("GET /login && POST /login name=bo&password=right && POST /order n=1")
    )
    assert operation.run().stopped_at is None


@pytest.mark.parametrize(
    ("login", "why"),
    [
        ("POST /login name=ann&password=wrong", "came back to its page"),
        ("POST /nowhere a=1", "refused.*POST /nowhere answered 400"),
    ],
    ids=["wrong", "missing"],
)
def test_a_login_that_fails_is_an_error(login: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        prepared(load(guarded("field")), "POST /order n=1", login=login)


@pytest.fixture
def on_loop() -> Iterator[Any]:
    with asyncio.Runner() as runner:

        def run(work: Coroutine[Any, Any, Any]) -> Any:
            return runner.run(work)

        yield run


def bearer(answer: dict[str, Any]) -> FastAPI:
    app = FastAPI()

    @app.post("/token")
    async def token(request: Request) -> Any:
        made = JSONResponse(answer)
        made.set_cookie("XSRF-TOKEN", "abc%3D")
        return made

    @app.post("/me")
    async def me(authorization: str = Header(""), x_xsrf_token: str = Header("")) -> Any:
        return [authorization, x_xsrf_token]

    return app


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        ({"access_token": "t1", "token_type": "bearer"}, "Bearer t1"),
        ({"token": "t2"}, "Bearer t2"),
        ({"key": "t3"}, "Token t3"),
        ({"data": {"token": "t4"}}, "Bearer t4"),
        ({"id": 1}, ""),
    ],
    ids=["oauth", "token", "key", "inside", "none"],
)
def test_a_bearer_token_is_sent_along(on_loop: Any, answer: Any, sent: str) -> None:
    login = 'POST /token {"name": "ann"}'
    (operation,) = prepared(load(bearer(answer)), "POST /me", login=login, on_loop=on_loop)
    reply: Answer = on_loop(operation.run_async())
    assert reply.replies[0].body == [sent, "abc="]


def test_each_operation_as_its_own_user(on_loop: Any) -> None:
    app = FastAPI()
    logins: list[str] = []

    @app.post("/token")
    async def token(request: Request) -> Any:
        logins.append((await request.json())["name"])
        return {"token": logins[-1]}

    @app.get("/me")
    async def me(authorization: str = Header("")) -> str:
        return authorization

    scenario = Scenario(
        [request("GET /me", as_="ann"), request("GET /me", as_="bo"), "GET /me"],
        logins={"ann": 'POST /token {"name": "ann"}', "bo": 'POST /token {"name": "bo"}'},
        login='POST /token {"name": "all"}',
    )
    operations = load(app).prepare(scenario.specs(), login=scenario.login, on_loop=on_loop)
    said = [on_loop(operation.run_async()).replies[0].body for operation in operations]
    assert (said, logins) == (["Bearer ann", "Bearer bo", "Bearer all"], ["ann", "bo", "all"])


def test_a_user_of_whom_no_login_is_known() -> None:
    with pytest.raises(ConfigError, match="say how they log in"):
        load(guarded("field")).prepare([request("POST /order", as_="ann")])


def test_headers_of_all_operations_and_of_one() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['HTTP_HOST']} {environ.get('HTTP_X_TENANT')}".encode()]

    headers = ["Host: shop.example", "X-Tenant: 7"]
    one, other = prepared(load(app), "GET /", "GET / X-Tenant:8", headers=headers)
    assert one.run().replies[0].body == "shop.example 7"
    assert other.run().replies[0].body == "shop.example 8"
    with pytest.raises(ConfigError, match="not a header"):
        prepared(load(app), "GET /", headers=["Host shop.example"])


def test_cookies_expire() -> None:
    visitor = Visitor()
    visitor.take_cookies([("set-cookie", "a=1; Path=/"), ("set-cookie", 'b="x=y"; Max-Age=60')])
    assert visitor.cookie_line() == 'a=1; b="x=y"'
    gone = "b=; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    visitor.take_cookies([("set-cookie", "a=; Max-Age=0"), ("set-cookie", gone)])
    assert visitor.cookie_line() == ""


def test_requests_without_an_app() -> None:
    with pytest.raises(ConfigError, match="no app"):
        prepared(load(None), "GET /")
