"""Whatever the user names is found, or the error says what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import FastAPI

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets import (
    Scenario,
    database_named_in,
    load,
    load_function,
    routes_of,
    source_file,
)

APPS = """
import flask
from fastapi import FastAPI
web = flask.Flask(__name__)
api = FastAPI()
class nested:
    app = api
def make(name="x", debug=False):
    made = FastAPI(title=f"{name} {debug}")
    return made
async def raw(scope, receive, send): ...
def plain(environ, start_response): ...
def anything(*args, **kwargs): ...
class AsgiWrapper:
    def __call__(self, *args, **kwargs): ...
wrapped = AsgiWrapper()
def needs(config): ...
def breaks():
    return 1 / 0
number = 3
def greet():
    return "hello"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def apps(folder: Path) -> Path:
    (folder / "apps.py").write_text(APPS)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("apps:web", "wsgi"),
        ("apps:api", "asgi"),
        ("apps", "asgi"),
        ("apps.py", "asgi"),
        ("./apps.py:web", "wsgi"),
        ("apps:nested.app", "asgi"),
        ("apps:make", "asgi"),
        ("apps:make()", "asgi"),
        ("apps:raw", "asgi"),
        ("apps:plain", "wsgi"),
        ("apps:wrapped", "asgi"),
    ],
)
def test_kinds_of_apps(apps: Path, name: str, kind: str) -> None:
    target = load(name)
    assert (target.kind, target.name) == (kind, name)


def test_a_factory_gets_what_its_call_says(apps: Path) -> None:
    assert load("apps:make('shop', debug=True)").app.title == "shop True"


def test_objects() -> None:
    assert load(flask.Flask("x")).kind == "wsgi"
    assert load(FastAPI()).kind == "asgi"
    assert load(None).kind == "functions"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere:app", "no module 'nowhere'"),
        ("nowhere/app.py", "no file"),
        ("apps:app", "nothing called 'app'; it has api"),
        ("apps:number", "neither an ASGI nor a WSGI app but int"),
        ("apps:needs", "neither an ASGI nor a WSGI app"),
        ("apps:breaks", r"ZeroDivisionError.*\n.*apps.py:19 in breaks: return 1 / 0"),
        ("apps:make(nested)", "plain values"),
        ("apps:make(", "after the colon"),
        ("apps:greet", "but str"),
        (":app", "names no module"),
    ],
    ids=[
        "module",
        "file",
        "name",
        "type",
        "arguments",
        "raises",
        "values",
        "call",
        "text",
        "empty",
    ],
)
def test_an_error_says_what_to_write(apps: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("x = (", "SyntaxError"),
        ("def f():\n    raise SystemExit(3)\nf()", r"SystemExit: 3\n.*bad.py:3.*\n.*bad.py:2 in f"),
    ],
    ids=["import", "syntax", "exit"],
)
def test_an_import_that_fails_shows_the_lines_of_the_target(
    folder: Path, text: str, why: str
) -> None:
    (folder / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        load("bad:app")
    assert "importlib" not in str(caught.value)


def test_a_file_in_a_package_keeps_its_relative_imports(folder: Path) -> None:
    package = folder / "src" / "shop" / "web"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    (package / "config.py").write_text("NAME = 'shop'")
    (package / "main.py").write_text(
        "from .config import NAME\nfrom fastapi import FastAPI\napp = FastAPI(title=NAME)"
    )
    target = load("src/shop/web/main.py:app")
    assert (target.app.title, type(target.app).__name__) == ("shop", "FastAPI")
    assert "shop.web.main" in sys.modules


SCENARIO = """
from apps import api, greet
from crowdsafe.find.targets import Scenario
stock = Scenario(
    target={target}, database="sqlite:///dev.db", operations=["GET /"], name={name!r}
)
"""


def test_the_only_scenario_of_a_file(apps: Path) -> None:
    (apps / "races.py").write_text(SCENARIO.format(target="'apps:web'", name="stock"))
    target = load("races.py")
    assert (target.kind, target.name) == ("wsgi", "stock")
    assert target.scenario is not None
    assert [spec.name for spec in target.scenario.specs()] == ["GET /"]


def test_a_scenario_is_asked_for_by_name_where_there_are_two(apps: Path) -> None:
    (apps / "races.py").write_text(SCENARIO.format(target="api", name="") + "other = Scenario([])")
    with pytest.raises(ConfigError, match=r"several scenarios.*stock, other"):
        load("races.py")
    assert load("races.py:stock").name == "races.py:stock"


def test_the_database_of_a_scenario_is_read_without_running_it(folder: Path) -> None:
    text = 'raise SystemExit\nimport find\nfind.Scenario(target="a", database="sqlite:///x.db")'
    (folder / "races.py").write_text(text)
    file = source_file("races.py:stock")
    assert file is not None
    assert database_named_in(file) == "sqlite:///x.db"
    (folder / "races.py").write_text("Scenario(database=URL, target=(")
    assert database_named_in(file) is None


def test_source_file_of_a_dotted_name(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "races.py").touch()
    assert source_file("shop.races:stock") == Path("shop/races.py")
    assert source_file("os.path:join") is None


def test_functions_by_name(apps: Path) -> None:
    assert load_function("apps:greet")() == "hello"
    with pytest.raises(ConfigError, match="not a function"):
        load_function("apps:number")


def test_operations_of_one_name_are_told_apart() -> None:
    scenario = Scenario(["POST /a x=1", "POST /a x=2", lambda: None])
    assert [spec.name for spec in scenario.specs()] == ["POST /a", "POST /a #2", "<lambda>()"]


def test_a_user_whom_nobody_knows() -> None:
    from crowdsafe.find.targets import request

    def made(logins: dict[str, str]) -> Any:
        return Scenario([request("GET /", as_="ann")], logins=logins).specs()[0]

    assert made({"ann": "POST /login name=ann"}).login == "POST /login name=ann"
    with pytest.raises(ConfigError, match="logins="):
        made({})


@pytest.mark.parametrize(
    ("name", "near"),
    [("apps:wed", "it has web"), ("apps:gret", "it has greet"), ("aps:web", "but apps:")],
    ids=["app", "function", "module"],
)
def test_a_name_that_is_almost_right_is_told(apps: Path, name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        load_function(name)


def test_what_an_app_can_be_asked() -> None:
    web, api = flask.Flask("shop"), FastAPI()
    web.add_url_rule("/orders", view_func=lambda: "", methods=["GET", "POST"])
    api.add_api_route("/stock", lambda: None)
    api.add_api_route("/take", lambda: None, methods=["POST"])
    assert routes_of(web) == ["POST /orders", "GET /orders"]
    assert routes_of(api) == ["POST /take", "GET /stock"]
    assert routes_of(None) == routes_of(object()) == []
