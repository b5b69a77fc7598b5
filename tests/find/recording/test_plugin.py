"""``pytest --find-races`` over small suites of each framework, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crowdsafe.find import pytest_plugin

MODELS = """
import sqlite3
from pathlib import Path

FILE = str(Path(__file__).with_name("shop.db"))

def connect():
    return sqlite3.connect(FILE)

def fill():
    connection = connect()
    connection.executescript(
        "drop table if exists stock; create table stock (id integer primary key, on_hand int);"
        "insert into stock values (1, 100)"
    )
    connection.close()

def take(quantity):
    connection = connect()
    try:
        (on_hand,) = connection.execute("select on_hand from stock where id = 1").fetchone()
        if on_hand < quantity:
            return None
        connection.execute("update stock set on_hand = ? where id = 1", (on_hand - quantity,))
        connection.commit()
        return on_hand - quantity
    finally:
        connection.close()

def take_safely(quantity):
    connection = connect()
    try:
        done = connection.execute(
            "update stock set on_hand = on_hand - ? where id = 1 and on_hand >= ?",
            (quantity, quantity),
        )
        connection.commit()
        return quantity if done.rowcount else None
    finally:
        connection.close()
"""

FASTAPI = """
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
import shop

app = FastAPI()

@app.post("/take/{quantity}")
def take(quantity: int):
    if (left := shop.take(quantity)) is None:
        raise HTTPException(409)
    return {"left": left}

@app.post("/take-safely/{quantity}")
async def take_safely(quantity: int):
    if shop.take_safely(quantity) is None:
        raise HTTPException(409)
    return {}

@pytest.fixture
def client():
    shop.fill()
    with TestClient(app) as client:
        yield client

def test_take(client):
    assert client.post("/take/60").json() == {"left": 40}
    assert client.post("/take/60").status_code == 409

def test_take_safely(client):
    assert client.post("/take-safely/60").status_code == 200
"""

HTTPX = """
import asyncio
import httpx
import shop
from fastapi import FastAPI

app = FastAPI()

@app.post("/spend")
def spend():
    return {"left": shop.take(60)}

def test_spend():
    shop.fill()
    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/spend")
    assert asyncio.run(run()).json() == {"left": 40}
"""

FLASK = """
import pytest
from flask import Flask, abort, request, session
import shop

app = Flask(__name__)
app.secret_key = "secret"

@app.post("/enter")
def enter():
    session["user"] = request.form["name"]
    return {}

@app.post("/sell")
def sell():
    if "user" not in session:
        abort(401)
    if (left := shop.take(request.json["quantity"])) is None:
        abort(409)
    return {"left": left}

def test_sell():
    shop.fill()
    client = app.test_client()
    client.post("/enter", data={"name": "ann"})
    assert client.post("/sell", json={"quantity": 60}).json == {"left": 40}
    assert client.post("/sell", json={"quantity": 60}).status_code == 409
"""

DJANGO = """
from pathlib import Path
import django
import pytest
from django.conf import settings
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="secret",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3",
                           "NAME": str(Path(__file__).with_name("shop.db"))}},
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
)
django.setup()
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse
from django.test import Client
from django.urls import path
import shop

def take(request):
    with connection.cursor() as cursor:
        cursor.execute("select on_hand from stock where id = 1")
        (on_hand,) = cursor.fetchone()
        if on_hand < 60:
            return HttpResponse(status=409)
        cursor.execute("update stock set on_hand = %s where id = 1", [on_hand - 60])
    return JsonResponse({"left": on_hand - 60})

urlpatterns = [path("buy", take), path("order", take)]

def test_buy():
    shop.fill()
    assert Client().post("/buy").json() == {"left": 40}

@pytest.mark.parametrize("where", ["/buy?held", "/order"])
def test_in_a_transaction(where):
    shop.fill()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("update stock set on_hand = 90 where id = 1")
        assert Client().post(where).json() == {"left": 30}
"""

FUNCTIONS = """
from crowdsafe.find import operation
import shop

take = operation(shop.take)

@operation
async def take_safely():
    return shop.take_safely(60)

def test_take():
    shop.fill()
    assert take(60) == 40

def test_take_safely():
    import asyncio
    shop.fill()
    assert asyncio.run(take_safely()) == 60
