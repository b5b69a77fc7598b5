"""The assembled server: its health while the database goes and comes, and its documentation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.pg_server import PgServer
from tests.support.servers import running_server

from crowdsafe.errors import DatabaseUnavailable
from crowdsafe.server import app as server_app
from crowdsafe.server.app import ServerSettings, create_app


def eventually(check: Callable[[], bool], within_s: float = 15) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.postgres
def test_health_while_the_database_is_away(own_pg_server: PgServer, tmp_path: Path) -> None:
    url = own_pg_server.url("postgres")
    with (
        running_server(url, tmp_path) as server,
        httpx.Client(base_url=server.base_url, timeout=30) as client,
    ):
        assert client.get("/readyz").json() == {"status": "ready", "database": "postgresql"}
        own_pg_server.stop()
        away = client.get("/readyz")
        assert away.status_code == 503
        assert away.headers["content-type"] == "application/problem+json"
        assert away.json()["type"] == "/problems/not-ready"
        assert int(away.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
        login = client.post("/auth/login", json={"username": "mara", "password": "crowd"})
        assert login.status_code == 503
        assert login.json()["type"] in ("/problems/database-unavailable", "/problems/overloaded")
        assert "Traceback" not in login.text
        own_pg_server.start()
        eventually(lambda: client.get("/readyz").status_code == 200)
        login = client.post("/auth/login", json={"username": "mara", "password": "crowd"})
        assert login.status_code == 200


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("openapi")
    return create_app(ServerSettings(database=f"sqlite:///{folder}/x.db")).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    known = {tag["name"] for tag in document["tags"]}
    found = operations(document)
    assert len(found) > 20
    for name, operation in found:
        assert operation.get("summary"), name
        assert set(operation["tags"]) <= known, name
        refusals = [status for status in operation["responses"] if status[0] in "45"]
        assert refusals, name
        for status in refusals:
            assert "application/problem+json" in operation["responses"][status]["content"], name


def test_every_factory_operation_says_how_to_log_in(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if "/factory/" in name:
            schemes = {scheme for each in operation["security"] for scheme in each}
            assert schemes == {"HTTPBearer", "APIKeyCookie"}, name


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [r for item in value.values() for r in references(item)]
        return [r for item in value for r in references(item)] if isinstance(value, list) else []

    for reference in references(document):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize("error", [RuntimeError("a broken row"), DatabaseUnavailable()])
def test_old_answers_are_forgotten_again_after_an_error_of_any_kind(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = asyncio.Event()
    failed: list[Exception] = []

    class Failing:
        async def write(self, *_: Any, **__: Any) -> Any:
            failed.append(error)
            if len(failed) == 3:
                rounds.set()
            raise error

    async def run() -> None:
        keeping = asyncio.create_task(server_app._keep_house(Failing()))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            await rounds.wait()
        keeping.cancel()

    monkeypatch.setattr(server_app, "_KEEP_HOUSE_EVERY_S", 0.001)
    asyncio.run(run())
