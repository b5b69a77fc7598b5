"""The five multi-user scenarios of the plant's own test plan, each on two server processes."""

from __future__ import annotations

from tests.systems.factory.site import Call, Site
from tests.systems.factory.test_guarantees import codes, kinds


def test_scenario_1_concurrent_stock_allocation(site: Site) -> None:
    """Two users see 100 units and allocate 80 each: one succeeds, one has insufficient stock."""
    pair = site.fresh_pair()
    site.post("/stock/receive", {**pair, "quantity": 100}, user="production_team")
    allocate = {**pair, "quantity": 80}
    answers = site.at_once(
        [Call("POST", "/stock/allocate", allocate, user) for user in ("mara", "tomas")]
    )
    assert codes(answers) == {200: 1, 400: 1}
    assert kinds(answers) == {"insufficient-stock"}
    (row,) = site.get(f"/stock?client_id={pair['client_id']}")["items"]
    assert row["on_hand"] == 20


def test_scenario_2_simultaneous_order_editing(site: Site) -> None:
    """One changes the quantity to 5000, one the contact to John Doe: both are preserved."""
    order = site.order(4000)
    path = f"/orders/{order['id']}"
    seen = [site.send("GET", path, user=user).json() for user in ("mara", "tomas")]
    quantity = f"items.{seen[0]['items'][0]['id']}.quantity"
    edits = [
        ({quantity: 4000}, {quantity: 5000}, "mara"),
        ({"contact_name": "Jane Roe"}, {"contact_name": "John Doe"}, "tomas"),
    ]
    answers = site.at_once(
        [
            Call("PATCH", path, {"base": base, "changes": changes, "version": 1}, user)
            for base, changes, user in edits
        ]
    )
    assert codes(answers) == {200: 2}
    now = site.get(path)
    assert (now["items"][0]["quantity"], now["contact_name"]) == (5000, "John Doe")
    assert now["subtotal_cents"] == 5000 * 74


def test_scenario_3_concurrent_timesheet_approval(site: Site) -> None:
    """Two managers approve one timesheet: one succeeds, the other is told that it is approved."""
    sheet = site.submitted_week()
    answers = site.at_once(
        [Call("POST", f"/timesheets/{sheet}/approve", user=user) for user in ("manager", "admin")]
    )
    assert codes(answers) == {200: 1, 409: 1}
    (lost,) = (answer.json() for answer in answers if answer.status_code == 409)
    assert lost["current"] == "approved"
    assert "already approved" in lost["detail"]
    assert len(site.get(f"/timesheets/{sheet}")["pay_calculations"]) == 1


def test_scenario_4_rapid_invoice_generation(site: Site) -> None:
    """Two users invoice one order: one invoice, the other is told that it is invoiced."""
    order = site.order()
    answers = site.at_once(
        [Call("POST", f"/orders/{order['id']}/invoice", user=user) for user in ("mara", "manager")]
    )
    assert codes(answers) == {201: 1, 409: 1}
    assert kinds(answers) == {"already-invoiced"}
    assert len(site.get(f"/orders/{order['id']}")["invoices"]) == 1


def test_scenario_5_job_card_stage_progression(site: Site) -> None:
    """Two people on the floor move one job from slitting to winding: one movement."""
    order = site.order()
    path = f"/orders/{order['id']}/stage"
    site.post(path, {"from_stage": "order_entered", "to_stage": "paper_slitting"})
    move = {"from_stage": "paper_slitting", "to_stage": "winding"}
    answers = site.at_once(
        [Call("POST", path, move, user) for user in ("production_team", "supervisor")]
    )
    assert codes(answers) == {200: 1, 409: 1}
    now = site.get(f"/orders/{order['id']}")
    assert now["stage"] == "winding"
    assert [row["to_stage"] for row in now["stage_log"]] == ["paper_slitting", "winding"]