"""

MEMORY = """
import sqlite3
from fastapi import FastAPI
from fastapi.testclient import TestClient

app = FastAPI()
connection = sqlite3.connect(":memory:", check_same_thread=False)
connection.execute("create table stock (on_hand int)")

@app.post("/take")
def take():
    connection.execute("update stock set on_hand = on_hand - 1")
    connection.commit()

def test_take():
    assert TestClient(app).post("/take").status_code == 200
"""


class Suite:
    """A folder with a suite of tests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("shop.py", MODELS)
        self.add("pytest.ini", "[pytest]\n")

    def add(self, name: str, code: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(code))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=90, check=False,
            env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_XDIST_WORKER": ""},
        )  # fmt: skip

    def find(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        done = self.run("--find-races", "--find-races-json", "found.json", *arguments)
        file = self.folder / "found.json"
        return done, json.loads(file.read_text()) if file.exists() else []


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


class Found:
    """What one run found in the suites of all frameworks; each has a path of its own."""

    def __init__(self, suite: Suite) -> None:
        for name, code in SUITES.items():
            suite.add(name, code)
        done, findings = suite.find("--find-races-html", "found.html")
        self.code, self.output = done.returncode, done.stdout
        self.verdicts = {finding["operations"][0]: finding["verdict"] for finding in findings}
        self.html = (suite.folder / "found.html").read_text()


SUITES = {
    "test_fastapi.py": FASTAPI,
    "test_httpx.py": HTTPX,
    "test_flask.py": FLASK,
    "test_django.py": DJANGO,
    "test_functions.py": FUNCTIONS,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return Found(Suite(tmp_path_factory.mktemp("suites")))


def test_without_the_option_nothing_is_tried(suite: Suite) -> None:
    suite.add("test_fastapi.py", FASTAPI)
    done = suite.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "races" not in done.stdout


def test_the_tests_themselves_see_nothing_of_it(found: Found) -> None:
    assert "9 passed" in found.output
    assert found.code == 1  # for the races


def test_each_request_is_tried_once(found: Found) -> None:
    assert found.verdicts == {
        "POST /take/60": "race",
        "POST /take-safely/60": "proven",
        "POST /spend": "race",
        "POST /sell": "race",
        "POST /buy": "race",
        "take(60)": "race",
        "take_safely()": "proven",
    }, found.output


def test_fastapis_client(found: Found) -> None:
    assert found.verdicts["POST /take/60"] == "race"
    assert found.verdicts["POST /take-safely/60"] == "proven"
    assert "Lost update on stock" in found.output
    assert "test_fastapi.py::test_take" in found.output


def test_httpx_over_asgi(found: Found) -> None:
    assert found.verdicts["POST /spend"] == "race"


def test_flasks_client_with_its_session(found: Found) -> None:
    assert found.verdicts["POST /sell"] == "race"


def test_djangos_client(found: Found) -> None:
    assert found.verdicts["POST /buy"] == "race"
    assert "not tried: POST /buy" not in found.output  # what the later test held was no matter


def test_a_test_that_holds_a_transaction_is_left_alone(found: Found) -> None:
    assert "POST /order" not in found.verdicts
    assert "not tried: POST /order: the test holds a transaction open" in found.output


def test_marked_functions(found: Found) -> None:
    assert found.verdicts["take(60)"] == "race"
    assert found.verdicts["take_safely()"] == "proven"


def test_the_report_as_html(found: Found) -> None:
    assert "Lost update" in found.html


def test_a_database_in_memory_is_said_to_be_one(suite: Suite) -> None:
    suite.add("test_memory.py", MEMORY)
    done, findings = suite.find()
    assert findings == []
    assert "1 passed" in done.stdout
    assert "a database in memory" in done.stdout


def test_several_processes_are_refused(suite: Suite) -> None:
    suite.add("test_functions.py", FUNCTIONS)
    done = suite.run("--find-races", "-n", "2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "leave -n out" in done.stderr


@pytest.mark.parametrize("missing", ["sqlglot", "rich"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pytest_plugin, "find_spec", lambda name: None if name == missing else object()
    )
    asked = SimpleNamespace(find_races=True, numprocesses=None)
    with pytest.raises(pytest.UsageError, match=missing):
        pytest_plugin.pytest_load_initial_conftests(
            cast(Any, SimpleNamespace(known_args_namespace=asked))
        )
