"""The factory's guarantees over HTTP: two server processes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.systems.factory.site import Call, Site

STAGES = ("order_entered", "pending_material", "paper_slitting", "winding", "finishing")


def codes(answers: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(answer.status_code for answer in answers))


def kinds(answers: list[httpx.Response]) -> set[str]:
    return {a.json()["type"].rsplit("/", 1)[1] for a in answers if a.status_code >= 400}


def test_1_two_allocations_of_80_from_100(site: Site) -> None:
    for _ in range(5):
        pair = site.fresh_pair()
        stock_id = site.post("/stock/receive", {**pair, "quantity": 100})["stock_id"]
        answers = site.at_once([Call("POST", "/stock/allocate", {**pair, "quantity": 80})] * 2)
        assert codes(answers) == {200: 1, 400: 1}
        assert kinds(answers) == {"insufficient-stock"}
        (won,) = (answer.json() for answer in answers if answer.status_code == 200)
        (lost,) = (answer.json() for answer in answers if answer.status_code == 400)
        assert won["allocated_quantity"] == 80
        assert won["remaining_stock"] == lost["available"] == 20
        movements = site.get(f"/stock/{stock_id}/movements")["items"]
        assert [row["quantity"] for row in movements] == [-80, 100]
        assert movements[0]["id"] == won["movement_id"]


def test_1_sixty_callers_on_one_stock(site: Site) -> None:
    pair = site.fresh_pair()
    site.post("/stock/receive", {**pair, "quantity": 100})
    answers = site.at_once([Call("POST", "/stock/allocate", {**pair, "quantity": 3})] * 60)
    assert codes(answers) == {200: 33, 400: 27}
    (row,) = site.get(f"/stock?client_id={pair['client_id']}")["items"]
    assert (row["on_hand"], row["reserved"]) == (1, 99)


def test_2_two_hundred_orders_have_two_hundred_numbers(site: Site) -> None:
    pair = site.fresh_pair()
    before = _last_number(site)
    body = {
        "client_id": pair["client_id"],
        "items": [{"product_id": pair["product_id"], "quantity": 5}],
    }
    wrong = {**body, "items": [{"product_id": 2**40, "quantity": 5}]}
    calls = [Call("POST", "/orders", wrong if n % 10 == 9 else body) for n in range(220)]
    answers = site.at_once(calls)
    assert codes(answers) == {201: 198, 422: 22}
    numbers = sorted(
        int(answer.json()["number"].rsplit("-", 1)[1])
        for answer in answers
        if answer.status_code == 201
    )
    assert numbers == list(range(before + 1, before + 199))
    last = next(
        a.json() for a in answers if a.is_success and a.json()["number"].endswith(str(numbers[-1]))
    )
    assert site.send("DELETE", f"/orders/{last['id']}").status_code == 200
    assert _last_number(site) == numbers[-1] - 1
    assert int(site.post("/orders", body)["number"].rsplit("-", 1)[1]) == numbers[-1] + 1


def test_2_invoice_numbers_have_no_gap(site: Site) -> None:
    ids = [site.order(10)["id"] for _ in range(20)]
    too_much = {"items": [{"item_id": 1, "quantity": 1}]}
    calls = [Call("POST", f"/orders/{order_id}/invoice") for order_id in ids]
    calls += [Call("POST", f"/orders/{order_id}/invoice", too_much) for order_id in ids]
    answers = site.at_once(calls)
    assert codes(answers)[201] == 20
    assert site.broken() == [] or all("factory.order" in line for line in site.broken())


def _last_number(site: Site) -> int:
    newest = site.get("/orders?limit=1")["items"][0]["number"]
    return int(newest.rsplit("-", 1)[1])


def test_3_twenty_invoices_of_one_order(site: Site) -> None:
    order = site.order(10)
    answers = site.at_once([Call("POST", f"/orders/{order['id']}/invoice")] * 20)
    assert codes(answers) == {201: 1, 409: 19}
    assert kinds(answers) == {"already-invoiced"}
    (number,) = (answer.json()["number"] for answer in answers if answer.status_code == 201)
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert {each["invoice_number"] for each in lost} == {number}
    assert len(site.get(f"/invoices?order_id={order['id']}")["items"]) == 1


def test_3_one_key_twenty_times_is_one_invoice_and_one_answer(site: Site) -> None:
    order = site.order(10)
    call = Call(
        "POST", f"/orders/{order['id']}/invoice", headers={"Idempotency-Key": f"i-{order['id']}"}
    )
    answers = site.at_once([call] * 20)
    assert codes(answers) == {201: 20}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(site.get(f"/invoices?order_id={order['id']}")["items"]) == 1
    other = Call(
        call.method, call.path, {"items": [{"item_id": 1, "quantity": 1}]}, "admin", call.headers
    )
    assert kinds(site.at_once([other])) == {"idempotency-key-reused"}


def test_3_partial_invoices_never_exceed_what_was_ordered(site: Site) -> None:
    order = site.order(100)
    item = order["items"][0]["id"]
    part = Call(
        "POST", f"/orders/{order['id']}/invoice", {"items": [{"item_id": item, "quantity": 30}]}
    )
    answers = site.at_once([part] * 10)
    assert codes(answers) == {201: 3, 400: 7}
    assert kinds(answers) == {"exceeds-ordered"}
    assert {a.json()["available"] for a in answers if a.status_code == 400} == {10}


def test_4_two_editors_disjoint_fields_both_survive(site: Site) -> None:
    order = site.order()
    answers = site.at_once(
        [
            _save(order, {"notes": ""}, {"notes": "dock 3"}, "mara"),
            _save(order, {"contact_name": "Jane Roe"}, {"contact_name": "John Doe"}, "tomas"),
        ]
    )
    assert codes(answers) == {200: 2}
    assert sorted(answer.json()["merged"] for answer in answers) == [False, True]
    now = site.get(f"/orders/{order['id']}")
    assert (now["notes"], now["contact_name"], now["version"]) == ("dock 3", "John Doe", 3)


def test_4_the_same_field_is_one_save_and_one_conflict(site: Site) -> None:
    order = site.order()
    answers = site.at_once(
        [
            _save(order, {"notes": ""}, {"notes": "a"}, "mara"),
            _save(order, {"notes": ""}, {"notes": "b"}, "tomas"),
        ]
    )
    assert codes(answers) == {200: 1, 409: 1}
    (won,) = (answer.json()["order"] for answer in answers if answer.status_code == 200)
    (lost,) = (answer.json() for answer in answers if answer.status_code == 409)
    assert lost["conflicts"]["notes"]["theirs"] == won["notes"]
    assert lost["by"] == won["updated_by_name"]
    assert (lost["version"], lost["conflicts"]["notes"]["base"]) == (2, "")


def test_4_the_etag_is_the_version(site: Site) -> None:
    order = site.order()
    answer = site.send("GET", f"/orders/{order['id']}")
    assert answer.headers["etag"] == '"1"'
    path, changes = f"/orders/{order['id']}", {"changes": {"notes": "a"}, "base": {"notes": ""}}
    saved = site.send("PATCH", path, changes, If_Match='"1"')
    assert (saved.status_code, saved.headers["etag"]) == (200, '"2"')
    assert site.send("PATCH", path, changes).status_code == 428
    assert site.send("PATCH", path, {**changes, "version": 1}, If_Match='"2"').status_code == 422
    assert site.send("PATCH", path, changes, If_Match="seven").status_code == 400


def _save(order: dict[str, Any], base: Any, changes: Any, user: str) -> Call:
    body = {"base": base, "changes": changes, "version": order["version"]}
    return Call("PATCH", f"/orders/{order['id']}", body, user)


def test_5_the_same_stage_move_twice_is_one_move(site: Site) -> None:
    order = site.order()
    move = {"from_stage": "order_entered", "to_stage": "paper_slitting"}
    answers = site.at_once([Call("POST", f"/orders/{order['id']}/stage", move)] * 10)
    assert codes(answers) == {200: 1, 409: 9}
    assert kinds(answers) == {"stage-moved"}
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert {(each["current"], each["by"]) for each in lost} == {("paper_slitting", "Alice Hammond")}
    assert len(site.get(f"/orders/{order['id']}")["stage_log"]) == 1


def test_5_two_relative_moves_never_skip_a_stage(site: Site) -> None:
    order = site.order()
    for before, after in pairwise(STAGES):
        step = Call("POST", f"/orders/{order['id']}/stage", {"from_stage": before, "move": "next"})
        assert codes(site.at_once([step, step])) == {200: 1, 409: 1}
        assert site.get(f"/orders/{order['id']}")["stage"] == after
    assert len(site.get(f"/orders/{order['id']}")["stage_log"]) == len(STAGES) - 1


def test_5_cancel_gives_the_stock_back_exactly_once(site: Site) -> None:
    order = site.order()
    pair = {"client_id": order["client_id"], "product_id": order["items"][0]["product_id"]}
    site.post("/stock/receive", {**pair, "quantity": 100})
    site.post("/stock/allocate", {**pair, "quantity": 60, "order_reference": order["number"]})
    answers = site.at_once([Call("POST", f"/orders/{order['id']}/cancel")] * 8)
    assert codes(answers) == {200: 1, 409: 7}
    (row,) = site.get(f"/stock?client_id={pair['client_id']}")["items"]
    assert (row["on_hand"], row["reserved"]) == (100, 0)


def test_6_many_approvals_are_one_pay_calculation(site: Site) -> None:
    sheet = site.submitted_week()
    answers = site.at_once([Call("POST", f"/timesheets/{sheet}/approve", user="manager")] * 12)
    assert codes(answers) == {200: 1, 409: 11}
    assert kinds(answers) == {"timesheet-moved"}
    assert len(site.get(f"/timesheets/{sheet}")["pay_calculations"]) == 1


@pytest.mark.parametrize(("kind", "floor"), [("annual", -4560), ("sick", 0), ("personal", 0)])
def test_6_leave_never_passes_its_floor(site: Site, kind: str, floor: int) -> None:
    employee = site.employee(**{f"{kind}_minutes": 3000})
    asked = [site.leave(employee, 15.2, kind) for _ in range(16)]
    answers = site.at_once(
        [Call("POST", f"/leave/{leave_id}/approve", user="manager") for leave_id in asked]
    )
    fit = (3000 - floor) // 912
    assert codes(answers) == ({200: fit, 400: 16 - fit})
    assert kinds(answers) == {"insufficient-leave"}
    balance = site.get(f"/leave/{asked[0]}")["balance_minutes"]
    assert balance == 3000 - fit * 912 >= floor


def test_6_leave_that_is_cancelled_comes_back_exactly_once(site: Site) -> None:
    employee = site.employee(annual_minutes=3000)
    asked = site.leave(employee, 7.6)
    site.post(f"/leave/{asked}/approve", user="manager")
    answers = site.at_once([Call("POST", f"/leave/{asked}/cancel")] * 8)
    assert codes(answers) == {200: 1, 409: 7}
    assert site.get(f"/leave/{asked}")["balance_minutes"] == 3000


def test_7_a_change_at_one_server_is_seen_at_the_other_within_a_second(site: Site) -> None:
    """A machine that stands still says nothing about it, so one change of six is enough."""
    took_s: list[float] = []
    while not took_s or (min(took_s) >= 1.0 and len(took_s) < 6):
        order = site.order()
        with site.following(1, "tomas") as events:
            saved = site.send(
                "PATCH",
                f"/orders/{order['id']}",
                {"base": {"notes": ""}, "changes": {"notes": "live"}, "version": 1},
                user="mara",
                server=0,
            )
            assert saved.status_code == 200
            committed = time.monotonic()
            news = next(
                event
                for event in events
                if event["data"].get("id") == order["id"]
                and event["data"].get("action") == "edited"
            )
            took_s.append(time.monotonic() - committed)
    assert min(took_s) < 1.0, took_s
    assert news["event"] == "order.changed"
    data = news["data"]
    assert (data["by"], data["version"], data["fields"]) == ("Mara Lindqvist", 2, ["notes"])
    assert data["number"] == order["number"]


def test_7_leave_is_told_to_whom_it_belongs_and_to_managers(site: Site) -> None:
    employee = site.employee(annual_minutes=3000)
    with site.following(0, "manager") as manager, site.following(1, "sales") as sales:
        asked = site.leave(employee, 7.6)
        order = site.order()
        news = next(event for event in manager if event["event"] == "leave.changed")
        assert news["data"]["id"] == asked
        seen = []
        for event in sales:
            seen.append(event["event"])
            if event["data"].get("id") == order["id"]:
                break
        assert "leave.changed" not in seen
