"""Editing: disjoint fields merge, the same field conflicts, and nobody is blamed wrongly."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from crowdsafe import AsyncStore, Store
from crowdsafe.errors import CrowdsafeError, InvalidInput
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.errors import EditConflict, ItemInvoiced, OrderClosed
from crowdsafe.systems.factory.operations import editing, invoices, orders, queries
from tests.systems.factory.plant import MARA, TOMAS, Person, Plant, at_once, refused


def _save(
    plant: Plant,
    order: dict[str, Any],
    base: dict[str, Any],
    changes: dict[str, Any],
    actor: Person = MARA,
    store: Store | None = None,
) -> dict[str, Any]:
    return (store or plant.store).write(
        editing.edit_order,
        order_id=order["id"],
        base=base,
        changes=changes,
        version=order["version"],
        actor=actor,
    )


def test_disjoint_fields_both_survive(plant: Plant) -> None:
    order = plant.order(4000)
    quantity = f"items.{order['items'][0]['id']}.quantity"
    results = at_once(
        [
            partial(_save, plant, order, {quantity: 4000}, {quantity: 5000}),
            partial(
                _save,
                plant,
                order,
                {"contact_name": "Jane Roe"},
                {"contact_name": "John Doe"},
                TOMAS,
                plant.other,
            ),
        ]
    )
    refused(results, InvalidInput)
    assert sorted(result["merged"] for result in results) == [False, True]
    schemas.Edited.model_validate(results[0])
    now = plant.store.read(queries.get_order, order["id"])
    assert (now["contact_name"], now["items"][0]["quantity"]) == ("John Doe", 5000)
    assert now["version"] == 3


def test_the_same_field_conflicts(plant: Plant) -> None:
    order = plant.order()
    base = {"notes": ""}
    results = at_once(
        [
            partial(_save, plant, order, base, {"notes": "a"}, MARA),
            partial(_save, plant, order, base, {"notes": "b"}, TOMAS, plant.other),
        ]
    )
    (lost,) = refused(results, EditConflict)
    (won,) = (result for result in results if isinstance(result, dict))
    field = lost.data["conflicts"]["notes"]
    assert field["theirs"] == won["order"]["notes"]
    assert {field["yours"], field["theirs"]} == {"a", "b"}
    assert field["base"] == ""
    assert lost.data["by"] == field["by"] == won["order"]["updated_by_name"]
    assert lost.data["version"] == 2
    assert lost.data["at"] == field["at"]


def test_a_crowd_on_one_field_is_one_save(plant: Plant) -> None:
    order = plant.order()
    calls = [
        partial(_save, plant, order, {"notes": ""}, {"notes": f"by {index}"}, MARA, store)
        for index, store in enumerate(plant.stores(10))
    ]
    assert len(refused(at_once(calls), EditConflict)) == 9
    assert plant.store.read(queries.get_order, order["id"])["version"] == 2


def test_the_same_value_twice_is_no_conflict(plant: Plant) -> None:
    order = plant.order()
    _save(plant, order, {"notes": ""}, {"notes": "a"})
    again = _save(plant, order, {"notes": ""}, {"notes": "a"}, TOMAS)
    assert (again["applied"], again["order"]["version"]) == ([], 2)


def test_a_conflict_names_who_changed_that_field(plant: Plant) -> None:
    """Not whoever saved something else last."""
    order = plant.order()
    _save(plant, order, {"notes": ""}, {"notes": "by Mara"}, MARA)
    _save(plant, order, {"purchase_order": ""}, {"purchase_order": "PO-1"}, TOMAS)
    with pytest.raises(EditConflict) as refusal:
        _save(plant, order, {"notes": ""}, {"notes": "mine"}, TOMAS)
    assert refusal.value.data["by"] == "Mara Lindqvist"
    assert refusal.value.data["version"] == 3


def test_a_stage_move_while_editing_is_no_conflict(plant: Plant) -> None:
    order = plant.order()
    plant.store.write(
        orders.move_stage,
        order_id=order["id"],
        from_stage="order_entered",
        to_stage="paper_slitting",
        actor=TOMAS,
    )
    saved = _save(plant, order, {"notes": ""}, {"notes": "a"})
    assert (saved["merged"], saved["order"]["stage"]) == (True, "paper_slitting")


def test_items_are_added_and_removed(plant: Plant) -> None:
    order = plant.order(10, 20)
    first = order["items"][0]
    gone = {key: first[key] for key in ("quantity", "unit_price_cents", "description")}
    new = {"product_id": plant.product_id, "quantity": 7, "unit_price_cents": 99}
    key = f"items.{first['id']}"
    saved = _save(plant, order, {key: gone}, {key: None, "items.new-1": new})
    items = saved["order"]["items"]
    assert [item["quantity"] for item in items] == [20, 7]
    assert saved["order"]["subtotal_cents"] == 20 * 74 + 7 * 99
    stale = {f"items.{first['id']}.quantity": 11}
    with pytest.raises(EditConflict):  # it was removed meanwhile
        _save(plant, order, {f"items.{first['id']}.quantity": 10}, stale)
    with pytest.raises(InvalidInput):  # the last ones
        _save(plant, saved["order"], {}, {f"items.{item['id']}": None for item in items})


def test_removing_an_item_that_somebody_changed_conflicts(plant: Plant) -> None:
    order = plant.order(10, 20)
    item = order["items"][0]
    base = {key: item[key] for key in ("quantity", "unit_price_cents", "description")}
    _save(plant, order, {f"items.{item['id']}.quantity": 10}, {f"items.{item['id']}.quantity": 11})
    with pytest.raises(EditConflict) as refusal:
        _save(plant, order, {f"items.{item['id']}": base}, {f"items.{item['id']}": None}, TOMAS)
    assert refusal.value.data["by"] == "Mara Lindqvist"


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "cleared"},
        {"version": 7},
        {"notes": 7},
        {"notes": "\x00"},
        {"notes": "x" * 4001},
        {"priority": "whenever"},
        {"due_date": "soon"},
        {"items.1": {"quantity": 1}},
        {"items.999.quantity": 1},
        {"items.1.quantity": 0},
        {"items.1.quantity": True},
        {"items.1.product_id": 1},
        {"items.new-1": {"product_id": 999, "quantity": 1}},
        {"items.new-1": {"product_id": 1}},
        {"items.": 1},
        {"items.1": None, "items.1.quantity": 2},
    ],
)
def test_what_cannot_be_edited_is_refused_whole(sqlite_url: str, changes: dict[str, Any]) -> None:
    plant = Plant(sqlite_url)
    try:
        order = plant.order(5, 5)
        with pytest.raises(InvalidInput):
            _save(plant, order, {}, {"contact_name": "kept?", **changes})
        now = plant.store.read(queries.get_order, order["id"])
        assert (now["contact_name"], now["version"]) == ("Jane Roe", 1)
    finally:
        plant.close()


def test_a_version_from_the_future_is_refused(plant: Plant) -> None:
    order = plant.order()
    with pytest.raises(InvalidInput):
        _save(plant, {**order, "version": 99}, {}, {"notes": "a"})


def test_without_a_base_a_stale_version_conflicts(plant: Plant) -> None:
    order = plant.order()
    _save(plant, order, {}, {"notes": "a"})
    with pytest.raises(EditConflict):
        _save(plant, order, {}, {"notes": "b"})


def test_an_invoiced_item_only_grows(plant: Plant) -> None:
    order = plant.order(10)
    plant.store.write(invoices.invoice_order, order_id=order["id"], actor=MARA)
    order = plant.store.read(queries.get_order, order["id"])
    item = order["items"][0]["id"]
    for wrong in ({f"items.{item}.quantity": 9}, {f"items.{item}.unit_price_cents": 1}):
        with pytest.raises(ItemInvoiced):
            _save(plant, order, {}, wrong)
    saved = _save(plant, order, {}, {f"items.{item}.quantity": 12})
    assert saved["order"]["invoiced"] == "partly"


def test_a_cancelled_order_is_kept_as_it_is(plant: Plant) -> None:
    order = plant.order()
    plant.store.write(orders.cancel_order, order_id=order["id"], actor=MARA)
    with pytest.raises(OrderClosed):
        _save(plant, {**order, "version": 2}, {}, {"notes": "a"})


async def _async_saves(url: str, order: dict[str, Any]) -> list[Any]:
    import asyncio

    async with AsyncStore(url) as store:
        saves = (
            store.write(
                editing.edit_order,
                order_id=order["id"],
                base={field: order[field]},
                changes={field: "changed"},
                version=1,
                actor=MARA,
            )
            for field in ("notes", "purchase_order", "delivery_address", "contact_name")
        )
        return await asyncio.gather(*saves, return_exceptions=True)


def test_four_disjoint_editors_on_one_loop(plant: Plant) -> None:
    import asyncio

    results = asyncio.run(_async_saves(plant.url, plant.order()))
    refused(results, CrowdsafeError)
    assert sorted(result["order"]["version"] for result in results) == [2, 3, 4, 5]
