"""Invoices: billed once, never more than ordered, numbers without a gap."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from crowdsafe import Store
from crowdsafe.errors import InvalidInput
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.errors import AlreadyInvoiced, ExceedsOrdered, OrderClosed
from crowdsafe.systems.factory.operations import invoices, orders, queries
from crowdsafe.systems.factory.operations.common import gst_cents
from tests.systems.factory.plant import MARA, Plant, at_once, refused


def _bill(
    plant: Plant, order_id: int, store: Store | None = None, items: Any = None
) -> dict[str, Any]:
    return (store or plant.store).write(
        invoices.invoice_order, order_id=order_id, items=items, actor=MARA
    )


def test_twenty_invoices_of_one_order_are_one_invoice(plant: Plant) -> None:
    order = plant.order(100)
    results = at_once([partial(_bill, plant, order["id"], store) for store in plant.stores(20)])
    lost = refused(results, AlreadyInvoiced)
    (won,) = (result for result in results if isinstance(result, dict))
    schemas.Invoice.model_validate(won)
    assert len(lost) == 19
    assert {error.data["invoice_number"] for error in lost} == {won["number"]}
    assert won["number"].endswith("-0001")


def test_partial_invoices_never_exceed_what_was_ordered(plant: Plant) -> None:
    order = plant.order(100, 10)
    first, second = (item["id"] for item in order["items"])
    part = [{"item_id": first, "quantity": 30}]
    results = at_once(
        [partial(_bill, plant, order["id"], store, part) for store in plant.stores(6)]
    )
    lost = refused(results, ExceedsOrdered)
    assert [error.data["available"] for error in lost] == [10, 10, 10]
    assert plant.store.read(queries.get_order, order["id"])["invoiced"] == "partly"
    rest = _bill(plant, order["id"])
    assert {line["item_id"]: line["quantity"] for line in rest["lines"]} == {first: 10, second: 10}
    with pytest.raises(AlreadyInvoiced) as refusal:
        _bill(plant, order["id"], items=part)
    assert refusal.value.data["invoice_number"].endswith("-0001")


def test_numbers_have_no_gap_over_many_orders(plant: Plant) -> None:
    ids = [plant.order(5)["id"] for _ in range(6)]
    calls = [
        partial(_bill, plant, order_id, store) for store in plant.stores(2) for order_id in ids
    ]
    assert len(refused(at_once(calls), AlreadyInvoiced)) == 6
    numbers = [row["number"][-4:] for row in plant.store.read(queries.list_invoices)["items"]]
    assert sorted(numbers) == [f"{number:04d}" for number in range(1, 7)]


def test_one_item_named_twice_counts_together(plant: Plant) -> None:
    order = plant.order(10)
    item = order["items"][0]["id"]
    twice = [{"item_id": item, "quantity": 6}, {"item_id": item, "quantity": 6}]
    with pytest.raises(ExceedsOrdered):
        _bill(plant, order["id"], items=twice)


def test_another_orders_item_is_refused(plant: Plant) -> None:
    order, other = plant.order(10), plant.order(10)
    with pytest.raises(InvalidInput):
        _bill(plant, order["id"], items=[{"item_id": other["items"][0]["id"], "quantity": 1}])


def test_a_cancelled_order_is_not_billed(plant: Plant) -> None:
    order = plant.order(10)
    plant.store.write(orders.cancel_order, order_id=order["id"], actor=MARA)
    with pytest.raises(OrderClosed):
        _bill(plant, order["id"])


def test_billing_against_cancelling_ends_in_one_of_both(plant: Plant) -> None:
    for _ in range(5):
        order = plant.order(10)
        cancel = partial(orders.cancel_order, order_id=order["id"], actor=MARA)
        results = at_once([partial(_bill, plant, order["id"]), partial(plant.other.write, cancel)])
        refused(results, (OrderClosed, AlreadyInvoiced))  # type: ignore[arg-type]
        assert sum(isinstance(result, dict) for result in results) == 1


@pytest.mark.parametrize(
    ("subtotal", "gst"), [(0, 0), (4, 0), (5, 1), (14, 1), (15, 2), (1000, 100), (99_995, 10_000)]
)
def test_gst_rounds_half_a_cent_upwards(subtotal: int, gst: int) -> None:
    assert gst_cents(subtotal) == gst
