"""Bad input over HTTP: a clear 4xx problem, nothing stored, no stack trace to the client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.systems.factory.site import API, Call, Site

TABLES = (
    "orders",
    "order_items",
    "stock",
    "stock_movements",
    "allocations",
    "invoices",
    "timesheets",
    "leave_requests",
    "clients",
    "products",
    "employees",
)


@pytest.fixture
def unchanged(site: Site) -> Any:
    """Nothing may be stored by the test."""
    before = _rows(site)
    yield
    assert _rows(site) == before


def _rows(site: Site) -> list[Any]:
    engine = create_engine(site.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        counts = [
            (table, connection.execute(text(f"SELECT COUNT(*) FROM factory_{table}")).scalar())
            for table in TABLES
        ]
        counts.append(connection.execute(text("SELECT SUM(on_hand) FROM factory_stock")).scalar())
    engine.dispose()
    return counts


def _refused(answer: httpx.Response, status: int, kind: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["detail"]
    if kind is not None:
        assert body["type"] == f"/problems/{kind}"
    for leak in ("Traceback", "sqlalchemy", "psycopg", "SELECT", ".py"):
        assert leak not in answer.text


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "quantity", [0, -5, 10**12, 10**30, True, "5", 5.5, 5.0, None, [1], {"a": 1}, ""]
)
def test_a_quantity_that_is_none(site: Site, quantity: Any) -> None:
    body = {"product_id": 1, "client_id": 1, "quantity": quantity}
    for path in ("/stock/allocate", "/stock/receive"):
        _refused(site.send("POST", path, body), 422, "invalid-input")
    item = {"product_id": 1, "quantity": quantity}
    _refused(site.send("POST", "/orders", {"client_id": 1, "items": [item]}), 422)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"product_id": 1, "client_id": 1, "quantity": NaN}',
        b'{"product_id": 1, "client_id": 1, "quantity": Infinity}',
        b'{"product_id": 1, "client_id": 1, "quantity": 1e400}',
        b'{"product_id": 1, "client_id": 1}',
        b'{"product_id": 1, "client_id": 1, "quantity": 1, "extra": 1}',
        b'{"product_id": 1, "client_id": 1, "quantity": 1',
        b'{"product_id": 1, "client_id": 1, "quantity": 1, "order_reference": "\\u0000"}',
        b'{"product_id": 1, "client_id": 1, "quantity": 1, "order_reference": "\\ud800"}',
        b'{"product_id": 99999999999999999999, "client_id": 1, "quantity": 1}',
        b"[]",
        b"",
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_none(site: Site, raw: bytes) -> None:
    answer = site.client.post(
        f"{site.servers[0].base_url}{API}/stock/allocate",
        content=raw,
        headers={
            "Authorization": f"Bearer {site.token('admin')}",
            "Content-Type": "application/json",
        },
    )
    assert answer.status_code in (400, 422)
    _refused(answer, answer.status_code)


@pytest.mark.usefixtures("unchanged")
def test_what_is_not_there(site: Site) -> None:
    unknown = {"product_id": 10**6, "client_id": 1, "quantity": 1}
    _refused(site.send("POST", "/stock/allocate", unknown), 404, "not-found")
    _refused(site.send("POST", "/stock/receive", unknown), 404, "not-found")
    _refused(site.send("POST", "/orders/1000000/cancel"), 404, "not-found")
    _refused(site.send("POST", "/orders/1000000/invoice"), 404, "not-found")
    for path in ("/orders/1000000", "/stock/1000000/movements", "/invoices/1000000", "/nothing"):
        _refused(site.send("GET", path), 404, "not-found")
    for path in ("/orders/0", "/orders/-1", "/orders/abc", f"/orders/{2**70}", "/orders?limit=0"):
        _refused(site.send("GET", path), 422)


@pytest.mark.usefixtures("unchanged")
def test_who_may_not(site: Site) -> None:
    body = {"product_id": 1, "client_id": 1, "quantity": 1}
    _refused(site.send("POST", "/stock/allocate", body, user="employee"), 403, "forbidden")
    _refused(site.send("POST", "/stock/receive", body, user="mara"), 403, "forbidden")
    stage = {"from_stage": "order_entered", "to_stage": "paper_slitting"}
    _refused(site.send("POST", "/orders/1/stage", stage, user="sales"), 403, "forbidden")
    _refused(site.send("POST", "/leave/1/approve", user="supervisor"), 403, "forbidden")
    for token in ("", "Bearer", "Bearer x.y.z", f"Bearer {site.token('admin')}x", "Basic YTpi"):
        headers = {"Authorization": token} if token else {}
        answer = site.client.post(
            f"{site.servers[0].base_url}{API}/stock/allocate", json=body, headers=headers
        )
        _refused(answer, 401, "not-authenticated")
        _refused(httpx.get(f"{site.servers[0].base_url}{API}/events", headers=headers), 401)


def test_staff_records_are_shown_to_their_own_and_to_managers(site: Site) -> None:
    mine = site.send("GET", "/employees", user="employee").json()
    assert [person["username"] for person in mine] == ["employee"]
    assert len(site.send("GET", "/employees", user="manager").json()) >= 12
    others = site.leave(site.employee(), 1)
    _refused(site.send("GET", f"/leave/{others}", user="employee"), 404, "not-found")
    own = {**_leave(mine[0]["id"]), "hours": 7.6}
    asked = site.send("POST", "/leave", own, user="employee")
    assert asked.status_code == 201
    _refused(site.send("POST", "/leave", own, user="production_team"), 403, "forbidden")
    assert site.send("POST", f"/leave/{asked.json()['id']}/cancel", user="employee").is_success


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("hours", [0, -1, 1e-9, 7.123, 10**6, True, "7.6", None])
def test_hours_that_are_none(site: Site, hours: Any) -> None:
    _refused(site.send("POST", "/leave", {**_leave(1), "hours": hours}), 422, "invalid-input")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("day", [0, 86400, 1.5, True, "0", "86400", "", "2026-02-30"])
def test_a_day_that_is_none(site: Site, day: Any) -> None:
    order = {"client_id": 1, "items": [{"product_id": 1, "quantity": 1}], "due_date": day}
    _refused(site.send("POST", "/orders", order), 422, "invalid-input")
    edit = {"version": 1, "base": {"due_date": None}, "changes": {"due_date": day}}
    _refused(site.send("PATCH", "/orders/40", edit), 422, "invalid-input")
    _refused(site.send("POST", "/leave", {**_leave(1), "hours": 1, "end_date": day}), 422)


def _leave(employee_id: int) -> dict[str, Any]:
    return {
        "employee_id": employee_id,
        "kind": "annual",
        "start_date": "2026-11-16",
        "end_date": "2026-11-20",
    }


@pytest.mark.usefixtures("unchanged")
def test_a_broken_version(site: Site) -> None:
    change = {"changes": {"notes": "x"}, "base": {"notes": ""}}
    for tag in ("seven", '"x"', 'W/"1"', '"1", "2"', "", '"-1"', '"1e3"'):
        _refused(site.send("PATCH", "/orders/40", change, If_Match=tag), 400, "invalid-etag")
    for version in (0, -1, "1", 1.5, True, 10**20):
        _refused(site.send("PATCH", "/orders/40", {**change, "version": version}), 422)
    _refused(site.send("PATCH", "/orders/40", change, If_Match="*"), 428)
    _refused(site.send("PATCH", "/orders/40", {"version": 1, "changes": {}}), 422)
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    _refused(site.send("PATCH", "/orders/40", {"version": 1, "changes": {"notes": deep}}), 422)


@pytest.mark.usefixtures("unchanged")
def test_a_body_of_50_mb(site: Site) -> None:
    def body() -> Any:
        for _ in range(50):
            yield b" " * 2**20

    url = f"{site.servers[0].base_url}{API}/stock/allocate"
    headers = {"Authorization": f"Bearer {site.token('admin')}"}
    try:
        answer = site.client.post(url, content=body(), headers=headers)
    except httpx.WriteError:
        return  # the server hung up in the middle of it, which is a clear no as well
    _refused(answer, 413, "body-too-large")


@pytest.mark.usefixtures("unchanged")
def test_keys_that_are_none(site: Site) -> None:
    body = {"product_id": 1, "client_id": 1, "quantity": 1}
    for key in ("", "x" * 256, "a b"):
        answer = site.send("POST", "/stock/allocate", body, Idempotency_Key=key)
        _refused(answer, 400, "invalid-idempotency-key")


def test_texts_keep_what_people_write(site: Site) -> None:
    order = site.order()
    said = "Zoë 🧵 «Lime»\n'; DROP TABLE factory_orders; --  <script>alert(1)</script>"
    body = {"base": {"notes": ""}, "changes": {"notes": said}, "version": 1}
    assert site.send("PATCH", f"/orders/{order['id']}", body).status_code == 200
    assert site.get(f"/orders/{order['id']}")["notes"] == said


def test_everything_is_documented(site: Site) -> None:
    schema = site.client.get(f"{site.servers[0].base_url}/openapi.json").json()
    paths = {path: each for path, each in schema["paths"].items() if path.startswith(API)}
    assert len(paths) >= 27
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            assert any(code.startswith("2") for code in operation["responses"])
            assert operation["security"], (method, path)
    allocate = paths[f"{API}/stock/allocate"]["post"]["responses"]
    example = allocate["400"]["content"]["application/problem+json"]["examples"]
    assert "insufficient-stock" in example


def test_a_login_is_needed_everywhere(site: Site) -> None:
    base = site.servers[0].base_url
    schema = site.client.get(f"{base}/openapi.json").json()
    for path, operations in schema["paths"].items():
        if path.startswith(API):
            for method in operations:
                url = f"{base}{path}".replace("{", "").replace("}", "")
                url = url.replace("order_id", "1").replace("stock_id", "1")
                for name in ("invoice_id", "timesheet_id", "leave_id", "allocation_id"):
                    url = url.replace(name, "1")
                _refused(site.client.request(method, url), 401, "not-authenticated")


def test_a_call_is_a_call(site: Site) -> None:
    """The helper sends what it says."""
    assert site.at_once([Call("GET", "/clients", user="employee")])[0].status_code == 200
