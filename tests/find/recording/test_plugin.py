"""``pytest --find-races`` over small suites of each framework, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

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
from test_fastapi import app

def test_take():
    shop.fill()
    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/take/60")
    assert asyncio.run(run()).json() == {"left": 40}
"""

FLASK = """
import pytest
from flask import Flask, abort, request, session
import shop

app = Flask(__name__)
app.secret_key = "secret"

@app.post("/login")
def login():
    session["user"] = request.form["name"]
    return {}

@app.post("/take")
def take():
    if "user" not in session:
        abort(401)
    if (left := shop.take(request.json["quantity"])) is None:
        abort(409)
    return {"left": left}

def test_take():
    shop.fill()
    client = app.test_client()
    client.post("/login", data={"name": "ann"})
    assert client.post("/take", json={"quantity": 60}).json == {"left": 40}
    assert client.post("/take", json={"quantity": 60}).status_code == 409
"""

DJANGO = """
from pathlib import Path
import django
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

urlpatterns = [path("take", take)]

def test_take():
    shop.fill()
    assert Client().post("/take").json() == {"left": 40}

def test_in_a_transaction():
    shop.fill()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("update stock set on_hand = 90 where id = 1")
        assert Client().post("/take?held").json() == {"left": 30}
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


def verdicts(found: list[Any]) -> dict[str, str]:
    return {finding["operations"][0]: finding["verdict"] for finding in found}


def test_without_the_option_nothing_is_tried(suite: Suite) -> None:
    suite.add("test_fastapi.py", FASTAPI)
    done = suite.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "races" not in done.stdout


def test_fastapis_client(suite: Suite) -> None:
    suite.add("test_fastapi.py", FASTAPI)
    done, found = suite.find()
    assert verdicts(found) == {"POST /take/60": "race", "POST /take-safely/60": "proven"}
    assert "2 passed" in done.stdout  # the tests themselves saw nothing of it
    assert done.returncode == 1
    assert "Lost update on stock" in done.stdout
    assert "test_fastapi.py::test_take" in done.stdout


def test_httpx_over_asgi(suite: Suite) -> None:
    suite.add("test_fastapi.py", FASTAPI)
    suite.add("test_httpx.py", HTTPX)
    done, found = suite.find("test_httpx.py")
    assert verdicts(found) == {"POST /take/60": "race"}, done.stdout
    assert "1 passed" in done.stdout


def test_flasks_client_with_its_session(suite: Suite) -> None:
    suite.add("test_flask.py", FLASK)
    done, found = suite.find()
    assert verdicts(found)["POST /take"] == "race", done.stdout
    assert "1 passed" in done.stdout


def test_djangos_client(suite: Suite) -> None:
    suite.add("test_django.py", DJANGO)
    done, found = suite.find()
    assert verdicts(found) == {"POST /take": "race"}, done.stdout
    assert "2 passed" in done.stdout
    assert "the test holds a transaction open" not in done.stdout  # it was tried before


def test_a_test_that_holds_a_transaction_is_left_alone(suite: Suite) -> None:
    suite.add("test_django.py", DJANGO)
    done, found = suite.find("-k", "in_a_transaction")
    assert found == []
    assert "1 passed" in done.stdout
    assert "not tried: POST /take" in done.stdout
    assert "the test holds a transaction open" in done.stdout


def test_marked_functions(suite: Suite) -> None:
    suite.add("test_functions.py", FUNCTIONS)
    done, found = suite.find()
    assert sorted(finding["verdict"] for finding in found) == ["proven", "race"], done.stdout
    assert "2 passed" in done.stdout


def test_a_database_in_memory_is_said_to_be_one(suite: Suite) -> None:
    suite.add("test_memory.py", MEMORY)
    done, found = suite.find()
    assert found == []
    assert "1 passed" in done.stdout
    assert "a database in memory" in done.stdout


def test_the_report_as_html(suite: Suite) -> None:
    suite.add("test_functions.py", FUNCTIONS)
    suite.find("--find-races-html", "found.html")
    assert "Lost update" in (suite.folder / "found.html").read_text()


def test_several_processes_are_refused(suite: Suite) -> None:
    suite.add("test_functions.py", FUNCTIONS)
    done = suite.run("--find-races", "-n", "2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "leave -n out" in done.stderr
